"""One record as lines of text."""

from __future__ import annotations

from robustbench_gkl.report.published import published_lines
from robustbench_gkl.results.record import Record
from robustbench_gkl.results.statistics import wilson_interval
from robustbench_gkl.results.store import ResultStore


def saved_lines(record: Record, store: ResultStore) -> list[str]:
    """Return where the record's adversarial images are kept, and how many; empty if there are none."""
    path, count = store.adversarial_path(record.id), store.adversarial_count(record.id)
    if count is None:
        return []
    return [f"adversarial images of {count} of {record.broken} broken samples in {path}"]


def record_lines(record: Record, *, reused: bool) -> list[str]:
    """Return what a record says; ``reused`` adds that it was there already."""
    lines = (
        [f"already evaluated on {record.created[:16]}; nothing was run (--overwrite to run again)"] if reused else []
    )
    lines.append(f"clean accuracy      {record.clean_acc:6.2f} %  ({record.data.n} samples)")
    for attack in record.attacks:
        lines.append(f"after {attack.label:13} {attack.robust_acc:6.2f} %")
        if len(attack.stages) > 1:
            broken = ", ".join(f"{stage.name} {stage.broken}" for stage in attack.stages)
            lines.append(f"  broken by: {broken}")
    if (found := record.certified) is not None:
        low, high = wilson_interval(found.proved, record.data.n)
        interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
        lines.append(f"certified accuracy  {100 * found.proved / record.data.n:6.2f} %  ({interval})")
        lines.append(f"  {found}")
    low, high = wilson_interval(round(record.worst_case_acc * record.data.n / 100), record.data.n)
    interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
    bound = "robust accuracy <= " if record.partial else "robust accuracy    "
    lines.append(f"{bound} {record.worst_case_acc:6.2f} %  ({interval})")
    if record.partial:
        lines.append("partial: stopped by --time-limit; the same command goes on. It replaces no complete record.")
    lines += [
        f"{check.verdict} {check.name}: {check.figure}. {check.advice}"
        for check in record.checks
        if check.verdict != "PASS"
    ]
    lines += published_lines(record)
    lines.append(f"record {record.id}, {record.seconds:.1f} s, batches of {record.batch_size}")
    return lines
