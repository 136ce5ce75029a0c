"""The training loop.

Every random number is a function of (seed, epoch, sample), and the order of the samples one of (seed, epoch), so a
run that was killed goes on from its last saved step to the same weights. Where several processes train together, each
takes its rows of every batch, all hold the same state, and rank 0 writes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.device import TensorCores
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.data import ImageSet, train_validation_split
from robustbench_gkl.losses import create_loss
from robustbench_gkl.models import Classifier
from robustbench_gkl.ranks.collectives import ALONE, World, agreed, bytes_from_leader, copy_from_leader, on_any_rank
from robustbench_gkl.runs import Draft, Run, begun, writing
from robustbench_gkl.training.averaging import WeightAverage
from robustbench_gkl.training.batches import Batch, Batches
from robustbench_gkl.training.events import EpochReport, Interrupted, Observer, StepReport
from robustbench_gkl.training.metrics import Means, csv_text
from robustbench_gkl.training.optimizer import build_optimizer, set_rates
from robustbench_gkl.training.schedule import Place, epoch_threat, learning_rate, momentum
from robustbench_gkl.training.setup import (
    check_startable,
    fresh_model,
    run_config,
    synthetic_images,
    training_images,
)
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.validation import overfitting, validate
from robustbench_gkl.training.views import make_views


def train(
    config: TrainConfig,
    run: Run,
    *,
    device: torch.device,
    data_dir: Path = Path("data"),
    resume: bool = False,
    overwrite: bool = False,
    save_every: float = 300.0,
    compiled: bool = False,
    world: World = ALONE,
    on_event: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]]:
    """Train a model as ``config`` says into the folder ``run``.

    The processes of a ``world`` of several call this together, each on its own device, and share every batch. Rank 0
    alone writes, and ``run`` may be a folder of its own machine. The weights are those of a single process up to
    rounding, unless layers tell how a batch is shared: batch normalisation without ``sync_batchnorm``, and dropout.
    The saved state does not, so that a run can go on in another number of processes.

    Args:
        config: the resolved recipe.
        run: must not exist, unless ``resume`` or ``overwrite`` is given. No other process may write it meanwhile.
        device: where to train.
        data_dir: where downloaded data sets are kept.
        resume: go on from the saved state of this run; starts from the beginning if none was saved.
        overwrite: replace the run that is there; it stays as it is until the new one has saved its first state.
        save_every: seconds between states saved in mid-epoch; one is saved after each epoch anyway.
        compiled: compile the networks with torch.compile, which changes results in the last digits.
        world: the processes that train together, inside :func:`robustbench_gkl.ranks.collectives.joined`.
        on_event: told after each step and each epoch.
        should_stop: asked after each step; True on any rank saves the state and raises :class:`Interrupted` on all.

    Returns:
        The rows of ``metrics.csv``, one an epoch.

    Raises:
        UserError: the run exists, is being written by another process, or was started with another configuration;
            unknown names; broken data; processes that were given different configurations, or are too many for a
            batch.
        Interrupted: ``should_stop`` said so.
    """
    settings = config.model_dump_json().encode()
    leaders = bytes_from_leader(settings, world)
    with ExitStack() as held:
        with agreed(world):
            if leaders != settings:
                raise UserError(f"rank {world.rank} has other settings than rank 0; give all ranks the same options")
            if world.leads:
                held.enter_context(writing(run))
                check_startable(run, config, resume=resume, overwrite=overwrite)
            images = training_images(config, data_dir)
            trainer = _Trainer(config, Draft(run), images, device, compiled=compiled, world=world)
            if world.leads and (overwrite or not run.exists()):
                about = run_config(config, run, images, device, world=world)
                trainer.draft = held.enter_context(begun(run, about, overwrite=overwrite))
        trainer.restore(bytes_from_leader(trainer.draft.run.state_bytes() if world.leads else None, world))
        trainer.save_every, trainer.on_event, trainer.should_stop = save_every, on_event, should_stop
        with TensorCores(allowed=config.precision != "float32"):
            return trainer.fit()


class _Trainer:
    """A run under way; everything that changes in training is in :meth:`state`."""

    save_every: float = 300.0
    on_event: Observer | None = None

    def __init__(
        self, config: TrainConfig, draft: Draft, images: ImageSet, device: torch.device, *, compiled: bool, world: World
    ) -> None:
        self.config, self.draft, self.device, self.world = config, draft, device, world
        self.threat = config.threat.threat()
        training, self.validation = train_validation_split(images, config.validation_fraction)
        self.batches = Batches(
            training,
            batch_size=config.batch_size,
            seed=config.seed,
            device=device,
            synthetic=synthetic_images(config, images),
            fraction=config.synthetic.fraction,
        )
        if self.batches.batch_size < 2 * world.size:
            raise UserError(
                f"a batch of {self.batches.batch_size} images gives some of {world.size} ranks less than the two that "
                f"each needs; start fewer, or set a larger batch_size"
            )
        self.steps = self.batches.steps
        self.loss = create_loss(
            config.loss,
            num_classes=len(images.classes),
            options=config.loss_options,
            label_smoothing=config.label_smoothing,
        ).to(device)
        self.model = fresh_model(config, images, device, world=world)
        self.optimizer = build_optimizer(config.optimizer, self.model, self.loss)
        self.stepper = Stepper(
            config, model=self.model, loss=self.loss, optimizer=self.optimizer, compiled=compiled, world=world
        )
        self.average: WeightAverage | None = None
        if config.averaging.per != "none":
            self.average = WeightAverage(config.averaging, self.model, total_steps=config.epochs * self.steps)
        self.epoch = self.step = 0
        self.means = Means()
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        self.should_stop: Callable[[], bool] = lambda: False

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs; random numbers need no state."""
        return {
            "schema_version": 2,
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "epoch": self.epoch,
            "step": self.step,
            "totals": self.means.totals,
            "rows": self.rows,
            "seconds": self.seconds,
        }

    def restore(self, content: bytes | None) -> None:
        """Go on from the saved state, whose file this is, if there is one."""
        state = None if content is None else self.draft.run.load_state(content)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.restore(state["average"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.means.totals = {key: value.to(self.device) for key, value in state["totals"].items()}
        self.means.count = self.step
        self.rows, self.seconds = state["rows"], state["seconds"]

    def fit(self) -> list[dict[str, float]]:
        while self.epoch < self.config.epochs:
            self._epoch()
        return self.rows

    def _epoch(self) -> None:
        self.loss.start_epoch(self.epoch)
        started = saved = time.perf_counter()
        for batch in self.batches.epoch(self.epoch, first=self.step):
            self._step(batch)
            stop, clock = on_any_rank(self.should_stop(), self.world), time.perf_counter()
            self._tell(StepReport(**self._progress(clock - started), means=self.means.read))
            if stop or clock - saved > self.save_every:
                self.seconds += clock - started
                self._save_state()
                started = saved = time.perf_counter()
            if stop:
                on_any_rank(True, self.world)  # waits: a rank that leaves early may take the writing one with it
                raise Interrupted
        self.loss.end_epoch()
        copy_from_leader(list(self.loss.buffers()), self.world)
        if self.average is not None:
            self.average.after_epoch(self.model)
        means = self.means.read()
        self.seconds += time.perf_counter() - started
        self._finish_epoch(means)

    def _step(self, batch: Batch) -> None:
        config, place = self.config, self._place()
        set_rates(
            self.optimizer,
            lr=learning_rate(config.schedule, base=config.optimizer.lr, place=place),
            momentum=momentum(config.schedule, base=config.optimizer.momentum, place=place),
        )
        rows = self.world.rows
        samples = batch.samples[rows].to(self.device, non_blocking=True)
        measured = self.stepper.step(
            make_views(batch, config, epoch=self.epoch, step=self.step, rows=rows),
            threat=epoch_threat(config.attack, self.threat, epoch=self.epoch, epochs=config.epochs),
            noise=Noise(config.seed, samples).at("train", self.epoch),
            epoch=self.epoch,
            generator_seed=_step_seed(config.seed, self.epoch, self.step) + self.world.rank,
        )
        self.means.add(measured)
        self.step += 1
        if self.average is not None:
            self.average.after_step(self.model, step=self.epoch * self.steps + self.step)

    def _finish_epoch(self, means: dict[str, float]) -> None:
        if means["loss"] != means["loss"]:
            raise UserError(
                f"the loss became NaN in epoch {self.epoch + 1}; lower optimizer.lr (now {self.config.optimizer.lr:g}) "
                f"or the loss's weights"
            )
        judged = self.model if self.average is None else self.average.model
        clean, robust = validate(
            judged,
            self.validation,
            self.threat,
            steps=self.config.probe.steps,
            seed=self.config.seed,
            batch_size=max(250, self.batches.batch_size),
            world=self.world,
        )
        best = max(map(self._merit, self.rows), default=(-1.0, -1.0))
        self.rows.append(self._row(means) | {"val_clean_acc": clean, "val_robust_acc": robust} | self._speed())
        if self.world.leads:
            self._save_epoch(judged if self._merit(self.rows[-1]) > best else None)
        left = self._progress(0.0)["seconds_left"]
        self.epoch, self.step, self.means = self.epoch + 1, 0, Means()
        self._save_state()
        self._tell(EpochReport(self.config.epochs, self.rows[-1], left, overfitting(self.rows)))

    def _save_epoch(self, best: Classifier | None) -> None:
        run = self.draft.run
        if best is not None:
            run.save_weights("best", best)
        run.save_weights("last", self.model)
        if self.average is not None:
            run.save_weights("average", self.average.model)
        run.save_metrics(csv_text(self.rows))

    def _save_state(self) -> None:
        if self.world.leads:
            self.draft.run.save_state(self.state())
            self.draft.keep()

    def _merit(self, row: dict[str, float]) -> tuple[float, float]:
        """Return what selects ``best``: robust accuracy, then clean; the other way round without an adversary."""
        robust, clean = row["val_robust_acc"], row["val_clean_acc"]
        return (robust, clean) if self.loss.crafts else (clean, robust)

    def _row(self, means: dict[str, float]) -> dict[str, float]:
        threat = epoch_threat(self.config.attack, self.threat, epoch=self.epoch, epochs=self.config.epochs)
        rate = self.optimizer.param_groups[0]["lr"]
        return {"epoch": self.epoch + 1, "lr": round(rate, 8), "eps": round(threat.radius, 8), **means}

    def _speed(self) -> dict[str, float]:
        shown = self.steps * self.batches.batch_size * (self.epoch + 1)
        return {
            "seconds": round(self.seconds, 2),
            "images_per_second": round(shown / max(self.seconds, 1e-9), 1),
        }

    def _place(self) -> Place:
        return Place(self.epoch, self.config.epochs, self.step, self.steps)

    def _progress(self, running: float) -> dict[str, Any]:
        """Return where the run stands and how long it will take; ``running`` seconds are not in ``seconds`` yet."""
        done = self.epoch * self.steps + self.step
        left = (self.seconds + running) * (self.config.epochs * self.steps - done) / max(done, 1)
        return {
            "epoch": self.epoch,
            "epochs": self.config.epochs,
            "step": self.step,
            "steps": self.steps,
            "seconds_left": left,
        }

    def _tell(self, event: StepReport | EpochReport) -> None:
        if self.on_event is not None:
            self.on_event(event)


def _step_seed(seed: int, *place: int) -> int:
    """Return what torch's own generator is seeded with before a step, for layers that draw from it (dropout)."""
    return int(Noise(seed, torch.zeros(1, dtype=torch.int64)).at("step", *place).bits()[0]) & 0x7FFFFFFF
