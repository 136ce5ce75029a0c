"""Training keys as version 0.1 saved them, in terms of today's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_todays_meaning(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved training keys of a run or record with the meaning that they had when they were saved.

    Saved keys are complete, so that those of version 0.1 show by the lack of ``schedule.warmup_kind``: a milestone was
    the first epoch of the lower rate, counted from 1, and the warm-up a factor on the whole schedule.
    """
    schedule = saved.get("schedule")
    if not isinstance(schedule, Mapping) or "warmup_kind" in schedule or "milestones" not in schedule:
        return dict(saved)
    former = {**schedule, "milestones": [first - 1 for first in schedule["milestones"]]}
    if schedule.get("warmup"):
        former["warmup_kind"] = "factor"
    return {**saved, "schedule": former}


def has_former_key(keys: Mapping[str, Any]) -> bool:
    """Return True if the training keys of a recipe have one that only version 0.1 had."""
    optimizer = keys.get("optimizer")
    return isinstance(optimizer, Mapping) and "decay_batchnorm" in optimizer
