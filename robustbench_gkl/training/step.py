"""One training step: attack, loss, weight perturbation, update."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks.model import full_logits
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.losses import Loss
from robustbench_gkl.ranks.collectives import ALONE, World, copy_from_leader, sum_over_ranks
from robustbench_gkl.training.awp import perturbed, perturbed_weights, weight_perturbation
from robustbench_gkl.training.crafting import craft, inner_start
from robustbench_gkl.training.folding import FoldedModel
from robustbench_gkl.training.schedule import attack_steps
from robustbench_gkl.training.sharing import whole_batch
from robustbench_gkl.training.views import Views


class Stepper:
    """Takes optimiser steps on one model.

    Where several processes share each batch, a step is the one that a single process would take on the whole of it:
    each computes the logits of its own images, the loss is that of all logits, and gradients are summed. All of them
    have to take each step together.

    Args:
        config: the recipe.
        model, loss, optimizer: on one device; changed in place.
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
        compiled: bool = False,
        world: World = ALONE,
    ) -> None:
        self.config, self.model, self.loss, self.optimizer, self.world = config, model, loss, optimizer, world
        self.folded = FoldedModel(model)
        self.network: nn.Module = model
        if compiled:
            self.network = torch.compile(model)  # type: ignore[assignment]
            self.folded.network = torch.compile(self.folded.network)  # type: ignore[assignment]
        kept = model.state_dict()
        self._statistics = [
            buffer for name, buffer in model.named_buffers() if name in kept and buffer.is_floating_point()
        ]

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
        images = views.images
        adversarial = self.craft(views, threat=threat, noise=noise, epoch=epoch) if self.loss.crafts else images
        torch.manual_seed(generator_seed)
        self.model.train()
        awp = self.config.awp
        with ExitStack() as stack:
            if awp.gamma and epoch + 1 >= awp.start_epoch:
                perturbation = weight_perturbation(
                    self.model,
                    lambda: _total(self._terms(views, adversarial)[0]),
                    gamma=awp.gamma,
                    world=self.world,
                )
                stack.enter_context(perturbed(perturbed_weights(self.model), perturbation))
            terms, adv_logits, clean_logits = self._terms(views, adversarial)
            total = _total(terms)
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            sum_over_ranks([weight.grad for weight in self.model.parameters() if weight.grad is not None], self.world)
            clip = self.config.optimizer.clip
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), float("inf") if clip is None else clip)
            self.optimizer.step()
        copy_from_leader(self._statistics, self.world)
        clean_logits, adv_logits = views.first(clean_logits.detach()), views.first(adv_logits.detach())
        if clean_logits.numel():
            self.loss.observe(clean_logits, views.main_label)
        measured = {"loss": total.detach(), **{f"loss_{name}": term.detach() for name, term in terms.items()}}
        for name, logits in (("train_clean_acc", clean_logits), ("train_robust_acc", adv_logits)):
            if logits.numel():
                measured[name] = 100 * (logits.argmax(1) == views.main_label).float().mean()
        return measured | {"grad_norm": norm}

    def craft(self, views: Views, *, threat: ThreatModel, noise: Noise, epoch: int) -> Tensor:
        """Return the adversarial images (V b, C, H, W) of all views."""
        settings = self.config.attack
        kind = self.loss.start if settings.start == "auto" else settings.start
        starts = [
            inner_start(part, threat, noise.at("start", number) if number else noise.at("start"), start=kind)
            for number, part in enumerate(views.images.chunk(views.count))
        ]
        steps, step_size = attack_steps(settings, threat, epoch=epoch, epochs=self.config.epochs)
        return craft(
            self.model,
            views.images,
            inner=lambda adv, clean: views.inner(self.loss, adv, clean),
            needs_clean=self.loss.inner_needs_clean,
            threat=threat,
            start=torch.cat(starts) if len(starts) > 1 else starts[0],
            steps=steps,
            step_size=step_size,
            folded=self.folded,
            autocast=self._autocast,
        )

    def _autocast(self) -> torch.autocast:
        """Return the context of one forward pass.

        It is entered anew for each: autocast keeps converted weights until it is left, and AWP changes weights.
        """
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.config.precision == "bf16")

    def _terms(self, views: Views, adversarial: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the loss's terms and both logits (V B, K) of the whole batch.

        The clean pass is the last one that batch-norm statistics see.
        """
        nothing = adversarial.new_empty(0)
        adv_logits = self._logits(adversarial) if self.loss.crafts else nothing
        clean_logits = self._logits(views.images) if self.loss.outer_needs_clean else nothing
        adv_logits, clean_logits = (
            whole_batch(logits, views=views.count, size=len(views.labels), world=self.world)
            for logits in (adv_logits, clean_logits)
        )
        return views.terms(self.loss, adv_logits, clean_logits), adv_logits, clean_logits

    def _logits(self, images: Tensor) -> Tensor:
        with self._autocast():
            return full_logits(self.network(images))


def _total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()
