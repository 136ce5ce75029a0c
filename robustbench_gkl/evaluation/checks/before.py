"""Checks before the attacks: a few forward passes and gradients that show whether robustness can be measured.

Most follow the advice of "Obfuscated gradients" (Athalye et al., arXiv 1802.00420) and "On evaluating adversarial
robustness" (Carlini et al., arXiv 1902.06705); the rest is what users of other tools were bitten by.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks.model import Model, attack_mode, input_gradient
from robustbench_gkl.attacks.objectives import margin
from robustbench_gkl.core.device import device_of, full_precision
from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.data import to_unit
from robustbench_gkl.evaluation.checks.agreement import few_classes, label_order
from robustbench_gkl.evaluation.checks.answers import Answers
from robustbench_gkl.evaluation.checks.finding import ROUNDING, Finding, count, judge, sample_rows
from robustbench_gkl.evaluation.checks.input_scale import input_scale
from robustbench_gkl.results.record import Check

MOST_IMAGES = 128
"""Images looked at."""
FEW_IMAGES = 16
"""Of these, the images looked at one by one."""


def _eval_mode(answers: Answers) -> Finding:
    training = [name or "the model" for name, module in answers.model.named_modules() if module.training]
    return Finding.graded(
        f"{len(training)} modules in training mode" + (f", first {training[0]}" if training else ""),
        "Let model.eval() reach every module: a train() that was overridden keeps batch-norm or dropout in training.",
        fail=bool(training),
    )


def _finite(answers: Answers) -> Finding:
    broken = int((~answers.logits.isfinite().all(1)).sum())
    return Finding.graded(
        f"NaN or infinite logits for {count(broken, len(answers.labels))} images",
        "Look at the weights and the normalisation: an attack can neither climb nor be believed on such logits.",
        fail=broken > 0,
    )


def _deterministic(answers: Answers) -> Finding:
    moved = int((answers.repeated > ROUNDING).sum())
    return Finding.graded(
        f"a second pass changed the logits of {count(moved, len(answers.labels))} images, "
        f"by at most {float(answers.repeated.max()):.1g} of their spread",
        "Switch off what is random (dropout, random resizing), or evaluate with --attack autoattack:version=rand.",
        fail=moved > 0 and not answers.randomised,
        warn=moved > 0,
    )


def _batch_independent(answers: Answers) -> Finding:
    advice = "Make the logits of an image depend on it alone: no batch statistics, no cache, no padding to the batch."
    images, logits = answers.images[:FEW_IMAGES], answers.logits[:FEW_IMAGES]
    if answers.random:
        figure = "cannot be told from the model's own randomness"
        return Finding("WARN", figure, "Make the model deterministic, then check again.")
    try:
        alone = torch.cat([answers.look(image[None]) for image in images])
    except (RuntimeError, ValueError) as error:
        if "out of memory" in str(error):
            raise
        return Finding("FAIL", f"a batch of one image is refused ({type(error).__name__})", advice)
    together = answers.look(images)
    backwards = answers.look(images.flip(0)).flip(0)
    # The first image stays in its place, so that a cache that looks at the first image only is seen too.
    turned = answers.look(torch.cat([images[:1], images[1:].flip(0)]))
    turned = torch.cat([turned[:1], turned[1:].flip(0)])
    differences = [answers.apart(other, logits) for other in (alone, together, backwards, turned)]
    worst = torch.stack(differences).amax(0)
    moved = int((worst > ROUNDING).sum())
    return Finding.graded(
        f"other batches changed the logits of {count(moved, len(images))} images, "
        f"by at most {float(worst.max()):.1g} of their spread",
        advice,
        fail=moved > 0,
    )


def _logits(answers: Answers) -> Finding:
    outputs = answers.logits
    sums = outputs.sum(1)
    probabilities = bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())
    logs = bool((outputs <= 0).all()) and bool((outputs.logsumexp(1).abs() < 1e-3).all())
    kind = "probabilities" if probabilities else "log-probabilities, as good as logits" if logs else "logits"
    return Finding.graded(
        f"the outputs are {kind}",
        "Remove the softmax: attacks take another one, which flattens the loss and hides gradients.",
        fail=probabilities,
    )


def _logit_scale(answers: Answers) -> Finding:
    """Look at the cross-entropy where float32 loses it: the loss is 0 above a margin of 17, its gradient above 103."""
    right = torch.from_numpy(answers.right).to(answers.labels.device)
    logits, labels = answers.logits[right], answers.labels[right]
    n = len(labels)
    if n == 0:
        return Finding("PASS", "no image is classified correctly")
    others = logits.softmax(1).scatter(1, labels[:, None], 0).sum(1)
    flat = int((others == 0).sum())
    lost = int((torch.nn.functional.cross_entropy(logits, labels, reduction="none") == 0).sum())
    return Finding.graded(
        f"float32 cross-entropy is 0 for {count(lost, n)} images and flat for {flat}",
        "Scale the logits down, or add attacks that do not feel their scale (apgd-dlr, pgd:objective=margin).",
        fail=flat > 0.1 * n,
        warn=lost > 0.5 * n,
    )


def _gradients(answers: Answers) -> Finding:
    advice = "Attack through a differentiable stand-in for what stops the gradient (BPDA, arXiv 1802.00420)."
    try:
        gradient = torch.cat(
            [
                _margin_gradient(answers.model, images, labels)
                for images, labels in zip(
                    answers.images.split(answers.batch_size),  # type: ignore[no-untyped-call]
                    answers.labels.split(answers.batch_size),  # type: ignore[no-untyped-call]
                    strict=True,
                )
            ]
        )
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise
        return Finding("FAIL", f"the images get no gradient ({one_line(error)})", advice)
    # To first order, what the margin can change by when every pixel moves across [0, 1].
    reach = gradient.flatten(1).abs().sum(1)
    n, broken = len(reach), int((~reach.isfinite()).sum())
    zero, faint = int((reach == 0).sum()), int((reach < 1e-4 * answers.scale).sum())
    return Finding.graded(
        f"the margin's gradient is zero for {count(zero, n)} images, vanishing for {faint - zero}, NaN for {broken}",
        advice,
        fail=faint + broken > 0.1 * n,
        warn=faint + broken > 0.01 * n,
    )


def _margin_gradient(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    return input_gradient(model, images, lambda _, logits: margin(logits, labels))


FIRST: dict[str, Callable[[Answers], Finding]] = {"eval-mode": _eval_mode, "finite": _finite}
"""The checks that apply to any output; where the logits are not finite, the others are left out."""
REST: dict[str, Callable[[Answers], Finding]] = {
    "deterministic": _deterministic,
    "batch-independent": _batch_independent,
    "logits": _logits,
    "logit-scale": _logit_scale,
    "gradients": _gradients,
    "input-scale": input_scale,
    "labels": label_order,
    "classes": few_classes,
}
OF_ATTACKS = frozenset({"deterministic"})
"""The checks whose failure speaks against the attacks: those that average over random answers judge such a model."""


def check_model(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    randomised: bool = False,
    batch_size: int = MOST_IMAGES,
    device: torch.device | str | None = None,
) -> list[Check]:
    """Check a model on at most 128 of the images, before any attack.

    The model is put in eval mode for the time of the call. Costs at most 15 passes an image.

    Args:
        model: images (B, C, H, W) float32 in [0, 1] to logits (B, K).
        images: (N, C, H, W), uint8, or float in [0, 1].
        labels: (N,) integers in {0, ..., K - 1}.
        randomised: the attacks to come average over random answers, so that these are no failure.
        batch_size: images at a time, at least 16.
        device: where to run; None for where the model's parameters are.

    Returns:
        The checks in a fixed order; ``eval-mode`` and ``finite`` alone if the logits are not finite.

    Raises:
        UserError: no images, logits that are not (B, K), or labels that the model has no class for.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise UserError(f"check_model needs images with as many labels, got {len(images)} and {len(labels)}")
    where = device_of(model) if device is None else torch.device(device)
    rows = sample_rows(torch.arange(len(labels)), MOST_IMAGES, "preflight")
    some = to_unit(images[rows.to(images.device)].to(where))
    targets = labels.cpu()[rows].long().to(where)
    size = max(batch_size, FEW_IMAGES)  # batches of one would hide what a batch does to its images
    with attack_mode(model), full_precision():
        answers = Answers(model, some, targets, randomised=randomised, batch_size=size)
        _check_logits(answers)
        found = judge(FIRST, answers, of_attacks=())
        if bool(answers.logits.isfinite().all()):
            found += judge(REST, answers, of_attacks=OF_ATTACKS)
    return found


def _check_logits(answers: Answers) -> None:
    if answers.logits.dim() != 2 or len(answers.logits) != len(answers.labels):
        shape, n = tuple(answers.logits.shape), len(answers.labels)
        raise UserError(f"the model must give logits (B, K), got {shape} for {n} images")
    low, high, classes = int(answers.labels.min()), int(answers.labels.max()), answers.logits.shape[1]
    if low < 0 or high >= classes:
        raise UserError(f"labels must lie in 0..{classes - 1}, as the model has {classes} classes; got {low}..{high}")
