"""The names that ``import robustbench_gkl`` offers."""

from __future__ import annotations

import subprocess
import sys

import robustbench_gkl as gkl

DESIGNED = {"evaluate", "certify", "train", "load_model", "create_model", "load_dataset", "leaderboard", "ThreatModel"}


def test_dir_shows_what_the_design_names() -> None:
    assert {"losses", "attacks", "models", *DESIGNED} <= set(dir(gkl))


def test_each_name_of_dir_is_there_and_documented() -> None:
    for name in dir(gkl):
        assert getattr(gkl, name).__doc__ or name == "__version__"


def test_looking_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import robustbench_gkl; print(*dir(robustbench_gkl))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) >= DESIGNED
