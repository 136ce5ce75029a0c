"""Check a wheel as a stranger would use it: installed into a clean environment, away from the checkout.

The tutorial is run, but for what it needs a checkout for.

python .ci/check_wheel.py WHEEL [--share FOLDER]

--share takes torch and the like from the site-packages in FOLDER, where there is no time to install them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from documents import blocks  # noqa: E402

DEMO = ["gklbench", "suite", "digits", "--set", "train.epochs=8", "--set", "eval.n=64"]
"""What ``make demo`` runs, shorter; the wheel has no Makefile."""
OF_THE_CHECKOUT = ("git", "cd", "make", ".")


def install(folder: Path, wheel: Path, share: Path | None) -> Path:
    """Make an environment with the wheel; return the folder of its programs."""
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    options = []
    if share is not None:
        (site,) = (folder / "lib").glob("python*/site-packages")
        (site / "zz-shared.pth").write_text(f"{share}\n")
        options = ["--no-deps"]
    subprocess.run([programs / "pip", "install", "--quiet", *options, f"{wheel}[report]"], check=True)
    return programs


def main() -> None:
    """Install, run, and print each command with its time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--share", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        away = Path(folder) / "away"
        away.mkdir()
        programs = install(Path(folder) / "environment", given.wheel.resolve(), given.share)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

        def call(*command: str) -> str:
            started = time.monotonic()
            done = subprocess.run(command, cwd=away, env=environment, stdout=subprocess.PIPE, text=True, check=False)
            print(f"{time.monotonic() - started:6.1f} s  {' '.join(command)}", flush=True)
            # A network trained without an adversary may fail its check-up, which is exit code 1.
            if done.returncode not in ((0, 1) if command[1:2] == ("check",) else (0,)):
                sys.exit(f"{' '.join(command)} ended with {done.returncode}")
            return done.stdout

        where = Path(call("python", "-c", "import robustbench_gkl; print(robustbench_gkl.__file__)").strip())
        if not where.is_relative_to(folder):
            sys.exit(f"the package came from {where}, not from the wheel")
        call(*DEMO)
        for block in blocks(ROOT / "docs" / "tutorial.md"):
            if block.file:
                (away / block.file).write_text(block.text, encoding="utf-8")
            for command in block.commands if block.language == "bash" else ():
                if command[0] not in OF_THE_CHECKOUT:
                    call(*command)
        if not (away / "report" / "index.html").exists():
            sys.exit("the tutorial wrote no report")


if __name__ == "__main__":
    main()
