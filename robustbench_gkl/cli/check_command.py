"""``gklbench check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_gkl.cli import named, options, sections

if TYPE_CHECKING:
    pass


@sections.command(examples=["gklbench check gkl", "gklbench check net.py:build --dataset digits --eps 0.1"])
@options.model_argument
@sections.what("--dataset", type=named.DATASET, help="Check on this data set; the model's own if not given.")
@sections.what("--split", type=click.Choice(["test", "train"]), help="Which images (default: test).")
@sections.what("--n", type=int, help="The first N images (default: 128 at random).")
@options.norm
@options.eps
@options.seed
@options.device
@options.data_dir
@options.checkpoints_dir
@options.quiet
def command(
    model: options.ModelArgument,
    dataset: str | None,
    split: str | None,
    n: int | None,
    norm: str | None,
    eps: str | None,
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
    from robustbench_gkl.config.options import evaluation_config, usual_note
    from robustbench_gkl.core.device import resolve_device
    from robustbench_gkl.data.facts import usual_threat
    from robustbench_gkl.evaluation.checks.run import check_source
    from robustbench_gkl.report.checks import checks_table
    from robustbench_gkl.report.terminal import make_console

    source = model.source(checkpoints_dir, dataset=dataset, norm=norm)
    asked = {"attacks": ("pgd:steps=20",)} | options.given(dataset=dataset, split=split, n=n, seed=seed)
    threat = options.given(norm=norm, eps=eps)
    config = evaluation_config(source.native(), asked=asked, threat=threat, usual=usual_threat, what="check")
    on = resolve_device(device)
    console = make_console(quiet=quiet)
    where = f"{config.dataset}, {config.threat.threat()}{usual_note(config, source.native(), threat=threat)}"
    console.print(f"checking {source.name} on {where}, on {on}", markup=False)
    checks = check_source(config, source, device=on, data_dir=data_dir)
    console.print(checks_table(checks))
    failed = [check.name for check in checks if check.verdict == "FAIL"]
    if failed:
        click.echo(f"Error: {source.name} fails {', '.join(failed)}", err=True)
        click.get_current_context().exit(1)
