"""``gklbench import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_gkl.cli import named, options, sections
from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_gkl.models import Classifier
    from robustbench_gkl.runs import Run, RunConfig


@sections.command(
    examples=["gklbench import published.pt --model wrn-34-10 --dataset cifar10 --name theirs --mean 0.5 --std 0.5"]
)
@click.argument("file", type=options.PATH)
@sections.what("--model", type=named.ARCHITECTURE, required=True, help="The architecture, such as wrn-34-10.")
@sections.what("--dataset", type=named.DATASET, required=True, help="Gives the classes and the image size.")
@sections.output("--name", required=True, help="The name of the run that is made.")
@sections.model("--mean", help="Normalisation inside the model: one value, or one per channel, with commas.")
@sections.model("--std", help="Likewise.")
@sections.output("--overwrite", is_flag=True, help="Replace a run of this name.")
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
    from robustbench_gkl.config.names import check_name
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.runs import Run, begun, writing

    run = Run(checkpoints_dir / check_name(name))
    with writing(run):
        if run.exists() and not overwrite:
            raise UserError(f"run {name} exists in {run.folder}; give --overwrite or another --name")
        classifier, config = _read(file, run, model, dataset, mean=mean, std=std, data_dir=data_dir)
        with begun(run, config, overwrite=overwrite) as draft:
            draft.run.save_weights("last", classifier)
            draft.keep()
    count = sum(parameter.numel() for parameter in classifier.parameters())
    make_console(quiet=quiet).print(f"imported {file} as run {name}: {model}, {count:,} parameters", markup=False)


def _read(
    file: Path, run: Run, model: str, dataset: str, *, mean: str | None, std: str | None, data_dir: Path
) -> tuple[Classifier, RunConfig]:
    """Return the model with the weights in ``file``, and what is to be said of it."""
    import torch

    from robustbench_gkl.core.environment import environment
    from robustbench_gkl.core.files import file_sha256
    from robustbench_gkl.core.plugins import loaded_plugins
    from robustbench_gkl.data import load_dataset
    from robustbench_gkl.models import create_model
    from robustbench_gkl.models.published import load_published, read_checkpoint
    from robustbench_gkl.runs import RunConfig, now

    source = load_dataset(dataset, data_dir=data_dir)
    classifier = create_model(
        model,
        num_classes=len(source.classes),
        input_shape=source.shape,
        mean=_numbers(mean, "--mean"),
        std=_numbers(std, "--std"),
    )
    load_published(classifier, read_checkpoint(file))
    return classifier, RunConfig(
        name=run.name,
        arch=model,
        num_classes=classifier.num_classes,
        input_shape=classifier.input_shape,
        dataset=dataset,
        source={"file": file.name, "sha256": file_sha256(file)},
        created=now(),
        environment=environment(torch.device("cpu")),
        plugins=loaded_plugins(),
    )


def _numbers(text: str | None, flag: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"{flag} needs numbers with commas between them, such as .4914,.48,.4465; got {text!r}"
        ) from None
