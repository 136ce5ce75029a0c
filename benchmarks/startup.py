"""What a command costs before its work begins: processor time against that of ``import torch``.

    python benchmarks/startup.py [--repeats 5] [--records 1000]

Each command runs in a process of its own on one thread; the rounds take all commands in turn, ``import torch`` among
them. Printed are medians of user and system seconds, their ratio to ``import torch`` and the most memory, with the
machine. The trained run, its record, the images and the records on the leaderboard are made in a temporary folder; the
training has one step, so that its figure is an upper bound for the time until the first step.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from leaderboard import EXAMPLE, made_up

from robustbench_gkl.core.machine import processor
from robustbench_gkl.results import ResultStore

GKLBENCH = ("-m", "robustbench_gkl")
TRAIN = ("train", "digits-trades", "--dataset", "npz:few.npz", "--epochs", "1", "-q")
EVAL = ("eval", "net", "-q", "--attack")
COMMANDS: dict[str, tuple[str, ...]] = {
    "import torch": ("-c", "import torch"),
    "one image by PGD": (*GKLBENCH, *EVAL, "pgd", "--n", "1", "--overwrite"),
    "already evaluated": (*GKLBENCH, *EVAL, "pgd:steps=2"),
    "eval nope": (*GKLBENCH, "eval", "nope"),
    "eval --attack pgb": (*GKLBENCH, "eval", "net", "--attack", "pgb"),
    "eval --dataset cifra10": (*GKLBENCH, "eval", "net", "--dataset", "cifra10"),
    "train --loss tradse": (*GKLBENCH, *TRAIN, "--loss", "tradse"),
    "train --model wnr-28": (*GKLBENCH, *TRAIN, "--model", "wnr-28"),
    "train, one step": (*GKLBENCH, *TRAIN, "--name", "other", "--overwrite"),
    "leaderboard": (*GKLBENCH, "leaderboard", "--results-dir", "many", "--csv", "board.csv"),
}


def make(folder: Path, records: int) -> None:
    """Write 64 random images, a run that was trained on them and evaluated, and records for the leaderboard."""
    generator = np.random.default_rng(0)
    pixels, labels = generator.integers(0, 256, (64, 8, 8), dtype=np.uint8), np.arange(64) % 10
    np.savez(folder / "few.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    store = ResultStore(folder / "many")
    store.prepare()
    template = next(ResultStore(EXAMPLE).records())
    for number in range(records):
        store.evaluations.save(made_up(template, number, records, generator))
    for arguments in ((*TRAIN, "--name", "net"), COMMANDS["already evaluated"][2:]):
        spend(folder, (*GKLBENCH, *arguments))


def spend(folder: Path, arguments: tuple[str, ...]) -> tuple[float, float]:
    """Return the processor seconds and the most memory, in MB, of python with ``arguments``."""
    here = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(here), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "c")}
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 2), f"{' '.join(arguments)} ended with {process.returncode}"
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--records", type=int, default=1_000)
    arguments = parser.parse_args()
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), arguments.records)
        for _ in range(arguments.repeats):
            for name, command in COMMANDS.items():
                spent[name].append(spend(Path(folder), command))
    print(f"{processor()}, Python {platform.python_version()}, medians of {arguments.repeats}")
    seconds = {name: statistics.median(second for second, _ in found) for name, found in spent.items()}
    for name, found in spent.items():
        ratio, memory = seconds[name] / seconds["import torch"], max(memory for _, memory in found)
        print(f"{name:24} {seconds[name]:6.2f} s  {ratio:5.2f} x import torch  {memory:6.0f} MB")


if __name__ == "__main__":
    main()
