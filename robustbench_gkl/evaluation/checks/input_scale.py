"""The check that the images come in the scale that the model was trained with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robustbench_gkl.evaluation.checks.answers import Answers
from robustbench_gkl.evaluation.checks.finding import SURE, Finding, clearly_better, percent
from robustbench_gkl.models.base import Normalize
from robustbench_gkl.results.statistics import binomial_tail

_LEAST_SHARE = 0.1
_LEAST_NATS = 0.05
"""What the loss must fall by to be a warning, as a share and in nats an image. Of a sound model it falls by less: by at
most 0.035 for the networks that this was measured on."""


@dataclass(frozen=True)
class _Normalisation:
    """Mean and std, (1, C, 1, 1) or (1, 1, 1, 1) each, and what to call them."""

    words: str
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], images: Tensor, *, words: str = "") -> _Normalisation:
        """Return the normalisation of ``images`` by constants, which are its words unless it has others."""
        found = cls(words, *(images.new_tensor(values).reshape(1, -1, 1, 1) for values in (mean, std)))
        return found if words else replace(found, words=str(found))

    def __str__(self) -> str:
        """Return the constants."""
        return " and ".join(
            ",".join(f"{value:.3g}" for value in constants.flatten().tolist()) for constants in (self.mean, self.std)
        )


@dataclass(frozen=True)
class _Reading:
    """The images as the model would see them if something were different.

    Attributes:
        words: what.
        images: (B, C, H, W).
        advice: what to do if the model does better on them.
    """

    words: str
    images: Tensor
    advice: str


def input_scale(answers: Answers) -> Finding:
    """Check whether the model does better on images of another scale, such as that of its training.

    It fails if the model is clearly right more often; a clearly smaller loss is a warning. Two normalisations under
    which accuracy differs by a point or two, such as those of ImageNet and of CIFAR-10, are not told apart.
    """
    labels = answers.labels.cpu()  # where to look at each of many means waits for nothing
    before = _loss(answers.logits.cpu(), labels)
    found = []
    for reading in _readings(answers):
        logits = answers.look(reading.images).cpu()
        right, loss = (logits.argmax(1) == labels).numpy(), _loss(logits, labels)
        better = _much_smaller(loss, before) and clearly_better(right, answers.right)
        smaller = _much_smaller(loss, before) and _smaller_for_most(loss, before)
        found.append((better, smaller, _mean(loss), percent(right), reading))
    better, smaller, least, accuracy, reading = max(found, key=lambda one: (*one[:2], -one[2]))
    figure = f"accuracy {percent(answers.right)}, loss {_mean(before):.2f}; {accuracy}, {least:.2f} on images "
    figure += reading.words
    # A random model may have drawn worse for one pass than for another: the tests count on equal conditions.
    return Finding.graded(figure, reading.advice, fail=better and not answers.random, warn=better or smaller)


def _readings(answers: Answers) -> Iterator[_Reading]:
    """Yield what may be wrong with the input, at most ten."""
    images, axes = answers.images, (0, 2, 3)
    std = images.std(axes, keepdim=True).clamp_min(1e-6)
    own = _Normalisation("the data's own", images.mean(axes, keepdim=True), std)
    none, half = _Normalisation.of([0.0], [1.0], images, words="none"), _Normalisation.of([0.5], [0.5], images)
    usual = (none, half, own)
    for wrong in (*usual, *_declared(answers)):
        for right in usual:
            shifted = wrong.mean + wrong.std * (images - right.mean) / right.std
            if wrong is right or torch.equal(shifted, images):
                continue
            yield _Reading(
                f"normalised by {right.words} instead of {wrong.words}",
                shifted,
                "Remove a normalisation: images in [0, 1] seem to be normalised twice, or in vain."
                if right is none
                else "Put the normalisation that the model was trained with inside it (gklbench import --mean --std): "
                f"{right} fit better.",
            )
    yield _Reading(
        "times 255",
        255 * images,
        "Multiply by 255 inside the model: it seems to expect grey levels, and images are in [0, 1].",
    )


def _declared(answers: Answers) -> Iterator[_Normalisation]:
    """Yield the normalisation that the model is known to begin with, if any."""
    for module in answers.model.modules():
        if isinstance(module, Normalize) and (constants := module.constants()) is not None:
            yield _Normalisation.of(*constants, answers.images)
            return


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy (B,) of the logits (B, K), which are scaled so that its mean is least.

    So it counts for nothing that another scale of the input changes that of the logits.
    """
    unit = logits / logits.std().clamp_min(1e-30)
    losses = [cross_entropy(unit * scale, labels, reduction="none") for scale in torch.logspace(-1, 1.5, 41).tolist()]
    return min(losses, key=_mean)


def _mean(loss: Tensor) -> float:
    """Return the mean of the losses (B,); infinity where it is NaN."""
    return float(loss.mean().nan_to_num(torch.inf))


def _much_smaller(loss: Tensor, before: Tensor) -> bool:
    """Whether losses (B,) are smaller by more than another normalisation gains a sound model."""
    return _mean(before) - _mean(loss) > max(_LEAST_NATS, _LEAST_SHARE * _mean(before))


def _smaller_for_most(loss: Tensor, before: Tensor) -> bool:
    """Whether losses (B,) are smaller for so many images that it is no chance, by an exact sign test."""
    smaller, larger = int((loss < before).sum()), int((loss > before).sum())
    return binomial_tail(smaller, smaller + larger, 0.5) < SURE
