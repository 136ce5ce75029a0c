"""A record of one of RobustBench's models beside what RobustBench published of it."""

from __future__ import annotations

from robustbench_gkl.core.exact import format_fraction, parse_fraction
from robustbench_gkl.results.published_models import PublishedModel, published_models, published_source
from robustbench_gkl.results.record import Record
from robustbench_gkl.results.statistics import wilson_interval
from robustbench_gkl.results.tiers import STANDARD

_ZOO = "zoo"
"""Where the source of a record's model has ``DATASET/THREAT/NAME`` of RobustBench's table."""


def published_lines(record: Record) -> list[str]:
    """Return what is published of the record's model, and whether the record's 95 % intervals hold it.

    Empty unless the model is RobustBench's. Figures under attack are compared with a complete evaluation under standard
    AutoAttack alone, and all of them on the test images, the data set, norm and radius that they were published for;
    clean accuracy measured without an attack is the same under any threat.
    """
    found = _published(record)
    if found is None or found.eps is None:
        return []
    figures = {"clean": found.clean, "AutoAttack": found.autoattack}
    if found.best_known != found.autoattack:
        figures["best known"] = found.best_known
    texts = ", ".join(f"{name} {value:.2f} %" for name, value in figures.items() if value is not None)
    board = f"{found.dataset}, {found.norm} {format_fraction(found.eps)}"
    lines = [f"published by RobustBench ({board}, as of {published_source().date}): {texts}"]
    if reason := _incomparable(record, found):
        return [*lines, f"  not compared: {reason}"]
    lines.append(_comparison("clean", record.clean_acc, record.data.n, {"clean": figures.pop("clean")}))
    if record.partial or STANDARD not in [attack.spec for attack in record.attacks]:
        return [*lines, "  robust: not compared, because this is no complete evaluation under autoattack"]
    return [*lines, _comparison("robust", record.worst_case_acc, record.data.n, figures)]


def _published(record: Record) -> PublishedModel | None:
    dataset, _, rest = str((record.model.source or {}).get(_ZOO, "")).partition("/")
    threat, _, name = rest.partition("/")
    rows = [row for row in published_models() if (row.dataset, row.name) == (dataset, name)]
    return next((row for row in rows if row.norm == threat.lower()), None)


def _incomparable(record: Record, found: PublishedModel) -> str | None:
    """Return why the record's figures are others than the published ones, or None."""
    dataset = record.data.dataset.partition(":")[0]
    if dataset != found.dataset or record.data.split != "test":
        return f"this is on the {record.data.split} images of {record.data.dataset}"
    eps = parse_fraction(record.threat.eps)
    if eps and (record.threat.norm, eps) != (found.norm, found.eps):
        return f"this is at {record.threat}"
    return None


def _comparison(what: str, accuracy: float, n: int, figures: dict[str, float | None]) -> str:
    low, high = (100 * end for end in wilson_interval(round(accuracy * n / 100), n))
    verdicts = ", ".join(
        f"{'holds' if low <= value <= high else 'does not hold'} the published {value:.2f} % ({name})"
        for name, value in figures.items()
        if value is not None
    )
    return f"  {what}: our 95 % interval on {n} images, {low:.2f} to {high:.2f}, {verdicts}"
