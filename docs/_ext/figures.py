"""The figures of the documentation, drawn from our own code when it is built: each light and dark, as SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import matplotlib as mpl
import numpy as np
import torch
from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from robustbench_gkl.losses.base import kl_divergence
from robustbench_gkl.losses.gkl import soft_cross_entropy, weighted_mse
from robustbench_gkl.results.statistics import wilson_interval

FOLDER = Path(__file__).parents[1] / "_generated" / "figures"
COLOURS = {
    "light": {"ink": "#22262b", "grid": "#d7dade", "lines": ["#1d4f91", "#c2571a", "#2c7a4b", "#8a9099"]},
    "dark": {"ink": "#d8dbe0", "grid": "#3c4148", "lines": ["#8ab4f0", "#f0a071", "#7fcf9f", "#888e97"]},
}
BLUE, ORANGE, GREEN, GREY = "C0", "C1", "C2", "C3"


def _styled(theme: str) -> dict[str, object]:
    colours = COLOURS[theme]
    ink = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), colours["ink"]
    )
    return {
        **ink,
        "axes.prop_cycle": mpl.cycler(color=colours["lines"]),
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "grid.color": colours["grid"],
        "grid.linewidth": 0.6,
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "legend.frameon": False,
        "svg.hashsalt": "gklbench",
    }


def _gradients() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the gradients of KL and of DKL's two parts, by each pair of logits."""
    clean = torch.tensor([[2.2, 1.1, 0.3, -0.4, -1.2]], dtype=torch.float64)
    adv = torch.tensor([[0.6, 1.9, 0.2, -0.1, -0.9]], dtype=torch.float64)
    weights = clean.softmax(1)

    def both(value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        z, a = clean.clone().requires_grad_(), adv.clone().requires_grad_()
        found = torch.autograd.grad(value(z, a).sum(), (z, a), allow_unused=True)
        return tuple(np.zeros(5) if part is None else part[0].numpy() for part in found)  # type: ignore[return-value]

    parts = {
        "KL": both(kl_divergence),
        "wMSE": both(lambda z, a: weighted_mse(a.detach(), z, weights)),
        "soft cross-entropy": both(lambda z, a: soft_cross_entropy(a, z)),
    }
    return {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items()}


def decoupled(figure: Figure) -> None:
    """Draw what of KL's gradient comes from which part of DKL."""
    axes = figure.subplots(1, 2, sharey=True)
    titles = ("with respect to the clean logits z", "with respect to the adversarial logits a")
    for ax, title, parts in zip(axes, titles, _gradients(), strict=True):
        places = np.arange(5)
        ax.bar(places - 0.27, parts["KL"], 0.25, label="KL", color=GREY)
        ax.bar(places, parts["wMSE"], 0.25, label="wMSE", color=BLUE)
        ax.bar(places + 0.27, parts["soft cross-entropy"], 0.25, label="soft cross-entropy", color=ORANGE)
        ax.set(title=title, xlabel="class")
        ax.title.set_fontsize(10)
        ax.set_xticks(places)
    axes[0].set_ylabel("gradient")
    axes[0].legend(loc="lower right", fontsize=9)


def weights(figure: Figure) -> None:
    """Draw the total weight that a sample has in the wMSE, by how sure the network is."""
    ax = figure.subplots()
    classes, sure = 10, np.linspace(0.1, 0.9999, 400)

    def pairs(top: np.ndarray) -> np.ndarray:
        """Return the sum of p_j p_k over j != k, with the rest of the probability spread evenly."""
        return np.asarray(1 - top**2 - (1 - top) ** 2 / (classes - 1))

    ax.plot(sure, pairs(sure), label="KL and DKL: the sample's own prediction", color=GREY)
    for mean, colour in ((0.6, BLUE), (0.4, GREEN)):
        ax.axhline(pairs(np.array(mean)), label=f"IKL and GKL: a class predicted at {mean} on average", color=colour)
    ax.set(xlabel="probability of the top class for this sample", ylabel="total weight of its pairs of classes")
    ax.set_ylim(0, 1)
    ax.legend(fontsize=9, loc="lower left")


def smoothing(figure: Figure) -> None:
    """Draw what gamma does to a row of the class prior."""
    ax = figure.subplots()
    row = np.array([0.52, 0.16, 0.09, 0.07, 0.05, 0.04, 0.03, 0.02, 0.015, 0.005])
    for place, (gamma, colour) in enumerate(((1.0, GREY), (0.4, BLUE), (0.2, ORANGE), (0.0, GREEN))):
        smoothed = row**gamma
        ax.bar(
            np.arange(10) + 0.2 * (place - 1.5), smoothed / smoothed.sum(), 0.19, label=f"γ = {gamma:g}", color=colour
        )
    ax.set(xlabel="class, from the likeliest", ylabel="share of the weight")
    ax.set_xticks(range(10))
    ax.legend()


def memory(figure: Figure) -> None:
    """Draw the memory of one (B, C, C) tensor beside that of one (B, C) tensor."""
    ax = figure.subplots()
    classes = np.logspace(1, 4.3, 100)
    for label, size, colour in (
        ("pairs of classes, (B, C, C)", classes**2, GREY),
        ("O(BC) form, (B, C)", classes, BLUE),
    ):
        ax.loglog(classes, 256 * 4 * size / 2**20, label=label, color=colour)
    ax.axvline(1000, color=ORANGE, linewidth=0.8, label="ImageNet, C = 1,000")
    ax.set(xlabel="classes C", ylabel="MiB of one tensor at B = 256, float32")
    ax.legend(fontsize=9)


def _falls(samples: int, steps: int) -> list[int]:
    """Return after how many steps each sample falls: many early, some never (then all steps are taken)."""
    draws = np.random.default_rng(3).random(samples)
    return [min(steps, max(1, round(-6 * np.log(1 - draw)))) if draw < 0.75 else steps for draw in draws]


def _bars(ax: Axes, spans: list[tuple[int, int, int]], *, steps: int) -> float:
    """Draw spans (slot, start, stop); return the share of slots and steps that did work, up to the last one."""
    for number, (slot, start, stop) in enumerate(spans):
        fell = stop - start < steps
        ax.barh(slot, stop - start - 0.15, left=start, height=0.78, color=ORANGE if fell else BLUE)
        if stop - start > 2:
            ax.text(start + 0.5, slot, str(number), va="center", fontsize=7, color="white")
    end = max(stop for _, _, stop in spans)
    return sum(stop - start for _, start, stop in spans) / (end * (1 + max(slot for slot, _, _ in spans)))


def batching(figure: Figure) -> None:
    """Draw fixed batches and continuous batching on the same samples."""
    slots, steps = 6, 20
    falls = _falls(24, steps)
    fixed = [(n % slots, steps * (n // slots), steps * (n // slots) + length) for n, length in enumerate(falls)]
    free, packed = [0] * slots, []
    for length in falls:
        slot = int(np.argmin(free))
        packed.append((slot, free[slot], free[slot] + length))
        free[slot] += length
    axes = figure.subplots(2, 1, sharex=True)
    for ax, spans, title in zip(axes, (fixed, packed), ("fixed batches", "continuous batching"), strict=True):
        share = _bars(ax, spans, steps=steps)
        ax.set(title=f"{title}: {100 * share:.0f} % of the slots at work until the end", ylabel="slot of the batch")
        ax.title.set_fontsize(10)
        ax.set_yticks(range(slots))
        ax.invert_yaxis()
        ax.grid(visible=False)
    axes[1].set_xlabel("steps (passes of the model)")


def images_needed(figure: Figure) -> None:
    """Draw half the length of the 95 % Wilson interval by the number of images."""
    ax = figure.subplots()
    numbers = np.unique(np.logspace(1.5, 4, 60).astype(int))
    for accuracy, colour in ((50, BLUE), (80, ORANGE), (95, GREEN)):
        half = [50 * float(np.diff(wilson_interval(round(accuracy * n / 100), n))[0]) for n in numbers.tolist()]
        ax.loglog(numbers, half, label=f"robust accuracy {accuracy} %", color=colour)
    ax.set(xlabel="test images", ylabel="± points, half of the 95 % interval")
    ax.set_yticks([0.5, 1, 2, 5, 10], labels=["0.5", "1", "2", "5", "10"])
    ax.set_xticks([30, 100, 300, 1000, 3000, 10000], labels=["30", "100", "300", "1,000", "3,000", "10,000"])
    ax.minorticks_off()
    ax.legend(fontsize=9)


FIGURES: dict[str, tuple[Callable[[Figure], None], tuple[float, float]]] = {
    "decoupled": (decoupled, (7.2, 3.2)),
    "weights": (weights, (6.4, 3.4)),
    "smoothing": (smoothing, (6.4, 3.2)),
    "memory": (memory, (6.4, 3.2)),
    "batching": (batching, (7.2, 4.4)),
    "images-needed": (images_needed, (6.4, 3.2)),
}


class Drawn(SphinxDirective):
    """Show one of the figures, in the colours of the page."""

    required_arguments = 1
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the images, of which a page shows one."""
        if self.arguments[0] not in FIGURES:
            raise self.error(f"there is no figure {self.arguments[0]}; choose from {', '.join(FIGURES)}")
        return [
            nodes.image(
                uri=f"/_generated/figures/{self.arguments[0]}-{theme}.svg",
                alt=self.options["alt"],
                classes=[f"only-{theme}"],
            )
            for theme in COLOURS
        ]


def draw(app: Sphinx) -> None:
    """Draw all figures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for theme in COLOURS:
        with mpl.rc_context(_styled(theme)):
            for name, (paint, size) in FIGURES.items():
                figure = Figure(figsize=size, layout="constrained")
                paint(figure)
                figure.savefig(FOLDER / f"{name}-{theme}.svg", transparent=True, metadata={"Date": None})


def setup(app: Sphinx) -> dict[str, bool]:
    """Draw everything before pages are read."""
    app.add_directive("drawn", Drawn)
    app.connect("builder-inited", draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
