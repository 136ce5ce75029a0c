"""``gklbench import``."""

from __future__ import annotations

from pathlib import Path

import click

from robustbench_gkl.cli import options
from robustbench_gkl.errors import UserError


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The architecture, such as wrn-34-10.")
@click.option("--dataset", required=True, help="Gives the classes and the image size.")
@click.option("--name", required=True, help="The name of the run that is made.")
@click.option("--mean", help="Normalisation inside the model: one value, or one per channel, with commas.")
@click.option("--std", help="Likewise.")
@click.option("--overwrite", is_flag=True, help="Replace a run of this name.")
@options.data_dir
@options.checkpoints_dir
@options.quiet
def command(
    file: Path,
    model: str,
    dataset: str,
    name: str,
    mean: str | None,
    std: str | None,
    overwrite: bool,
    data_dir: Path,
    checkpoints_dir: Path,
    quiet: bool,
) -> None:
    """Turn the published checkpoint FILE (.pt, .pth, .safetensors) into a run that can be evaluated."""
    import torch

    from robustbench_gkl.data import load_dataset
    from robustbench_gkl.device import environment
    from robustbench_gkl.files import file_sha256
    from robustbench_gkl.models import create_model
    from robustbench_gkl.models.published import load_published, read_checkpoint
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.runs import Run, RunConfig, now
    from robustbench_gkl.settings import check_name

    run = Run(checkpoints_dir / check_name(name))
    if run.exists() and not overwrite:
        raise UserError(f"run {name} exists in {run.folder}; give --overwrite or another --name")
    source = load_dataset(dataset, data_dir=data_dir)
    classifier = create_model(
        model,
        num_classes=len(source.classes),
        input_shape=source.shape,
        mean=_numbers(mean, "--mean"),
        std=_numbers(std, "--std"),
    )
    load_published(classifier, read_checkpoint(file))
    if overwrite:
        run.delete()
    run.create(
        RunConfig(
            name=name,
            arch=model,
            num_classes=classifier.num_classes,
            input_shape=classifier.input_shape,
            dataset=dataset,
            source={"file": file.name, "sha256": file_sha256(file)},
            created=now(),
            environment=environment(torch.device("cpu")),
        )
    )
    run.save_weights("last", classifier)
    count = sum(parameter.numel() for parameter in classifier.parameters())
    make_console(quiet=quiet).print(f"imported {file} as run {name}: {model}, {count:,} parameters", markup=False)


def _numbers(text: str | None, flag: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"{flag} needs numbers with commas between them, such as .4914,.48,.4465; got {text!r}"
        ) from None
