"""``gklbench corruptions``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_gkl.cli import options, sections

if TYPE_CHECKING:
    pass


@sections.command(examples=["gklbench corruptions gkl --data CIFAR-10-C --n 1000"])
@options.model_argument
@sections.what("--data", type=options.PATH, required=True, help="The folder of CORRUPTION.npy files.")
@sections.what("--n", type=int, help="Only the first N images of each severity.")
@sections.output("--name", help="The model's name on the board; a run's own if not given.")
@sections.budget("--batch-size", type=click.IntRange(min=1), default=250, show_default=True, help="Images at a time.")
@sections.output("--overwrite", is_flag=True, help="Measure again even if this evaluation was done before.")
@options.device
@options.checkpoints_dir
@options.results_dir
@options.quiet
def command(
    model: options.ModelArgument,
    data: Path,
    n: int | None,
    name: str | None,
    batch_size: int,
    overwrite: bool,
    device: str,
    checkpoints_dir: Path,
    results_dir: Path,
    quiet: bool,
) -> None:
    """Measure MODEL's accuracy on corrupted images, in the layout of CIFAR-10-C and CIFAR-100-C.

    The folder holds labels.npy and one .npy for each corruption, five severities one after the other.
    """
    from robustbench_gkl.core.device import resolve_device
    from robustbench_gkl.data.corruptions import CorruptionFolder
    from robustbench_gkl.evaluation.corruptions import evaluate_corruptions
    from robustbench_gkl.report.corruptions import corruption_table
    from robustbench_gkl.report.live import LiveProgress
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.results import ResultStore

    source = model.source(checkpoints_dir)
    on = resolve_device(device)
    console = make_console(quiet=quiet)
    console.print(f"evaluating {name or source.name} on the corruptions in {data}, on {on}", markup=False)
    started = time.monotonic()
    with LiveProgress(console) as progress:
        record, reused = evaluate_corruptions(
            source,
            CorruptionFolder(data.expanduser()),
            ResultStore(results_dir),
            n=n,
            name=name,
            batch_size=batch_size,
            device=on,
            overwrite=overwrite,
            on_progress=lambda name, done, total: progress.update(
                name, done, total, seconds_left=(time.monotonic() - started) * (total - done) / done
            ),
        )
    if reused:
        console.print(f"already evaluated on {record.created[:16]}; nothing was run (--overwrite to run again)")
    console.print(corruption_table(record))
    low, high = record.interval()
    interval = f"95 % interval {low:.2f} to {high:.2f}"
    figure = f"{record.mean_corruption_acc:.2f} % over {len(record.counted)} corruptions"
    console.print(f"mean corruption accuracy {figure} ({interval}, {record.data.n} images each)")
    console.print(f"record {record.id}, {record.seconds:.1f} s", markup=False)
