"""One training step: attack, loss, weight perturbation, update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks.model import full_logits
from robustbench_gkl.attacks.pgd import ascend
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.losses import Logits, Loss
from robustbench_gkl.losses.base import Member
from robustbench_gkl.ranks.collectives import ALONE, World, copy_from_leader
from robustbench_gkl.ranks.gradients import summed_gradients
from robustbench_gkl.training.awp import perturbed, perturbed_weights, weight_perturbation
from robustbench_gkl.training.crafting import as_attacked, inner_start
from robustbench_gkl.training.folding import FoldedModel
from robustbench_gkl.training.schedule import attack_steps
from robustbench_gkl.training.sharing import whole_batch
from robustbench_gkl.training.views import Terms, Views

Teacher = Callable[[Tensor], Tensor]
"""From images (B, C, H, W) in [0, 1] to logits (B, K). Its own parameters take no gradient; the images may."""


class Stepper:
    """Takes optimiser steps on one model.

    Where several processes share each batch, a step is the one that a single process would take on the whole of it:
    each computes the logits of its own images, the loss is that of all logits, and gradients are summed. All of them
    have to take each step together.

    Args:
        config: the recipe.
        model, loss, optimizer: on one device; changed in place.
        teacher: for a loss that reads its logits.
        compiled: whether networks are compiled with torch.compile.
        world: the processes that share the batches, with equal models.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        teacher: Teacher | None = None,
        compiled: bool = False,
        world: World = ALONE,
    ) -> None:
        self.config, self.model, self.loss, self.optimizer, self.world = config, model, loss, optimizer, world
        self._teacher = teacher
        self.folded = FoldedModel(model, fold=config.attack.fold == "auto")
        self.network: nn.Module = model
        if compiled:
            self.network = torch.compile(model)  # type: ignore[assignment]
            self.folded.network = torch.compile(self.folded.network)  # type: ignore[assignment]
            self._teacher = None if teacher is None else torch.compile(teacher)
        self._saved = frozenset(model.state_dict())

    def step(
        self, views: Views, *, threat: ThreatModel, noise: Noise, epoch: int, generator_seed: int
    ) -> dict[str, Tensor]:
        """Take one step and return scalars to be averaged, without waiting for the device.

        Args:
            views: this process's images and the labels of the batch.
            threat: that of the epoch.
            noise: of these images' samples in this epoch; the attack on the second views uses its own.
            epoch: from 0.
            generator_seed: of torch's own generator, for layers that draw from it.
        """
        torch.manual_seed(generator_seed)
        taught = self._taught(views.images) if "teacher_clean" in self.loss.reads else None
        adversarial = None
        if self.loss.crafts:
            adversarial = self.craft(views, threat=threat, noise=noise, epoch=epoch, teacher_clean=taught)
        teacher = self._outer_teacher(adversarial, taught)
        self.model.train()
        awp = self.config.awp
        with ExitStack() as stack:
            if awp.gamma and epoch + 1 >= awp.start_epoch:
                perturbation = weight_perturbation(
                    self.model,
                    lambda: _total(self._terms(views, adversarial, teacher)[0]),
                    gamma=awp.gamma,
                    world=self.world,
                )
                stack.enter_context(perturbed(perturbed_weights(self.model), perturbation))
            terms, logits = self._terms(views, adversarial, teacher)
            norm = self._update(_total(terms))
        if self.world.size > 1:  # a model may put a new buffer in an old one's place
            statistics = [buffer for name, buffer in self.model.named_buffers() if name in self._saved]
            copy_from_leader(statistics, self.world)
        first = logits.map(lambda values: views.first(values.detach()))
        self.loss.observe(first, views.main_label)
        return _measured(terms, first, views.main_label) | {"grad_norm": norm}

    def craft(
        self, views: Views, *, threat: ThreatModel, noise: Noise, epoch: int, teacher_clean: Tensor | None = None
    ) -> Tensor:
        """Return the adversarial images (V b, C, H, W) of all views.

        The logits at the images are computed once. Costs a forward and a backward pass for each step of the attack.

        Args:
            views, threat, noise, epoch: as in :meth:`step`.
            teacher_clean: (V b, K), the teacher's logits at the images, for an inner objective that reads them.
        """
        settings, reads = self.config.attack, self.loss.inner_reads
        steps, step_size = attack_steps(settings, threat, epoch=epoch, epochs=self.config.epochs)
        with as_attacked(self.model, folded=self.folded, autocast=self._autocast) as network:
            with torch.no_grad():
                clean = network(views.images) if "clean" in reads else None

            def objective(points: Tensor, adv: Tensor) -> Tensor:
                logits = Logits.of(
                    clean=clean,
                    adv=adv if "adv" in reads else None,
                    teacher_clean=teacher_clean if "teacher_clean" in reads else None,
                    teacher_adv=self._taught(points) if "teacher_adv" in reads else None,
                )
                return views.inner(self.loss, logits)

            start = self._start(views, threat, noise)
            return ascend(
                network, views.images, threat, objective=objective, start=start, steps=steps, step_size=step_size
            )

    def _start(self, views: Views, threat: ThreatModel, noise: Noise) -> Tensor:
        """Return the first points (V b, C, H, W) of the training attack."""
        settings = self.config.attack
        kind = self.loss.start if settings.start == "auto" else settings.start
        starts = [
            inner_start(part, threat, noise.at("start", number) if number else noise.at("start"), start=kind)
            for number, part in enumerate(views.images.chunk(views.count))
        ]
        return torch.cat(starts) if len(starts) > 1 else starts[0]

    def _autocast(self) -> torch.autocast:
        """Return the context of one forward pass.

        It is entered anew for each: autocast keeps converted weights until it is left, and AWP changes weights.
        """
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.config.precision == "bf16")

    def _terms(self, views: Views, adversarial: Tensor | None, teacher: Logits) -> tuple[Terms, Logits]:
        """Return the loss's terms and the logits (V B, K) that it reads, of the whole batch.

        The clean pass is the last one that batch-norm statistics see.
        """
        reads, members = self.loss.outer_reads, dict(teacher.present())
        if "adv" in reads and adversarial is not None:
            members["adv"] = self._logits(adversarial)
        if "clean" in reads:
            members["clean"] = self._logits(views.images)
        logits = whole_batch(Logits(**members), views=views.count, size=len(views.labels), world=self.world)
        return views.terms(self.loss, logits), logits

    def _update(self, total: Tensor) -> Tensor:
        """Take the optimiser's step down ``total``, a scalar, and return the norm of its gradient."""
        weights, others = (
            [weight for weight in module.parameters() if weight.requires_grad] for module in (self.model, self.loss)
        )
        self.optimizer.zero_grad(set_to_none=True)
        if self.world.size == 1:
            total.backward()  # type: ignore[no-untyped-call]
        else:
            # Each rank has its part of the weights' gradients, and the whole of the loss's, which sees all logits.
            gradients = summed_gradients(total, weights, self.world, alike=others)
            for weight, gradient in zip([*weights, *others], gradients, strict=True):
                weight.grad = gradient
        clip = self.config.optimizer.clip
        norm = nn.utils.clip_grad_norm_([*weights, *others], float("inf") if clip is None else clip)
        self.optimizer.step()
        return norm

    def _logits(self, images: Tensor) -> Tensor:
        with self._autocast():
            return full_logits(self.network(images))

    def _taught(self, images: Tensor) -> Tensor:
        """Return the teacher's logits (V b, K); a graph leads through them to images (V b, C, H, W) that have one."""
        assert self._teacher is not None
        with self._autocast():
            return full_logits(self._teacher(images))

    def _outer_teacher(self, adversarial: Tensor | None, teacher_clean: Tensor | None) -> Logits:
        """Return the teacher's logits (V b, K) that the outer loss reads, computed once for all passes of the step."""
        reads = self.loss.outer_reads
        with torch.no_grad():
            adv = self._taught(adversarial) if "teacher_adv" in reads and adversarial is not None else None
        return Logits.of(teacher_clean=teacher_clean if "teacher_clean" in reads else None, teacher_adv=adv)


_ACCURACIES: dict[str, Member] = {
    "train_clean_acc": "clean",
    "train_robust_acc": "adv",
    "train_teacher_acc": "teacher_clean",
}
"""Columns of ``metrics.csv`` and the logits that they are of."""


def _total(terms: Terms) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _measured(terms: Terms, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
    """Return the loss, its terms and the accuracies in percent, all scalars, of logits (B, K) and labels (B,).

    The agreement with a teacher whose clean logits are read is how many images both put into the same class.
    """
    measured = {"loss": _total(terms).detach(), **{f"loss_{name}": term.detach() for name, term in terms.items()}}
    present = logits.present()
    for name, member in _ACCURACIES.items():
        if member in present:
            measured[name] = 100 * (present[member].argmax(1) == labels).float().mean()
    if {"clean", "teacher_clean"} <= present.keys():
        same = present["clean"].argmax(1) == present["teacher_clean"].argmax(1)
        measured["train_agreement"] = 100 * same.float().mean()
    return measured
