"""Leaderboards: boards as data frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import format_fraction, parse_fraction
from robustbench_gkl.results.board import BoardEntry, BoardKey, Ranking, entries_of
from robustbench_gkl.results.columns import attack_columns
from robustbench_gkl.results.record import Record
from robustbench_gkl.results.seeds import Family, families_of
from robustbench_gkl.results.statistics import wilson_interval
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.results.tiers import UNRANKED

if TYPE_CHECKING:
    import pandas as pd

LEADING = ("rank", "model", "loss", "arch", "dataset", "threat", "n", "clean_acc")
TRAILING = ("worst_case_acc", "ci_low", "ci_high", "checks", "params", "eval_seconds")
AUTOATTACK_COLUMNS = "autoattack_columns"
"""Where a leaderboard's ``attrs`` name the columns of standard AutoAttack, the one to be preferred first."""
CERTIFIED = ("certified_acc", "certified_low", "certified_high")
"""Columns that are shown, as the last ones, where a row has certificates."""
DIFFERING = ("split", "samples", "weights", "engine", "attack_seeds")
"""Columns that are shown where rows differ in them."""


def leaderboard(
    results_dir: str | Path = "results",
    *,
    dataset: str | None = None,
    eps: str | None = None,
    ids: Collection[str] | None = None,
    average_seeds: bool = False,
    strict: bool = False,
    all_models: bool = False,
    reference: str | None = None,
) -> pd.DataFrame:
    """Return the leaderboard over the records in a results folder, one row a model and board.

    A board is a data set, split, sample set and threat (``clean`` without an attack). On it a model is judged by
    ``worst_case_acc``, the samples that nothing known has broken: pointwise over all its records, whatever attack,
    seed or engine, partial ones included. It stands in the tier of the strongest attack that it has completed, and
    its rank is 1 + the number of models of that tier that are significantly better (exact McNemar on the same
    samples, Holm over all pairs of the tier: the chance that any model counts as better than an equal one is at most
    5 %).

    Args:
        results_dir: the folder with ``records/`` and ``verdicts/``.
        dataset: only rows on this data set. Ranks are as without it.
        eps: only rows at this radius (``"8/255"``; ``"0"`` for clean accuracy). Ranks are as without it.
        ids: build the boards from the records of these ids alone, as if there were no others.
        average_seeds: one row for all models that differ in nothing but the training seed, see
            :mod:`robustbench_gkl.results.seeds`.
        strict: refuse broken records instead of passing them by.
        all_models: superseded models too: those of whose names there is a newer model.
        reference: judge by this one attack alone, a canonical spec (:func:`robustbench_gkl.attacks.canonical_specs`),
            from the records in which it ran first if there are such. ``worst_case_acc`` is then the accuracy after it,
            and models that have not completed it have no rank.

    Returns:
        Columns ``rank model loss arch dataset threat n clean_acc``, one per attack (its accuracy alone, or
        ``after FIRST+SECOND`` where it ran on what others had left), ``worst_case_acc ci_low ci_high checks params
        eval_seconds tier``, ``teacher`` if a model has one, then those of ``split samples weights engine attack_seeds``
        in which rows differ, ``lacks`` if a model has no rank, and ``certified_acc certified_low certified_high`` if
        samples are certified: a lower bound of robust accuracy, as ``worst_case_acc`` is an upper one. Accuracies and
        interval ends (95 % Wilson) in percent. A notebook shows the data frame as a table for each board.

    Raises:
        UserError: no such folder, a broken record if ``strict``, an eps that is no number, or a reference that no
            record has.
    """
    store = ResultStore(Path(results_dir), strict=strict)
    wanted_eps = None if eps is None else format_fraction(parse_fraction(eps))
    records = [record for record in store.records() if ids is None or record.id in ids]
    if reference is not None:
        _require(reference, records)
    entries = [
        entry
        for entry in entries_of(records, store, reference=reference, all_models=all_models and not average_seeds)
        if dataset in (None, entry.board.dataset) and wanted_eps in (None, entry.board.eps)
    ]
    if average_seeds:
        return _family_frame(families_of(entries), store)
    placed = Ranking.of(entries).placed
    columns = attack_columns([found.entry for found in placed], store)
    samples = _sample_sets(entries)
    table = [
        {"rank": found.rank, **_cells(found.entry, samples), **accuracies}
        for found, accuracies in zip(placed, columns.cells, strict=True)
    ]
    frame = _frame(table, [*columns.names, *TRAILING])
    frame.attrs[AUTOATTACK_COLUMNS] = columns.autoattack
    return frame


def _require(reference: str, records: Sequence[Record]) -> None:
    known = {attack.spec for record in records for attack in record.attacks if attack.spec is not None}
    if reference not in known and known:
        raise UserError(f"no record has the attack {reference}; there are {', '.join(sorted(known))}")


def _sample_sets(entries: Collection[BoardEntry]) -> Mapping[BoardKey, str]:
    """Return how a sample set is told from others of the same name and size; empty where there is just one."""
    same = defaultdict(set)
    for entry in entries:
        same[entry.board._replace(sha256="", threat="")].add(entry.board.sha256)
    boards = {entry.board for entry in entries}
    return {board: board.sha256[:8] if len(same[board._replace(sha256="", threat="")]) > 1 else "" for board in boards}


