"""One single-threaded process against several ranks of torchrun, on the same evaluation in one run.

    python benchmarks/ranks.py [--ranks 2] [--n 500] [--eps 2/255] [--attack autoattack] [--batch-size 250] [--together]

The model is a robust one on CIFAR-10 from the folder of reference data beside the checkout. Where other work takes
cores away, wall times say little. So the CPU time is printed too, less that of starting the processes, measured by
giving the same command again: on an idle machine the ratio of the attacks' times is close to that of the CPU times.
A busy machine makes CPU time dearer too; ``--together`` runs both at once, so that both pay the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from robustbench_gkl.results import Record, ResultStore

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Timing:
    """One evaluation.

    Attributes:
        record: what came out; its seconds are those of the attacks.
        wall: seconds of the whole command.
        cpu: CPU seconds of all its processes, their start left out.
    """

    record: Record
    wall: float
    cpu: float


def command(*arguments: object, ranks: int = 1) -> float:
    """Run the command line, each process with one thread; return the CPU time of its processes."""
    launcher = ["-m", "robustbench_gkl"]
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "--"]
        launcher.append("robustbench_gkl")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, *launcher, *map(str, arguments)], env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return used.ru_utime + used.ru_stime


def measure(folder: Path, options: argparse.Namespace, *, ranks: int) -> Timing:
    """Evaluate, and return what it took."""
    results = folder / f"results-{ranks}"
    arguments = ["--n", options.n, "--eps", options.eps, "--batch-size", options.batch_size, "--quiet"]
    for attack in options.attack or ["autoattack"]:
        arguments += ["--attack", attack]
    arguments += ["--results-dir", results]
    began = time.perf_counter()
    cpu = command("eval", folder / "runs" / "cnn-a", *arguments, ranks=ranks)
    wall = time.perf_counter() - began
    start = command("eval", folder / "runs" / "cnn-a", *arguments, ranks=ranks)
    (record,) = ResultStore(results).records()
    return Timing(record, wall, cpu - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--eps", default="2/255")
    parser.add_argument("--attack", action="append")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--together", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights, data = SHARED / "models" / "cifar_cnn_a_adv.model", SHARED / "data" / "cifar10-jpeg-12k.npz"
        statistics = ("--mean", ".4914,.4824,.4467", "--std", ".225")
        where = ("--dataset", f"npz:{data}", "--checkpoints-dir", folder / "runs")
        command("import", weights, "--model", "cnn-a", "--name", "cnn-a", *statistics, *where)
        print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        with ThreadPoolExecutor(2 if options.together else 1) as threads:
            one, several = threads.map(lambda ranks: measure(folder, options, ranks=ranks), (1, options.ranks))
        report(one, several, options.ranks, folder)


def report(one: Timing, several: Timing, ranks: int, folder: Path) -> None:
    """Print times, busyness, ratios and how many verdicts differ."""
    for number, timing in ((1, one), (ranks, several)):
        busy = timing.cpu / (timing.record.seconds * number)
        print(
            f"{number} rank(s): {timing.record.seconds:.1f} s attacking, {timing.wall:.1f} s in all, "
            f"{timing.cpu:.1f} s of CPU time, {100 * busy:.0f} % busy, {timing.record.worst_case_acc:.2f} % robust"
        )
    verdicts = [ResultStore(folder / f"results-{n}").verdicts(t.record) for n, t in ((1, one), (ranks, several))]
    differing = int((verdicts[0]["broken_by"].fillna("") != verdicts[1]["broken_by"].fillna("")).sum())
    print(f"{differing} of {len(verdicts[0])} verdicts differ")
    print(
        f"{one.record.seconds / several.record.seconds:.2f} times as fast attacking, "
        f"{one.wall / several.wall:.2f} times in all; by CPU time "
        f"{ranks * one.cpu / several.cpu:.2f} times"
    )


if __name__ == "__main__":
    main()
