"""The names of the objectives, and their substitutes where a model has too few classes."""

from __future__ import annotations

from typing import Literal

ObjectiveName = Literal["ce", "margin", "prob-margin", "dlr"]


def substitution(name: ObjectiveName, *, num_classes: int) -> dict[str, str]:
    """Return the protocol's entry where another objective than ``name`` is used, else nothing."""
    few = name == "dlr" and num_classes < 3
    return {"objective": "margin, since the DLR loss needs three classes"} if few else {}
