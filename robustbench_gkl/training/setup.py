"""What a run starts from: data, model and its description. All of it is there before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from robustbench_gkl.config.changes import difference
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.environment import environment
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.hashing import cached_sha256
from robustbench_gkl.core.noise import permutation
from robustbench_gkl.core.plugins import loaded_plugins
from robustbench_gkl.data import ImageSet, load_dataset, train_validation_split
from robustbench_gkl.data.augment import AUGMENTATIONS
from robustbench_gkl.data.synthetic import SyntheticImages, files_of
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.ranks.collectives import ALONE, World
from robustbench_gkl.runs import DataHashes, Draft, Origin, Run, RunConfig, begun, now
from robustbench_gkl.training.sync_batchnorm import synchronize


@dataclass(frozen=True)
class TrainingData:
    """The images of a run; the real ones are held once, and both parts are positions among them.

    Attributes:
        images: the real images.
        training: (n,) int64, which of them are trained on.
        held_out: (m,) int64, the validation images, none of the others; may be empty.
        validation: (l,) int64, those of them that are measured on.
        synthetic: the generated images, or None.
    """

    images: ImageSet
    training: Tensor
    held_out: Tensor
    validation: Tensor
    synthetic: SyntheticImages | None

    def hashes(self, config: TrainConfig) -> DataHashes:
        """Return the hashes that identify the data."""
        return DataHashes(
            train=self.images.sha256_of(self.training),
            validation=self.images.sha256_of(self.held_out) if len(self.held_out) else None,
            synthetic={path: tuple(map(cached_sha256, files_of(path))) for path in config.synthetic.files},
        )


def load_data(config: TrainConfig, data_dir: Path) -> TrainingData:
    """Return the images that a run is trained and selected on; the augmentations are looked up too.

    Raises:
        UserError: fewer than ``train_size`` images; an unknown augmentation; what data set and files raise.
    """
    for name in (config.augment, config.second_view.augment):
        if name is not None:
            AUGMENTATIONS.resolve(name)
    images = load_dataset(config.dataset, data_dir=data_dir).load("train")
    if config.train_size is not None:
        if config.train_size > len(images):
            raise UserError(
                f"train_size is {config.train_size}, but {config.dataset} has {len(images)} training images"
            )
        images = images.take(torch.arange(config.train_size))
    training, held_out = train_validation_split(len(images), config.validation_fraction)
    drawn = permutation(0, "probe", n=len(held_out))[: config.probe.n].sort().values
    return TrainingData(images, training, held_out, held_out[drawn], synthetic_images(config, images))


def batch_notes(config: TrainConfig, count: int) -> tuple[str, ...]:
    """Return what ``batch_size`` makes of ``count`` training images, a line each where it is not what was asked for."""
    if config.batch_size > count:
        return (
            f"batch_size is {config.batch_size}, but there are {count:,} training images: a step takes all of them",
        )
    left = count % config.batch_size
    if not left or config.synthetic.files:
        return ()
    return (f"an epoch leaves out {left:,} of {count:,} training images, each time others: they fill no batch",)


def same_on_all(own: str, leaders: bytes | None, world: World, *, what: str) -> None:
    """Check that this rank has what rank 0 has.

    Args:
        own: what it has, as text.
        leaders: what rank 0 has, encoded.
        world: the ranks.
        what: what to call it, and what to do, in an error.

    Raises:
        UserError: it has something else.
    """
    if leaders != own.encode():
        raise UserError(f"rank {world.rank} has {what}")


def check_startable(run: Run, config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
    """Check that a run that exists is to be replaced, or to go on with the settings that it was started with.

    Its teacher may be elsewhere by now: :func:`opened` looks at the hash.

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
    _check_settings(run, config)


def _check_settings(run: Run, config: TrainConfig) -> None:
    """Check that a run was started with the settings ``config``, but for the name of its teacher."""
    about = run.config()
    started = about.train
    if started is None:
        raise UserError(f"run {run.name} was imported and cannot be resumed")
    teacher = config.teacher if about.teacher is not None and config.teacher is not None else started.teacher
    before = started.model_copy(update={"teacher": teacher})
    if found := difference(before.model_dump(mode="json"), config.model_dump(mode="json")):
        key, then, now_given = found
        raise UserError(
            f"run {run.name} was started with other settings: {key} = {then}, here {now_given}; resume it with the "
            f"same ones, or give another --name"
        )


@contextmanager
def opened(
    run: Run,
    config: TrainConfig,
    images: ImageSet,
    device: torch.device,
    *,
    hashes: DataHashes,
    origins: Mapping[str, Origin],
    overwrite: bool,
    world: World = ALONE,
) -> Iterator[Draft]:
    """Give where to write a run that begins, or one that goes on.

    Raises:
        UserError: it is to go on with other data, or with a model that has changed since; what
            :func:`robustbench_gkl.runs.begun` raises.
    """
    if overwrite or not run.exists():
        about = run_config(config, run, images, device, hashes=hashes, origins=origins, world=world)
        with begun(run, about, overwrite=overwrite) as draft:
            yield draft
        return
    started = run.config()
    before = started.data  # absent in runs of earlier versions
    if before is not None and (changed := hashes.changed_from(before)):
        raise UserError(
            f"run {run.name} was started on other data: changed are {', '.join(changed)}; put back what it was, or "
            f"train anew with --overwrite"
        )
    for role, origin in origins.items():
        then: Origin | None = getattr(started, role)
        if then is None or then.model_sha256 != origin.model_sha256:
            named, now_named = (getattr(one, role) for one in (started.train, config))
            how = "has changed since" if now_named == named else f"is not what {named} was"
            raise UserError(
                f"run {run.name} was started with another {role}: {now_named} {how}; put back what it was, or train "
                f"anew with --overwrite"
            )
    yield Draft(run)


def run_config(
    config: TrainConfig,
    run: Run,
    images: ImageSet,
    device: torch.device,
    *,
    hashes: DataHashes,
    origins: Mapping[str, Origin],
    world: World = ALONE,
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
        data=hashes,
        **origins,
        created=now(),
        environment=found,
        plugins=loaded_plugins(),
    )


def fresh_model(config: TrainConfig, images: ImageSet, device: torch.device, *, world: World = ALONE) -> Classifier:
    """Return the model as it is before the first step, a function of the seed; its memory layout is channels last.

    Raises:
        UserError: unknown architecture, or one whose batch normalisation cannot be set or synchronised as asked for.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = create_model(
            config.model, num_classes=len(images.classes), input_shape=images.shape, mean=config.mean, std=config.std
        )
    if config.batchnorm_momentum is not None:
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        if not norms:
            raise UserError(
                f"batchnorm_momentum has no effect: {config.model} has no batch normalisation; leave it out"
            )
        for module in norms:
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
