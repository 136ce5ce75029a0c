"""How long a suite of 500 cells, 495 of them done, takes to start the remaining five.

    python benchmarks/suite_start.py

The runs and records are made up for the purpose in a temporary folder; the command is the real one, in a process of its
own. Printed are the seconds from its start to the line that says that the fifth cell has begun, the first time and
again, and the processor time of the parent until then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from robustbench_gkl.attacks import canonical_specs
from robustbench_gkl.results import Record, ResultStore
from robustbench_gkl.runs import Run, RunConfig
from robustbench_gkl.suite import EvalCell, Suite, TrainCell, read_suite

SUITE = """
[train]
recipe = "digits-trades"
seed = [{seeds}]
name = "run{{seed}}"
[[eval]]
attacks = ["pgd:steps=20"]
n = 8
"""


def make_run(folder: Path, cell: TrainCell) -> str:
    """Write the files of a run that ended and return the hash of its weights."""
    run = folder / "checkpoints" / cell.run
    run.mkdir(parents=True)
    config = RunConfig(
        name=cell.run,
        arch=cell.config.model,
        num_classes=10,
        input_shape=(1, 8, 8),
        dataset="digits",
        train=cell.config,
        created="2026-01-01T00:00:00+00:00",
        environment={},
    )
    (run / "config.json").write_text(config.model_dump_json())
    rows = [f"{epoch},{epoch}" for epoch in range(1, cell.config.epochs + 1)]
    (run / "metrics.csv").write_text("\n".join(["epoch,seconds", *rows]) + "\n")
    save_file({"weight": np.full((100, 100), cell.config.seed, dtype=np.float32)}, run / "last.safetensors")
    return Run(run).weights_sha256()


def make_record(folder: Path, cell: EvalCell, weights: str) -> None:
    """Write the record of a cell, of the size of a real one."""
    shipped = sorted((Path(__file__).parents[1] / "results" / "examples" / "digits" / "records").glob("*.json"))
    record = Record.read(shipped[0].read_bytes(), what=str(shipped[0]))
    attacks = canonical_specs(cell.config.attacks)
    changes = {
        "schema_version": 2,
        "id": f"{cell.run}-{weights[:12]}",
        "model": record.model.model_copy(update={"name": cell.run, "weights_sha256": weights}),
        "config": cell.config.model_copy(update={"attacks": attacks}),
    }
    ResultStore(folder / "results").evaluations.save(record.model_copy(update=changes).sealed())


def make(folder: Path) -> Suite:
    """Write 250 runs and 245 records."""
    path = folder / "suite.toml"
    path.write_text(SUITE.format(seeds=", ".join(map(str, range(250)))))
    suite = read_suite(path)
    (folder / "results" / "records").mkdir(parents=True)
    for number, cell in enumerate(suite.trainings):
        weights = make_run(folder, cell)
        if number % 50 != 7:
            make_record(folder, suite.evaluations[number], weights)
    return suite


def start(folder: Path) -> tuple[float, float, int]:
    """Return the seconds until five cells have begun, the parent's processor time, and how many cells began."""
    command = [sys.executable, "-u", "-m", "robustbench_gkl", "suite", "suite.toml", "--jobs", "5"]
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        count = 0
        while count < 5 and (line := process.stdout.readline()):
            count += "begin eval" in line
        seconds = time.perf_counter() - began
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        process.send_signal(signal.SIGTERM)
        count += sum("begin eval" in line for line in process.stdout)
    return seconds, cpu, count


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        suite = make(Path(name))
        for time_ in ("first", "again"):
            seconds, cpu, count = start(Path(name))
            print(
                f"{len(suite.cells)} cells, {count} to do: begun after {seconds:.2f} s, {cpu:.2f} s of processor time "
                f"({time_})"
            )


if __name__ == "__main__":
    main()
