"""Checks that model and data fit each other in the numbers of the classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustbench_gkl.evaluation.checks.answers import Answers
from robustbench_gkl.evaluation.checks.finding import Finding, clearly_better, percent, surely_above
from robustbench_gkl.results.statistics import wilson_interval


def label_order(answers: Answers) -> Finding:
    """Check whether accuracy is above chance, and whether other numbers for the classes would explain the labels."""
    labels, prediction, classes = answers.labels.cpu().numpy(), answers.prediction, answers.logits.shape[1]
    n, hits = len(labels), int(answers.right.sum())
    figure = f"accuracy {percent(answers.right)}"
    for shift in (1, -1):
        shifted = prediction == (labels + shift) % classes
        if clearly_better(shifted, answers.right):
            figure += f", {percent(shifted)} with {shift:+d} added to the labels"
            return Finding("FAIL", figure, "Number the classes as the model does: the labels are shifted by one.")
    held_out, permuted = _permuted(prediction, labels, classes)
    if clearly_better(permuted, answers.right[held_out]):
        figure += f", {percent(permuted)} with the classes in another order"
        return Finding("FAIL", figure, "Put the classes into the order that the model was trained with.")
    # What predictions with these shares of classes would score if they knew nothing of the image.
    shares = np.bincount(prediction, minlength=classes) @ np.bincount(labels, minlength=classes) / n**2
    chance = min(max(1 / classes, float(shares)), 1.0)
    above = surely_above(chance, hits, n)
    ceiling = wilson_interval(hits, n)[1]
    return Finding.graded(
        f"{figure} where chance is {100 * chance:.1f} %",
        "See that weights, classes and data belong together, and look at more images if there were few.",
        fail=not above and ceiling < chance + 0.1 < 1,  # with samples of one class alone nothing can be tested
        warn=not above,
    )


def _permuted(
    prediction: NDArray[np.int64], labels: NDArray[np.int64], classes: int
) -> tuple[slice, NDArray[np.bool_]]:
    """Fit the best one-to-one renaming of the classes on every other sample; return the others, and which are right.

    On the samples that it was fitted to, even the best renaming of a coin's predictions would look good.
    """
    fitted, held_out = slice(0, None, 2), slice(1, None, 2)
    together = np.zeros((classes, classes))
    np.add.at(together, (labels[fitted], prediction[fitted]), 1)
    together += 1e-6 * np.eye(classes)  # a class not seen keeps its number
    right = prediction[held_out] == labels[held_out]
    # The greatest of each row together: no renaming has more. Nor is any clearly better where all right would not be.
    if (together.argmax(1) == np.arange(classes)).all() or not clearly_better(np.ones_like(right), right):
        return held_out, right
    from scipy.optimize import linear_sum_assignment

    _, renamed = linear_sum_assignment(together, maximize=True)
    return held_out, prediction[held_out] == renamed[labels[held_out]]


def few_classes(answers: Answers) -> Finding:
    """Report what AutoAttack's losses and targets become where there are few classes."""
    classes = answers.logits.shape[1]
    return Finding.graded(
        f"{classes} classes: {min(9, classes - 1)} targets for targeted attacks, "
        + ("DLR losses replaced by margins" if classes < 4 else "DLR losses as published"),
        "Compare only with evaluations of as few classes: AutoAttack's losses need four.",
        fail=classes < 2,
        warn=classes < 4,
    )
