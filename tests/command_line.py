"""The command line, called in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Result]


def process(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", "robustbench_gkl", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


TINY = ("--epochs", 2, "--set", "train_size=256", "--set", "attack.steps=2", "--set", "probe.steps=2")
"""What makes a training run a matter of a second."""


def ranks(*arguments: object, cwd: Path, number: int = 2) -> subprocess.Popen[str]:
    """Start the command line by torchrun, in so many processes."""
    root = Path(__file__).parents[1]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number), "-m", "--"]
    return subprocess.Popen(
        [sys.executable, *launcher, "robustbench_gkl", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
