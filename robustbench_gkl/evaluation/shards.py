"""Evaluation by processes that share nothing but a folder: each leaves its part, and one joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from robustbench_gkl.config import EvalConfig, validated
from robustbench_gkl.errors import UserError
from robustbench_gkl.evaluation.job import Outcome
from robustbench_gkl.evaluation.outcome import Progress
from robustbench_gkl.evaluation.sharing import Shard, Share
from robustbench_gkl.evaluation.steps import attack, conclude, known_records, open_journal
from robustbench_gkl.evaluation.subject import prepare
from robustbench_gkl.exchange import Exchange
from robustbench_gkl.results.record import Check
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.runs import Run, find_run
from robustbench_gkl.settings import WeightsName


@dataclass(frozen=True)
class ShardOutcome:
    """What a shard has left for the merge.

    Attributes:
        record_id: of the record that it is a part of.
        n: samples in the shard.
        standing: those that stand.
        partial: stopped by the time limit.
    """

    record_id: str
    n: int
    standing: int
    partial: bool


def evaluate_shard(
    config: EvalConfig,
    run: Run,
    store: ResultStore,
    shard: Shard,
    *,
    weights: WeightsName | None = None,
    device: torch.device,
    data_dir: Path = Path("data"),
    overwrite: bool = False,
    time_limit: float | None = None,
    exchange: Exchange | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_checks: Callable[[Sequence[Check]], None] | None = None,
) -> ShardOutcome | Outcome:
    """Evaluate a run on a fixed share of the samples, and leave what was found for :func:`merge_parts`.

    Args:
        shard: which samples.
        config, run, store, weights, device, data_dir, overwrite, time_limit, exchange, on_progress, on_checks: as for
            :func:`evaluate_run`.

    Returns:
        What the shard has come to, or the record of the whole if there is one already.

    Raises:
        UserError: as :func:`evaluate_run`; fewer samples than shards.
    """
    share = Share(exchange or Exchange(), shard)
    job = prepare(config, run, weights=weights, device=device, data_dir=data_dir, exchange=share.exchange)
    if len(job.samples) < shard.of:
        raise UserError(f"--shard {shard}: there are only {len(job.samples)} samples; use fewer shards")
    if known := known_records([job], store, share.exchange, overwrite=overwrite):
        return Outcome(known[0], reused=True)
    journal = open_journal(job, store, share)
    _, result = attack(job, share, journal, time_limit=time_limit, on_progress=on_progress, on_checks=on_checks)
    mine = share.samples(result.n)
    return ShardOutcome(job.id, int(mine.sum()), int((mine & result.standing).sum()), result.partial)


def merge_parts(
    record_id: str,
    store: ResultStore,
    *,
    checkpoints_dir: Path = Path("checkpoints"),
    device: torch.device,
    data_dir: Path = Path("data"),
    save_adversarial: int = 0,
) -> Outcome:
    """Make a record of the parts that shards, ranks or interrupted evaluations have left; nothing is attacked again.

    The run must be in ``checkpoints_dir``: the checks before and after the attacks need its model.

    Raises:
        UserError: there are no parts, another model has the run's name, or samples are missing; the parts stay.
    """
    journal = store.joined_journal(record_id)
    if (about := journal.about) is None:
        raise UserError(f"there are no parts of {record_id} in {store.folder}; evaluate with --shard first")
    run = find_run(about["run"], checkpoints_dir=checkpoints_dir)
    config = validated(EvalConfig, about["config"], what=f"evaluation {record_id}")
    job = prepare(config, run, weights=about["weights"], device=device, data_dir=data_dir)
    if job.id != record_id:
        raise UserError(f"the parts of {record_id} are about other weights or images than {run.name} in {run.folder}")
    checks, result = attack(job, Share(attacks=False), journal)
    if result.missing:
        raise UserError(f"{record_id}: {_missing_text(result.missing, result.n, journal.parts)}")
    record = conclude(job, result, checks, store, journal, save_adversarial=save_adversarial)
    journal.delete()
    return Outcome(record, reused=False)


def _missing_text(missing: Sequence[int], n: int, parts: Iterable[str]) -> str:
    """Return which samples are missing for a record of ``n``, by the shards whose ``parts`` are there."""
    known = {Shard(*map(int, part.partition(".")[0].split("of"))) for part in parts if "of" in part}
    text = f"{len(missing)} of {n} samples are missing"
    if not known:
        first = ", ".join(map(str, sorted(missing)[:5]))
        return f"{text} (the first: {first}); give the eval command again to go on"
    of = max(shard.of for shard in known)
    lacking = sorted({Shard(position % of + 1, of) for position in missing}, key=lambda shard: shard.number)
    said = [f"shard {shard} is {'not finished' if shard in known else 'not there'}" for shard in lacking]
    return f"{text}: {', '.join(said)}; give its eval command (again)"
