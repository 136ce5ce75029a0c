"""``gklbench check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_gkl.cli import options

if TYPE_CHECKING:
    from robustbench_gkl.config.names import WeightsName


@click.command()
@click.argument("model")
@click.option("--dataset", help="Check on this data set; the run's own if not given.")
@click.option("--split", type=click.Choice(["test", "train"]), help="Which images (default: test).")
@click.option("--n", type=int, help="The first N images (default: 128 at random).")
@options.norm
@options.eps
@click.option("--weights", type=click.Choice(["best", "last", "average"]), help="Which of the run's weights.")
@options.seed
@options.device
@options.data_dir
@options.checkpoints_dir
@options.quiet
def command(
    model: str,
    dataset: str | None,
    split: str | None,
    n: int | None,
    norm: str | None,
    eps: str | None,
    weights: WeightsName | None,
    seed: int | None,
    device: str,
    data_dir: Path,
    checkpoints_dir: Path,
    quiet: bool,
) -> None:
    """Say whether MODEL's robustness can be measured and believed.

    The checks of gklbench eval, after a short PGD instead of long attacks; nothing is recorded. Exit code 1 if one
    of them is FAIL.
    """
    from robustbench_gkl.config.options import evaluation_config
    from robustbench_gkl.core.device import resolve_device
    from robustbench_gkl.evaluation.checks.run import check_run
    from robustbench_gkl.report.checks import checks_table
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.runs import find_run

    run = find_run(model, checkpoints_dir=checkpoints_dir)
    source = run.config()
    config = evaluation_config(
        source.dataset,
        source.train,
        asked={"attacks": ("pgd:steps=20",)} | options.given(dataset=dataset, split=split, n=n, seed=seed),
        threat=options.given(norm=norm, eps=eps),
        what="check",
    )
    on = resolve_device(device)
    console = make_console(quiet=quiet)
    console.print(f"checking {run.name} on {config.dataset}, {config.threat.threat()}, on {on}", markup=False)
    checks = check_run(config, run, weights=weights, device=on, data_dir=data_dir)
    console.print(checks_table(checks))
    failed = [check.name for check in checks if check.verdict == "FAIL"]
    if failed:
        click.echo(f"Error: {run.name} fails {', '.join(failed)}", err=True)
        click.get_current_context().exit(1)
