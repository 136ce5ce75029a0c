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
from robustbench_gkl.core.device import TensorCores, deterministic_kernels, own_random_state, sent
from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.losses import create_loss
from robustbench_gkl.models import Classifier
from robustbench_gkl.ranks.collectives import ALONE, World, agreed, bytes_from_leader, copy_from_leader, on_any_rank
from robustbench_gkl.runs import STATE_VERSION, Draft, Run, writing
from robustbench_gkl.training.averaging import WeightAverage
from robustbench_gkl.training.batches import Batch, Batches
from robustbench_gkl.training.events import EpochReport, Event, Interrupted, Observer, StartReport
from robustbench_gkl.training.metrics import Means
from robustbench_gkl.training.optimizer import build_optimizer, set_rates
from robustbench_gkl.training.origins import load_init, load_teacher, same_inputs
from robustbench_gkl.training.progress import RunProgress
from robustbench_gkl.training.schedule import epoch_threat, learning_rate, momentum
from robustbench_gkl.training.setup import (
    TrainingData,
    batch_notes,
    check_startable,
    fresh_model,
    load_data,
    opened,
    same_on_all,
)
from robustbench_gkl.training.step import Stepper, Teacher
from robustbench_gkl.training.validation import Validator, divergence, newest_is_best, overfitting
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
    deterministic: bool = False,
    world: World = ALONE,
    on_event: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]]:
    """Train a model as ``config`` says into the folder ``run``; return the rows of ``metrics.csv``, one an epoch.

    The processes of a ``world`` of several call this together, each on its own device, and share every batch. Rank 0
    alone writes, and ``run`` may be a folder of its own machine. The weights are those of a single process up to
    rounding, unless a layer depends on how a batch is shared: batch normalisation without ``sync_batchnorm``, or
    dropout.
    The saved state does not, so that a run can go on in another number of processes. Torch's random state is afterwards
    what it was before.

    Args:
        config: the resolved recipe.
        run: must not exist, unless ``resume`` or ``overwrite`` is given; it appears with its first saved state. A run
            that is its teacher or gives its initial weights is looked for beside it.
        device: where to train.
        data_dir: where downloaded data sets are kept.
        resume: go on from the saved state of this run; begins anew if there is none.
        overwrite: replace the run that is there; it stays as it is until the new one has saved its first state.
        save_every: seconds between states saved in mid-epoch; one is saved after each epoch anyway.
        compiled: compile the networks with torch.compile, which changes results in the last digits.
        deterministic: use CUDA kernels that repeat bit for bit, so that a resumed run is exact there too.
        world: the processes that train together, inside :func:`robustbench_gkl.ranks.collectives.joined`.
        on_event: called before the first step, and after each step and each epoch.
        should_stop: called after each step; True on any rank saves the state and raises :class:`Interrupted` on all.

    Raises:
        UserError: the run exists, is being written by another process, or was started with another configuration or
            other data; a teacher or initial weights that do not fit, or have changed since; a loss without the teacher
            that it reads, or with one that it does not read; unknown names; broken data; a run that diverges; processes
            that were given different configurations, or are too many for a batch.
        Interrupted: ``should_stop`` returned True.
    """
    settings = config.model_dump_json()
    leaders = bytes_from_leader(settings.encode(), world)
    with ExitStack() as held:
        held.enter_context(own_random_state(device))
        held.enter_context(deterministic_kernels(wanted=deterministic))
        held.enter_context(TensorCores(allowed=config.precision != "float32"))
        with agreed(world):
            same_on_all(settings, leaders, world, what="other settings than rank 0; give all ranks the same options")
            if world.leads:
                held.enter_context(writing(run))
                check_startable(run, config, resume=resume, overwrite=overwrite)
            data = load_data(config, data_dir)
            teacher, origins = load_teacher(config, run, data_dir=data_dir, device=device)
            trainer = _Trainer(config, data, device, teacher=teacher, compiled=compiled, world=world)
            hashes = data.hashes(config)
            if world.leads:
                if overwrite or not run.exists() or run.state_bytes() is None:
                    origins |= load_init(config, run, trainer.model, data_dir=data_dir)
                writer = opened(
                    run, config, data.images, device, hashes=hashes, origins=origins, overwrite=overwrite, world=world
                )
                trainer.draft = held.enter_context(writer)
                state = trainer.draft.run.state_bytes()
        same_inputs(hashes, origins, world)
        trainer.restore(bytes_from_leader(state if world.leads else None, world), run)
        return trainer.fit(save_every=save_every, on_event=on_event, should_stop=should_stop)


