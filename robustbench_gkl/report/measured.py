"""What is to be drawn: records, or evaluations that look like them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import format_fraction
from robustbench_gkl.report.content import Setting, setting_of
from robustbench_gkl.results import Record, ResultStore
from robustbench_gkl.results.record import Certificates, DataInfo, ModelInfo, ThreatInfo

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_gkl.evaluation import Evaluation

Measured: TypeAlias = "Record | Evaluation"
Results: TypeAlias = "str | Path | Measured | Sequence[Measured] | Mapping[str, Measured | Sequence[Measured]]"
"""A results folder, or what was measured, in a mapping under names of its own."""


def title_of(setting: Setting) -> str:
    """Return what a figure of a setting is called."""
    data = setting.dataset if setting.split == "test" else f"{setting.dataset} ({setting.split})"
    threat = setting.norm if setting.eps is None else f"{setting.norm} {setting.eps}"
    return f"{data}, {threat}, {setting.attacks_label}, n = {setting.n:,}"


def records_of(what: Results) -> list[Record]:
    """Return the records of a folder, or those given; evaluations without one are made to look like one.

    Raises:
        UserError: something else, or two evaluations of one name under the same attacks.
    """
    if isinstance(what, (str, Path)):
        return list(ResultStore(Path(what)).records())
    found = [_record(item, name) for item, name in _given(what, None)]
    new = [(record.model.name, setting_of(record)) for record in found if not record.id]
    for name, setting in new:
        if new.count((name, setting)) > 1:
            where = title_of(setting)
            raise UserError(f"two evaluations of {name!r} on {where}; give a mapping of names to evaluations")
    return found


def _given(what: Results, name: str | None) -> Iterator[tuple[Measured, str | None]]:
    """Yield each record or evaluation with the name that it was given."""
    if isinstance(what, Mapping):
        for key, value in what.items():
            yield from _given(value, str(key))
    elif isinstance(what, Sequence) and not isinstance(what, str):
        for item in what:
            yield from _given(item, name)
    elif isinstance(what, Record) or hasattr(what, "broken_by"):
        yield what, name  # type: ignore[misc]
    else:
        raise UserError(f"expected a results folder, records or evaluations, got {type(what).__name__}")


def _record(item: Measured, name: str | None) -> Record:
    """Return a record under the name that it was given; of an evaluation without one, what figures read of records."""
    record = item if isinstance(item, Record) else item.record
    if record is None:
        assert not isinstance(item, Record)
        record = _recordlike(item)
    if name is None:
        return record
    return record.model_copy(update={"model": record.model.model_copy(update={"name": name})})


def _recordlike(item: Evaluation) -> Record:
    """Return what figures read of the record that an evaluation would have; its id is empty."""
    if item.threat is None:
        raise UserError("an evaluation that does not say its threat model cannot be drawn; set its threat")
    certified = None
    if (proved := item.proved) is not None:
        certified = Certificates(proved=proved, methods={}, undecided=0, samples="", margin=0)
    samples = hashlib.sha256(item.index.tobytes() + item.label.tobytes()).hexdigest()
    return Record(
        id="",
        created="",
        model=ModelInfo(name=item.name, arch="", params=0, weights_sha256=""),
        data=DataInfo(
            dataset="given images", split="test", n=item.n, sha256=samples, sample_set="chosen", index_ranges=()
        ),
        threat=ThreatInfo(norm=item.threat.norm, eps=format_fraction(item.threat.eps)),
        config=None,
        protocol=(),
        protocol_sha256="",
        engine="",
        seed=0,
        batch_size=item.batch_size,
        clean_acc=item.clean_acc,
        attacks=tuple(item.attacks),
        worst_case_acc=item.robust_acc,
        checks=(),
        partial=item.partial,
        seconds=item.seconds,
        environment={},
        verdicts_sha256="",
        certified=certified,
    )


def rows_of(records: Sequence[Record]) -> pd.DataFrame:
    """Return records as rows of a leaderboard."""
    import pandas as pd

    rows = [
        {
            "model": record.model.name,
            "loss": record.model.loss,
            "dataset": record.data.dataset,
            "threat": str(record.threat),
            "n": record.data.n,
            "clean_acc": record.clean_acc,
            "worst_case_acc": record.worst_case_acc,
            "checks": record.verdict,
            "certified_acc": None if record.certified is None else 100 * record.certified.proved / record.data.n,
        }
        for record in records
    ]
    return pd.DataFrame(rows)
