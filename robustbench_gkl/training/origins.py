"""The models that a run learns from and starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from robustbench_gkl.config.idle import check_teacher
from robustbench_gkl.config.schema import ModelOptions, TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data import load_dataset
from robustbench_gkl.data.resized import fit_of
from robustbench_gkl.losses import LOSSES
from robustbench_gkl.models import Classifier
from robustbench_gkl.models.external import parse_model
from robustbench_gkl.models.published import load_published
from robustbench_gkl.ranks.collectives import World, agreed, bytes_from_leader
from robustbench_gkl.runs import DataHashes, Origin, Run, look_for
from robustbench_gkl.sources.source import find_source
from robustbench_gkl.sources.subject import check_fits
from robustbench_gkl.training.folding import FoldedModel
from robustbench_gkl.training.setup import same_on_all


def load_teacher(
    config: TrainConfig, run: Run, *, data_dir: Path, device: torch.device
) -> tuple[nn.Module | None, dict[str, Origin]]:
    """Return the teacher of ``run``, on ``device``, with what ``config.json`` says of it; None and {} for no teacher.

    Raises:
        UserError: the loss reads a teacher, and there is none, or there is one that it does not read, or that is the
            run itself; what :func:`_load` raises.
    """
    check_teacher(config, taught=LOSSES.resolve(config.loss)[0].taught)
    if config.teacher is None:
        return None, {}
    if parse_model(config.teacher) is None:
        found = look_for(config.teacher, checkpoints_dir=run.folder.parent)
        if found.folder.resolve() == run.folder.resolve():
            raise UserError(f"run {run.name} would replace its own teacher; give it another --name")
    model, origin = _load(config.teacher, config, run, data_dir=data_dir, device=device)
    return as_teacher(model), {"teacher": origin}


def as_teacher(model: Classifier) -> nn.Module:
    """Return ``model`` as a step asks it: frozen, channels last, with batch normalisation folded where possible."""
    model = model.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    folded = FoldedModel(model)
    folded.refresh()
    return folded.network


def same_inputs(hashes: DataHashes, origins: Mapping[str, Origin], world: World) -> None:
    """Check that all ranks have the same images and, if any, the same teacher; they have to call this together.

    Raises:
        UserError: one has others than rank 0.
    """
    if world.size == 1:
        return
    held = {"other images than": hashes.model_dump_json()}
    if "teacher" in origins:
        held["another teacher than"] = origins["teacher"].model_sha256
    for what, own in held.items():
        leaders = bytes_from_leader(own.encode(), world)
        with agreed(world):
            same_on_all(own, leaders, world, what=f"{what} rank 0; give all machines the same files")


def load_init(config: TrainConfig, run: Run, model: Classifier, *, data_dir: Path) -> dict[str, Origin]:
    """Give ``model`` the weights that ``config.init`` names, in place; return what ``config.json`` says of them.

    Raises:
        UserError: other tensors, or another normalisation in front of them; what :func:`_load` raises.
    """
    if config.init is None:
        return {}
    init, origin = _load(config.init, config, run, data_dir=data_dir, device=next(model.parameters()).device)
    try:
        load_published(model, init.state_dict())
    except UserError as error:
        raise UserError(f"init = {config.init}: {str(error).replace('the checkpoint', 'it', 1)}") from None
    probe = next(model.parameters()).new_tensor([0, 1]).reshape(2, 1, 1, 1).expand(2, model.input_shape[0], 1, 1)
    if not torch.equal(model.normalize(probe), init.normalize(probe)):
        ours, theirs = (_constants(one) for one in (model, init))
        raise UserError(
            f"init = {config.init} normalises images by {theirs}, and the run by {ours}; give the same with --set mean "
            f"and --set std"
        )
    return {"init": origin}


def _load(
    argument: str, config: TrainConfig, run: Run, *, data_dir: Path, device: torch.device
) -> tuple[Classifier, Origin]:
    """Return the model that a MODEL argument names, in eval mode, and what ``config.json`` says of it.

    A run is looked for beside ``run``, and its preferred weights are taken.

    Raises:
        UserError: no such model, or one for images of another size or other classes.
    """
    dataset = load_dataset(config.dataset, data_dir=data_dir)
    source = find_source(argument, checkpoints_dir=run.folder.parent, options=ModelOptions())
    fitted = source.fitted(dataset)
    if fit_of(fitted) != fit_of(dataset):
        shown = "x".join(map(str, fitted.shape))
        raise UserError(
            f"{source.label} resizes its images to {shown}, but teachers and initial weights see those of the run as "
            f"they are; choose a model for {'x'.join(map(str, dataset.shape))}"
        )
    subject = source.load(dataset, device=device)
    check_fits(subject.model, source.label, shape=dataset.shape, classes=len(dataset.classes), dataset=config.dataset)
    return subject.model, Origin(name=source.name, model_sha256=subject.model_sha256, source=subject.source)


def _constants(model: Classifier) -> str:
    found = model.normalize.constants()
    if found is None:
        return "nothing"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in found)
    return f"mean {mean} and std {std}"