class _Trainer:
    """A run under way; everything that changes in training is in :meth:`state`."""

    draft: Draft
    """Where rank 0 writes; the others have none."""

    def __init__(
        self,
        config: TrainConfig,
        data: TrainingData,
        device: torch.device,
        *,
        teacher: Teacher | None,
        compiled: bool,
        world: World,
    ) -> None:
        self.config, self.data, self.device, self.world = config, data, device, world
        self.threat = config.threat.threat()
        self.batches = Batches(
            data.images,
            rows=data.training,
            batch_size=config.batch_size,
            seed=config.seed,
            device=device,
            synthetic=data.synthetic,
            fraction=config.synthetic.fraction,
        )
        self.batches.check_shared(world.size)
        size = max(250, self.batches.batch_size)
        self.validator = Validator(config, data.images, data.validation, teacher, batch_size=size, world=world)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # of parameters that a loss may have
            self.loss = create_loss(
                config.loss,
                num_classes=len(data.images.classes),
                options=config.loss_options,
                label_smoothing=config.label_smoothing,
            ).to(device)
        self.model = fresh_model(config, data.images, device, world=world)
        self.optimizer = build_optimizer(config.optimizer, self.model, self.loss)
        self.stepper = Stepper(
            config,
            model=self.model,
            loss=self.loss,
            optimizer=self.optimizer,
            teacher=teacher,
            compiled=compiled,
            world=world,
        )
        self.average: WeightAverage | None = None
        if config.averaging.per != "none":
            self.average = WeightAverage(config.averaging, self.model, total_steps=config.epochs * self.batches.steps)
        self.progress = RunProgress(config.epochs, self.batches.steps, self.batches.batch_size)
        self.means = Means()
        self.rows: list[dict[str, float]] = []

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs; random numbers need no state."""
        return {
            "schema_version": STATE_VERSION,
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "totals": self.means.totals,
            "rows": self.rows,
            "seconds": self.progress.seconds,
        }

    def restore(self, content: bytes | None, run: Run) -> None:
        """Go on from the saved state of ``run``, whose file this is; without one begin with the weights of rank 0."""
        if content is None:  # it alone has read config.init
            states = (self.model.state_dict(), self.loss.state_dict())
            copy_from_leader([tensor for state in states for tensor in state.values()], self.world)
            if self.average is not None:
                self.average.model.load_state_dict(self.model.state_dict())
            return
        state = run.load_state(content, keys=self.state())
        assert state is not None
        try:
            self._put_back(state)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise run.useless_state(f"holds other tensors than these settings make ({one_line(error)})") from error

    def _put_back(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.restore(state["average"])
        self.progress.epoch, self.progress.step = state["epoch"], state["step"]
        self.means.totals = {key: value.to(self.device) for key, value in state["totals"].items()}
        self.means.count = state["step"]
        self.rows, self.progress.seconds = state["rows"], state["seconds"]

    def fit(
        self, *, save_every: float, on_event: Observer | None, should_stop: Callable[[], bool]
    ) -> list[dict[str, float]]:
        """Train to the end; the arguments are those of :func:`train`."""
        self.save_every, self.on_event, self.should_stop = save_every, on_event, should_stop
        notes, place = batch_notes(self.config, len(self.data.training)), self.progress.place
        self._tell(StartReport(notes, place.epoch, place.epochs, place.step, place.steps))
        while self.progress.epoch < self.config.epochs:
            self._epoch()
        return self.rows

    def _epoch(self) -> None:
        self.loss.start_epoch(self.progress.epoch)
        started = saved = time.perf_counter()
        for batch in self.batches.epoch(self.progress.epoch, first=self.progress.step):
            self._step(batch)
            asked, clock = self.should_stop(), time.perf_counter()
            self._tell(self.progress.report(running=clock - started, means=self.means.read))
            if on_any_rank(asked or clock - saved > self.save_every, self.world):
                self.progress.seconds += clock - started
                self._check_converging()
                self._save_state()
                started = saved = time.perf_counter()
                if on_any_rank(asked, self.world):  # waits: a rank that leaves early may take the writing one with it
                    raise Interrupted
        self.loss.end_epoch()
        copy_from_leader(list(self.loss.buffers()), self.world)
        if self.average is not None:
            self.average.after_epoch(self.model)
        self._check_converging()
        self.progress.seconds += time.perf_counter() - started
        self._finish_epoch()

    def _step(self, batch: Batch) -> None:
        config, place = self.config, self.progress.place
        set_rates(
            self.optimizer,
            lr=learning_rate(config.schedule, base=config.optimizer.lr, place=place),
            momentum=momentum(config.schedule, base=config.optimizer.momentum, place=place),
        )
        rows = self.world.rows
        samples = sent(batch.samples[rows], self.device)
        measured = self.stepper.step(
            make_views(batch, config, epoch=place.epoch, step=place.step, rows=rows),
            threat=self._epoch_threat(),
            noise=Noise(config.seed, samples).at("train", place.epoch),
            epoch=place.epoch,
            generator_seed=_step_seed(config.seed, place.epoch, place.step) + self.world.rank,
        )
        self.means.add(measured)
        self.progress.step += 1
        if self.average is not None:
            self.average.after_step(self.model, step=self.progress.taken)

    def _finish_epoch(self) -> None:
        judged = self.model if self.average is None else self.average.model
        self.rows.append(self._row() | self._validated(judged) | self.progress.speed())
        if self.world.leads:
            self._save_epoch(judged)
        left = self.progress.seconds_left()
        self.progress.next_epoch()
        self.means = Means()
        self._save_state()
        self._tell(EpochReport(self.config.epochs, self.rows[-1], left, overfitting(self.rows)))

    def _validated(self, judged: Classifier) -> dict[str, float]:
        due = len(self.data.validation) and self.config.probe.due(self.progress.epoch, self.config.epochs)
        return self.validator(judged) if due else {}

    def _save_epoch(self, judged: Classifier) -> None:
        run = self.draft.run
        if newest_is_best(self.rows, adversarial=self.loss.crafts):
            run.save_weights("best", judged)
        if not len(self.data.validation):
            run.drop_weights("best")  # earlier versions selected on training images
        run.save_weights("last", self.model)
        if self.average is not None:
            run.save_weights("average", self.average.model)
        run.save_metrics(self.rows)

    def _save_state(self) -> None:
        if self.world.leads:
            self.draft.run.save_state(self.state())
            self.draft.keep()

    def _check_converging(self) -> None:
        """Check that what is saved next is worth to go on from; all ranks have to call this together.

        Raises:
            UserError: the run has diverged.
        """
        with agreed(self.world):
            if (found := divergence(self.means.read(), self.model)) is not None:
                lr = self.config.optimizer.lr
                raise UserError(
                    f"{found} in epoch {self.progress.epoch + 1}; lower optimizer.lr (now {lr:g}) or the loss's "
                    f"weights; what was saved before is as it was"
                )

    def _epoch_threat(self) -> ThreatModel:
        return epoch_threat(self.config.attack, self.threat, epoch=self.progress.epoch, epochs=self.config.epochs)

    def _row(self) -> dict[str, float]:
        rate, radius = self.optimizer.param_groups[0]["lr"], self._epoch_threat().radius
        return {"epoch": self.progress.epoch + 1, "lr": round(rate, 8), "eps": round(radius, 8), **self.means.read()}

    def _tell(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)


def _step_seed(seed: int, *place: int) -> int:
    """Return what torch's own generator is seeded with before a step, for layers that draw from it (dropout)."""
    return int(Noise(seed, torch.zeros(1, dtype=torch.int64)).at("step", *place).bits()[0]) & 0x7FFFFFFF
