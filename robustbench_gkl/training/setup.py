"""What a run starts from: data, model and its description."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.environment import environment
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.plugins import loaded_plugins
from robustbench_gkl.data import ImageSet, load_dataset
from robustbench_gkl.data.synthetic import SyntheticImages
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.ranks.collectives import ALONE, World
from robustbench_gkl.runs import Run, RunConfig, now
from robustbench_gkl.training.sync_batchnorm import synchronize


def training_images(config: TrainConfig, data_dir: Path) -> ImageSet:
    """Return the real images that are trained and selected on.

    Raises:
        UserError: fewer than ``train_size``; what the data set raises.
    """
    images = load_dataset(config.dataset, data_dir=data_dir).load("train")
    if config.train_size is None:
        return images
    if config.train_size > len(images):
        raise UserError(f"train_size is {config.train_size}, but {config.dataset} has {len(images)} training images")
    return images.take(torch.arange(config.train_size))


def check_startable(run: Run, config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
    """Check that a run that exists is to be replaced, or to go on with the settings that it was started with.

    Raises:
        UserError: it is not, or both; a plugin that it was started with is gone or has changed.
    """
    if resume and overwrite:
        raise UserError("give resume or overwrite, not both")
    if resume and run.exists():
        run.load_plugins(exact=True)
    if overwrite or not run.exists():
        return
    if not resume:
        raise UserError(f"run {run.name} exists in {run.folder}; give --resume to go on, --overwrite or another --name")
    if run.config().train != config:
        raise UserError(f"run {run.name} was started with other settings; resume it with the same ones")


def run_config(
    config: TrainConfig, run: Run, images: ImageSet, device: torch.device, *, world: World = ALONE
) -> RunConfig:
    """Return what ``config.json`` says."""
    found = environment(device)
    if world.size > 1:
        found["ranks"] = str(world.size)
    return RunConfig(
        name=run.name,
        arch=config.model,
        num_classes=len(images.classes),
        input_shape=images.shape,
        dataset=config.dataset,
        train=config,
        created=now(),
        environment=found,
        plugins=loaded_plugins(),
    )


def fresh_model(config: TrainConfig, images: ImageSet, device: torch.device, *, world: World = ALONE) -> Classifier:
    """Return the model as it is before the first step, a function of the seed; its memory layout is channels last.

    Raises:
        UserError: unknown architecture, or one whose batch normalisation cannot be synchronised as asked for.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = create_model(
            config.model, num_classes=len(images.classes), input_shape=images.shape, mean=config.mean, std=config.std
        )
    if config.batchnorm_momentum is not None:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = config.batchnorm_momentum
    if config.sync_batchnorm and world.size > 1:
        synchronize(model, world)
    return model.to(device).to(memory_format=torch.channels_last)


def synthetic_images(config: TrainConfig, images: ImageSet) -> SyntheticImages | None:
    """Return the generated images, or None if there are to be none.

    Raises:
        UserError: a share without files or files without a share; what reading them raises.
    """
    settings = config.synthetic
    if bool(settings.files) != bool(settings.fraction):
        raise UserError(
            f"synthetic.fraction is {settings.fraction:g} and there are {len(settings.files)} synthetic.files; give "
            f"the generated images with --synthetic FILE.npz, or set synthetic.fraction to 0"
        )
    if not settings.files:
        return None
    return SyntheticImages(settings.files, shape=images.shape, num_classes=len(images.classes))
