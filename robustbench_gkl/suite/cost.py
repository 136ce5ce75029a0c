"""The cost of cells: images put through the model, counted from their settings."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.calls import Calls
from robustbench_gkl.data.sizes import dataset_size


@dataclass(frozen=True)
class PassTimes:
    """Seconds that a pass of one image takes in a full batch; those of an attack and an update include the forward."""

    forward: float
    attack: float
    update: float

    @classmethod
    def of(cls, calls_per_second: float) -> PassTimes:
        """Return the times at a number of forward passes a second: an attack's pass costs two, an update's three."""
        return cls(1 / calls_per_second, 2 / calls_per_second, 3 / calls_per_second)

    def seconds(self, calls: Calls) -> float:
        """Return what ``calls`` take."""
        backward, update = self.attack - self.forward, self.update - self.forward
        return calls.forwards * self.forward + calls.backwards * backward + calls.updates * update


@dataclass(frozen=True)
class LossPasses:
    """The passes through the network that a loss needs, see :class:`robustbench_gkl.losses.Loss`.

    Attributes:
        crafts: whether adversarial images are crafted.
        inner_clean: whether the training attack reads the clean logits.
        outer: how many of the clean and the adversarial logits the outer loss reads.
        teacher: how many of a teacher's logits a step reads but for the training attack.
        inner_teacher: whether each step of the training attack passes through the teacher too.
    """

    crafts: bool = True
    inner_clean: bool = True
    outer: int = 2
    teacher: int = 0
    inner_teacher: bool = False


def images_per_epoch(config: TrainConfig) -> tuple[int, int] | None:
    """Return the images trained on in an epoch and those measured on; None where the data set's size is not known."""
    size = config.train_size or dataset_size(config.dataset, "train")
    if size is None:
        return None
    held_out = min(max(1, round(size * config.validation_fraction)), size - 1) if config.validation_fraction else 0
    real = size - held_out
    batch = min(config.batch_size, real)
    steps = -(-real // batch) if config.synthetic.fraction else real // batch
    return steps * batch, min(held_out, config.probe.n or held_out)


def training_calls(config: TrainConfig, *, loss: LossPasses, images: float, held_out: float) -> Calls:
    """Return the passes of a whole training.

    A step crafts (a forward pass on the clean images where the loss reads it, then forward and backward for each
    step of the attack), perturbs the weights where AWP is on, and updates them: a forward pass on the adversarial and
    on the clean images, as the loss reads them, and a backward pass on each. After each epoch that is due the
    validation images are attacked.

    Args:
        config: the recipe.
        loss: the passes of its loss.
        images: trained on in an epoch.
        held_out: validation images that are attacked.
    """
    measured = Calls(forwards=config.probe.steps + 1 + bool(config.probe.steps), backwards=config.probe.steps)
    views = 1 if config.second_view.augment is None else 2
    update = Calls(forwards=loss.outer, updates=loss.outer)
    total = Calls()
    for epoch in range(config.epochs):
        step = update
        if loss.crafts:
            steps = config.attack.steps_in(epoch, config.epochs)
            step += Calls(forwards=steps + int(loss.inner_clean), backwards=steps)
        if config.awp.gamma and epoch + 1 >= config.awp.start_epoch:
            step += update
        total += step * (views * images)
        if config.probe.due(epoch, config.epochs):
            total += measured * held_out
    return total


def teacher_calls(config: TrainConfig, *, loss: LossPasses, images: float, held_out: float) -> Calls:
    """Return the passes of a training's teacher, which sees the validation images once; arguments as above."""
    if config.teacher is None:
        return Calls()
    steps = config.epochs * loss.teacher
    crafted = sum(config.attack.steps_in(epoch, config.epochs) for epoch in range(config.epochs))
    inner = crafted if loss.crafts and loss.inner_teacher else 0
    views = 1 if config.second_view.augment is None else 2
    return Calls(forwards=steps + inner, backwards=inner) * (views * images) + Calls(forwards=held_out)


@dataclass(frozen=True)
class Work:
    """A piece of work for one worker.

    Attributes:
        key: its name.
        seconds: that it takes.
        needs: the keys of the pieces that must be done before.
    """

    key: str
    seconds: float
    needs: tuple[str, ...] = ()


def makespan(works: Sequence[Work], workers: int) -> float:
    """Return the seconds until all is done by ``workers``, each free one taking up the longest work that can begin.

    The length of a piece includes what follows it; pieces whose predecessor is not among ``works`` can begin at once.
    """
    followers: dict[str, list[Work]] = {}
    known = {work.key for work in works}
    missing = {work.key: known.intersection(work.needs) for work in works}
    for work in works:
        for key in missing[work.key]:
            followers.setdefault(key, []).append(work)

    @cache
    def length(work: Work) -> float:
        return work.seconds + max(map(length, followers.get(work.key, [])), default=0.0)

    ready = [(-length(work), work.key, work) for work in works if not missing[work.key]]
    heapq.heapify(ready)
    running: list[tuple[float, str, Work]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, key, work = heapq.heappop(ready)
            heapq.heappush(running, (now + work.seconds, key, work))
        now, _, ended = heapq.heappop(running)
        for work in followers.get(ended.key, []):
            missing[work.key].remove(ended.key)
            if not missing[work.key]:
                heapq.heappush(ready, (-length(work), work.key, work))
    return now
