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


def process(*arguments: object, cwd: Path, threads: int = 1) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, with so many of torch's threads."""
    return _python("-m", "robustbench_gkl", *arguments, cwd=cwd, threads=threads)


def torchrun(*arguments: object, cwd: Path, ranks: int = 2) -> subprocess.Popen[str]:
    """Start ``python ARGUMENTS`` in several processes that work together."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks)
    return _python(*launcher, *arguments, cwd=cwd)


def ranks(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start the command line by torchrun, in two processes; ``--`` keeps it from reading ``--n``."""
    return torchrun("-m", "--", "robustbench_gkl", *arguments, cwd=cwd)


def _python(*arguments: object, cwd: Path, threads: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


TINY = ("--epochs", 2, "--set", "train_size=256", "--set", "attack.steps=2", "--set", "probe.steps=2")
"""What makes a training run a matter of a second."""
