"""An evaluation or its record in one line."""

from __future__ import annotations

from collections.abc import Sequence


def brief(
    kind: str,
    *,
    about: Sequence[str],
    n: int,
    clean_acc: float,
    robust_acc: float,
    attacks: Sequence[str],
    partial: bool,
    proved: int | None,
) -> str:
    """Return such as ``Evaluation(gkl, linf 8/255, 500 samples: clean 84.20, robust 51.40, autoattack)``.

    Args:
        kind: what it is.
        about: model, data and threat, as far as they are known.
        n: the number of samples.
        clean_acc, robust_acc: in percent; the latter is shown where there was an attack.
        attacks: their labels.
        partial: the robust accuracy is only an upper bound.
        proved: certified samples; None where nobody asked.
    """
    figures = [f"clean {clean_acc:.2f}"]
    figures += [] if proved is None else [f"certified {100 * proved / n:.2f}"]
    if any(label != "none" for label in attacks):
        figures += [f"robust {'at most ' if partial else ''}{robust_acc:.2f}", " + ".join(attacks)]
    return f"{kind}({', '.join([*about, f'{n:,} samples'])}: {', '.join(figures)})"
