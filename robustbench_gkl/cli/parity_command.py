"""``gklbench parity``."""

from __future__ import annotations

from pathlib import Path

import click

from robustbench_gkl.cli import named, options, sections


@sections.command(examples=["gklbench parity gkl --attack apgd-ce --n 100"])
@options.model_argument
@sections.what(
    "--attack",
    "attacks",
    type=named.ATTACK,
    multiple=True,
    metavar="SPEC",
    help="May be repeated; each runs alone (default: autoattack).",
)
@sections.what("--dataset", type=named.DATASET, help="The model's own if not given.")
@sections.what("--n", type=click.IntRange(min=1), default=200, show_default=True, help="Only the first N test images.")
@options.norm
@options.eps
@sections.budget("--batch-size", type=click.IntRange(min=1), default=250, show_default=True, help="Of both.")
@sections.how("--second-seed/--no-second-seed", default=True, help="Also run the published attack with another seed.")
@options.seed
@options.device
@options.data_dir
@options.checkpoints_dir
@options.quiet
def command(
    model: options.ModelArgument,
    attacks: tuple[str, ...],
    dataset: str | None,
    n: int,
    norm: str | None,
    eps: str | None,
    batch_size: int,
    second_seed: bool,
    seed: int | None,
    device: str,
    data_dir: Path,
    checkpoints_dir: Path,
    quiet: bool,
) -> None:
    """Run our attacks and the published ones against MODEL on the same samples, and compare verdicts and times."""
    import torch

    from robustbench_gkl.attacks import parse_attack
    from robustbench_gkl.config.options import evaluation_config, usual_note
    from robustbench_gkl.core.device import resolve_device
    from robustbench_gkl.data.facts import usual_threat
    from robustbench_gkl.evaluation.job import load_subject
    from robustbench_gkl.evaluation.parity import compare_engines
    from robustbench_gkl.report.live import LiveProgress
    from robustbench_gkl.report.parity import print_parity
    from robustbench_gkl.report.terminal import make_console

    source = model.source(checkpoints_dir, dataset=dataset, norm=norm)
    asked = options.given(dataset=dataset, n=n, attacks=attacks or None, seed=seed, batch_size=batch_size)
    given = options.given(norm=norm, eps=eps)
    config = evaluation_config(source.native(), asked=asked, threat=given, usual=usual_threat, what="parity")
    threat = config.threat.threat()
    parsed = [parse_attack(spec) for spec in config.attacks]
    for attack in parsed:
        attack.reference(threat)
    subject, images = load_subject(config, source, device=resolve_device(device), data_dir=data_dir)
    console = make_console(quiet=quiet)
    ball = f"{threat}{usual_note(config, source.native(), threat=given)}"
    console.print(f"{source.name}, {len(images)} images, {ball}, {torch.get_num_threads()} threads", markup=False)
    for attack in parsed:
        with LiveProgress(console) as progress:
            comparison = compare_engines(
                subject.model,
                images.images,
                images.labels,
                threat,
                attack,
                seed=config.seed,
                batch_size=batch_size,
                second_seed=second_seed,
                on_progress=lambda event: progress.update(
                    event.stage, event.done, event.total, seconds_left=event.seconds_left
                ),
            )
        print_parity(comparison, console)
