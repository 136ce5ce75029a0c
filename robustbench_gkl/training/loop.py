"""The training loop.

Every random number is a function of (seed, epoch, sample), and the order of the samples one of (seed, epoch), so a
run that was killed goes on from its last saved step to the same weights.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks import attack_mode
from robustbench_gkl.attacks.objectives import objective_for
from robustbench_gkl.attacks.pgd import ascend, default_step_size
from robustbench_gkl.config import InnerAttackConfig, TrainConfig
from robustbench_gkl.data import ImageSet, load_dataset, to_unit, train_validation_split
from robustbench_gkl.data.augment import augment
from robustbench_gkl.device import environment
from robustbench_gkl.errors import UserError
from robustbench_gkl.files import write_atomically
from robustbench_gkl.losses import Loss, create_loss
from robustbench_gkl.models import create_model
from robustbench_gkl.noise import Noise, permutation
from robustbench_gkl.threat import ThreatModel
from robustbench_gkl.training.checkpoint import Run, RunConfig, now
from robustbench_gkl.training.schedule import learning_rate


@dataclass(frozen=True)
class StepReport:
    """Told after each step: ``step`` of ``steps`` in ``epoch`` of ``epochs`` is done."""

    epoch: int
    epochs: int
    step: int
    steps: int


@dataclass(frozen=True)
class EpochReport:
    """Told after each epoch: its row of ``metrics.csv``."""

    epochs: int
    row: dict[str, float]


class Interrupted(Exception):  # noqa: N818
    """Training stopped as asked; the state is saved and ``--resume`` goes on from it."""


Observer = Callable[[StepReport | EpochReport], None]


def inner_start(images: Tensor, threat: ThreatModel, noise: Noise, *, start: str) -> Tensor:
    """Return where the training attack begins: ``gaussian``, ``uniform`` or ``none`` (the images themselves)."""
    if start == "gaussian":
        nearby = images + 0.001 * noise.normal(*images.shape[1:])
        return threat.project(nearby, images)
    return threat.random_start(images, noise) if start == "uniform" else images


def craft(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    threat: ThreatModel,
    attack: InnerAttackConfig,
    noise: Noise,
) -> Tensor:
    """Return the training images (B, C, H, W) that maximise the loss's inner objective.

    Runs in eval mode and without parameter gradients; the clean logits, where needed, are computed once. Costs
    ``attack.steps`` forward and backward passes, and one forward pass for the clean logits.
    """
    with attack_mode(model):
        clean_logits = torch.empty(0)
        if loss.inner_needs_clean:
            with torch.no_grad():
                clean_logits = model(images).float()
        return ascend(
            model,
            images,
            threat,
            objective=lambda logits: loss.inner(logits, clean_logits, labels),
            start=inner_start(images, threat, noise, start=loss.start if attack.start == "auto" else attack.start),
            steps=attack.steps,
            step_size=float(attack.step_size or default_step_size(threat, attack.steps)),
        )


def train(
    config: TrainConfig,
    run: Run,
    *,
    device: torch.device,
    data_dir: Path = Path("data"),
    resume: bool = False,
    save_every: float = 300.0,
    on_event: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]]:
    """Train a model as ``config`` says into the folder ``run``.

    Args:
        config: the resolved recipe.
        run: must not exist, unless ``resume`` is given.
        device: where to train.
        data_dir: where downloaded data sets are kept.
        resume: go on from the saved state of this run; starts from the beginning if none was saved.
        save_every: seconds between states saved in mid-epoch; one is saved after each epoch anyway.
        on_event: told after each step and each epoch.
        should_stop: asked after each step; True saves the state and raises :class:`Interrupted`.

    Returns:
        The rows of ``metrics.csv``, one an epoch.

    Raises:
        UserError: the run exists, or was started with another configuration; unknown names; broken data.
        Interrupted: ``should_stop`` said so.
    """
    if run.exists() and not resume:
        raise UserError(f"run {run.name} exists in {run.folder}; give --resume to go on, --overwrite or another --name")
    dataset = load_dataset(config.dataset, data_dir=data_dir)
    images = dataset.load("train")
    if config.train_size is not None:
        if config.train_size > len(images):
            raise UserError(
                f"train_size is {config.train_size}, but {config.dataset} has {len(images)} training images"
            )
        images = images.take(torch.arange(config.train_size))
    trainer = _Trainer(config, run, images, device)
    if run.exists():
        if run.config().train != config:
            raise UserError(f"run {run.name} was started with other settings; resume it with the same ones")
        trainer.restore()
    else:
        run.create(_run_config(config, run, images, device))
    trainer.save_every, trainer.on_event, trainer.should_stop = save_every, on_event, should_stop
    return trainer.fit()


def _run_config(config: TrainConfig, run: Run, images: ImageSet, device: torch.device) -> RunConfig:
    return RunConfig(
        name=run.name,
        arch=config.model,
        num_classes=len(images.classes),
        input_shape=images.shape,
        dataset=config.dataset,
        train=config,
        created=now(),
        environment=environment(device),
    )


class _Trainer:
    """A run under way; everything that changes in training is in :meth:`state`."""

    save_every: float = 300.0
    on_event: Observer | None = None

    def __init__(self, config: TrainConfig, run: Run, images: ImageSet, device: torch.device) -> None:
        self.config, self.run, self.device = config, run, device
        self.threat = config.threat.threat()
        training, self.validation = train_validation_split(images, config.validation_fraction)
        self.images, self.labels = training.images.to(device), training.labels.to(device)
        self.batch_size = min(config.batch_size, len(training))
        self.steps = len(training) // self.batch_size
        num_classes = len(images.classes)
        self.loss = create_loss(config.loss, num_classes=num_classes, options=config.loss_options).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = create_model(
                config.model, num_classes=num_classes, input_shape=images.shape, mean=config.mean, std=config.std
            )
        self.model = model.to(device).to(memory_format=torch.channels_last)
        settings = config.optimizer
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
        self.epoch = self.step = 0
        self.totals: dict[str, Tensor] = {}
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        self.should_stop: Callable[[], bool] = lambda: False

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs; random numbers need no state."""
        return {
            "schema_version": 1,
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "totals": self.totals,
            "rows": self.rows,
            "seconds": self.seconds,
        }

    def restore(self) -> None:
        """Go on from the saved state, if there is one."""
        state = self.run.load_state()
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.totals = {key: value.to(self.device) for key, value in state["totals"].items()}
        self.rows, self.seconds = state["rows"], state["seconds"]

    def fit(self) -> list[dict[str, float]]:
        while self.epoch < self.config.epochs:
            self._epoch()
        return self.rows

    def _epoch(self) -> None:
        config, started = self.config, time.perf_counter()
        lr = learning_rate(config.schedule, base=config.optimizer.lr, epoch=self.epoch, epochs=config.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        order = permutation(config.seed, "order", self.epoch, n=len(self.labels)).to(self.device)
        saved = started
        while self.step < self.steps:
            self._step(order[self.step * self.batch_size :][: self.batch_size])
            self.step += 1
            self._tell(StepReport(self.epoch, config.epochs, self.step, self.steps))
            stop = self.should_stop()
            if stop or time.perf_counter() - saved > self.save_every:
                self.seconds += time.perf_counter() - started
                started = saved = time.perf_counter()
                self.run.save_state(self.state())
            if stop:
                raise Interrupted
        self.loss.end_epoch()
        self.seconds += time.perf_counter() - started
        self._finish_epoch(lr)

    def _step(self, rows: Tensor) -> None:
        """Craft adversarial images for the training images at ``rows`` and take one optimiser step."""
        noise = Noise(self.config.seed, rows).at("train", self.epoch)
        labels = self.labels[rows]
        images = augment(to_unit(self.images[rows]), name=self.config.augment, noise=noise.at("augment"))
        images = images.contiguous(memory_format=torch.channels_last)
        adversarial = images
        if self.loss.crafts:
            adversarial = craft(
                self.model,
                images,
                labels,
                loss=self.loss,
                threat=self.threat,
                attack=self.config.attack,
                noise=noise.at("start"),
            )
        torch.manual_seed(_step_seed(self.config.seed, self.epoch, self.step))
        self.model.train()
        nothing = torch.empty(0, device=self.device)
        clean_logits = self.model(images).float() if self.loss.outer_needs_clean else nothing
        adv_logits = self.model(adversarial).float() if self.loss.crafts else nothing
        terms = self.loss.terms(adv_logits, clean_logits, labels)
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.loss.observe(clean_logits.detach(), labels)
        self._add(loss=total, **{f"loss_{key}": term for key, term in terms.items()})
        for name, logits in (("train_clean_acc", clean_logits), ("train_robust_acc", adv_logits)):
            if logits.numel():
                self._add(**{name: 100 * (logits.argmax(1) == labels).float().mean()})

    def _add(self, **values: Tensor) -> None:
        """Add to the epoch's sums, on the device and without waiting for it."""
        for key, value in values.items():
            self.totals[key] = self.totals.get(key, torch.zeros((), device=self.device)) + value.detach()

    def _finish_epoch(self, lr: float) -> None:
        means = {key: round(float(value) / self.steps, 6) for key, value in self.totals.items()}
        clean, robust = self._probe()
        if means["loss"] != means["loss"]:
            raise UserError(
                f"the loss became NaN in epoch {self.epoch + 1}; lower optimizer.lr (now {self.config.optimizer.lr:g}) "
                f"or the loss's weights"
            )
        row = {
            "epoch": self.epoch + 1,
            "lr": round(lr, 8),
            "eps": self.threat.radius,
            **means,
            "val_clean_acc": clean,
            "val_robust_acc": robust,
            "seconds": round(self.seconds, 2),
            "images_per_second": round(self.steps * self.batch_size * (self.epoch + 1) / max(self.seconds, 1e-9), 1),
        }
        best = max(((r["val_robust_acc"], r["val_clean_acc"]) for r in self.rows), default=(-1.0, -1.0))
        self.rows.append(row)
        if (robust, clean) > best:
            self.run.save_weights("best", self.model)
        self.run.save_weights("last", self.model)
        self.epoch, self.step, self.totals = self.epoch + 1, 0, {}
        self.run.save_state(self.state())
        write_atomically(self.run.folder / "metrics.csv", _csv(self.rows))
        self._tell(EpochReport(self.config.epochs, row))

    def _probe(self) -> tuple[float, float]:
        """Return clean and PGD accuracy on the validation images, in percent."""
        steps = self.config.probe.steps
        correct = standing = 0
        with attack_mode(self.model):
            for rows in torch.arange(len(self.validation)).split(max(250, self.batch_size)):  # type: ignore[no-untyped-call]
                images = to_unit(self.validation.images[rows].to(self.device))
                labels = self.validation.labels[rows].to(self.device)
                noise = Noise(self.config.seed, rows.to(self.device)).at("probe")
                adversarial = ascend(
                    self.model,
                    images,
                    self.threat,
                    objective=objective_for("ce", labels),
                    start=self.threat.random_start(images, noise),
                    steps=steps,
                    step_size=float(default_step_size(self.threat, steps)),
                )
                with torch.no_grad():
                    right = self.model(images).argmax(1) == labels
                    stands = right & (self.model(adversarial).argmax(1) == labels)
                correct += int(right.sum())
                standing += int(stands.sum())
        n = len(self.validation)
        return round(100 * correct / n, 3), round(100 * standing / n, 3)

    def _tell(self, event: StepReport | EpochReport) -> None:
        if self.on_event is not None:
            self.on_event(event)


def _step_seed(seed: int, *place: int) -> int:
    """Return what torch's own generator is seeded with before a step, for layers that draw from it (dropout)."""
    return int(Noise(seed, torch.zeros(1, dtype=torch.int64)).at("step", *place).bits()[0]) & 0x7FFFFFFF


def _csv(rows: list[dict[str, float]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[-1]), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
