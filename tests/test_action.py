"""The GitHub action, as the runner calls it: its script, with the inputs as variables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NET = "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"


def smoke(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    (folder / "net.py").write_text(NET)
    files = {key: str(folder / key.lower()) for key in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {"MODEL": "net.py:build", "DATASET": "digits", "EPS": "0.1", "ATTACKS": "fgsm pgd:steps=2", "N": "8"}
    environment = os.environ | {"PATH": programs, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | files
    script = ["bash", str(ROOT / ".ci" / "smoke")]
    environment |= given | {"FAIL_UNDER": "0", "ARGS": "--name mine"} | inputs
    return subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_model_below_the_floor_fails_the_job_and_its_row_is_shown(tmp_path: Path) -> None:
    done = smoke(tmp_path, FAIL_UNDER="100")
    assert done.returncode == 1, done.stderr
    assert "mine" in (tmp_path / "github_step_summary").read_text()
    (accuracy,) = re.findall(r"^robust-accuracy=([\d.]+)$", (tmp_path / "github_output").read_text(), re.MULTILINE)
    assert 0 <= float(accuracy) < 100


def test_bad_input_is_the_job_s_error(tmp_path: Path) -> None:
    done = smoke(tmp_path, MODEL="net.py:absent")
    assert done.returncode == 2
    assert "absent" in done.stderr


def test_every_input_reaches_the_script() -> None:
    action = (ROOT / "action.yml").read_text(encoding="utf-8")
    inputs = set(re.findall(r"^  ([\w-]+):\n    description", action.partition("outputs:")[0], re.MULTILINE))
    assert len(inputs) >= 8
    assert inputs == set(re.findall(r"\$\{\{ inputs\.([\w-]+) \}\}", action))
    page = (ROOT / "docs" / "howto" / "ci.md").read_text(encoding="utf-8")
    assert inputs <= set(re.findall(r"`([\w-]+)`", page))