def _cells(entry: BoardEntry, samples: Mapping[BoardKey, str]) -> dict[str, Any]:
    record, model, board = entry.newest, entry.newest.model, entry.board
    ranked = entry.tier != UNRANKED
    return {
        "model": entry.name,
        "loss": model.loss or "",
        "arch": model.arch,
        "dataset": board.dataset,
        "threat": board.threat,
        "n": board.n,
        "clean_acc": round(record.clean_acc, 2),
        **_accuracy_cells(entry),
        "checks": entry.verdict,
        "params": model.params,
        "eval_seconds": round(sum(record.seconds for record in entry.records), 1),
        "tier": entry.tier.name,
        "teacher": record.teacher or "",
        "split": board.split,
        "samples": samples[board],
        "weights": model.weights or "",
        "engine": "+".join(sorted({record.engine for record in entry.counted})),
        "attack_seeds": len({record.seed for record in entry.counted}) if ranked else None,
        "lacks": entry.lacks,
        **_certified_cells(entry),
    }


def _certified_cells(entry: BoardEntry) -> dict[str, float | None]:
    if entry.proved is None:
        return dict.fromkeys(CERTIFIED)
    ends = wilson_interval(entry.proved, entry.board.n)
    values = (entry.proved / entry.board.n, *ends)
    return {name: round(100 * value, 2) for name, value in zip(CERTIFIED, values, strict=True)}


def _accuracy_cells(entry: BoardEntry) -> dict[str, float | None]:
    if entry.accuracy is None:
        return dict.fromkeys(("worst_case_acc", "ci_low", "ci_high"))
    low, high = wilson_interval(entry.standing, entry.board.n)
    return {
        "worst_case_acc": round(entry.accuracy, 2),
        "ci_low": round(100 * low, 2),
        "ci_high": round(100 * high, 2),
    }


def _frame(table: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    from robustbench_gkl.results.board_rows import SHARED
    from robustbench_gkl.results.notebook import Leaderboard

    known = {name: {row[name] for row in table if row.get(name) is not None} for name in DIFFERING}
    differing = [name for name, values in known.items() if len(values) > 1]
    teacher, lacks = ([name] if any(row[name] for row in table) else [] for name in ("teacher", "lacks"))
    certified = CERTIFIED if any(row["certified_acc"] is not None for row in table) else ()
    frame = Leaderboard(list(table), columns=[*LEADING, *columns, "tier", *teacher, *differing, *lacks, *certified])
    frame.attrs[SHARED] = {name: next(iter(values)) for name, values in known.items() if len(values) == 1}
    whole = {"rank": "Int64", "n": "int64", "params": "int64", "seeds": "int64", "attack_seeds": "Int64"}
    numbers = dict.fromkeys(("clean_acc", "worst_case_acc", "ci_low", "ci_high", "spread", *CERTIFIED), "float64")
    return frame.astype({name: dtype for name, dtype in (whole | numbers).items() if name in frame})


def _family_frame(families: Sequence[Family], store: ResultStore) -> pd.DataFrame:
    members = [entry for family in families for entry in family.entries]
    columns = attack_columns(members, store)
    accuracies = dict(zip(map(id, members), columns.cells, strict=True))
    samples = _sample_sets(members)
    table = [_family_cells(family, [accuracies[id(entry)] for entry in family.entries], samples) for family in families]
    return _frame(table, [*columns.names, TRAILING[0], "spread", "seeds", *TRAILING[1:]])


def _family_cells(
    family: Family, accuracies: Sequence[Mapping[str, float]], samples: Mapping[BoardKey, str]
) -> dict[str, Any]:
    rows = [_cells(entry, samples) for entry in family.entries]
    cells = rows[0] | {"rank": family.rank, "model": family.name, "seeds": len(rows), "lacks": family.lacks}
    # A mean over some of the seeds only would not be comparable with those beside it.
    shared = [name for name in accuracies[0] if all(name in other for other in accuracies)]
    cells |= {name: _mean([other[name] for other in accuracies]) for name in shared}
    cells |= {
        "tier": family.tier.name,
        "clean_acc": _mean([row["clean_acc"] for row in rows]),
        "eval_seconds": round(sum(row["eval_seconds"] for row in rows), 1),
    }
    cells |= dict.fromkeys(CERTIFIED)  # of a mean there is no interval yet
    if all(row["certified_acc"] is not None for row in rows):
        cells["certified_acc"] = _mean([row["certified_acc"] for row in rows])
    if family.mean is None:
        return cells
    low, high = family.mean.interval()
    return cells | {
        "worst_case_acc": round(family.mean.mean, 2),
        "spread": round(family.spread, 2),
        "ci_low": round(low, 2),
        "ci_high": round(high, 2),
        "checks": max((row["checks"] for row in rows), key=["PASS", "WARN", "FAIL"].index),
        "engine": "+".join(sorted({row["engine"] for row in rows})),
        "attack_seeds": None,
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 2)
