"""What an evaluation asks, as the id of its record is made of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from robustbench_gkl.attacks import AttackSpec, protocol_of
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.exact import format_fraction
from robustbench_gkl.results.record import record_id


class Question(TypedDict):
    """What an id is made of, but for the model."""

    name: str
    data_sha256: str
    threat: str
    protocol: list[dict[str, Any]]
    engine: str
    seed: int


def question_of(config: EvalConfig, *, name: str, data_sha256: str, protocol: list[dict[str, Any]]) -> Question:
    """Return what is asked of the model recorded as ``name`` on the images of hash ``data_sha256``."""
    return {
        "name": name,
        "data_sha256": data_sha256,
        "threat": f"{config.threat.norm} {format_fraction(config.threat.eps)}",
        "protocol": protocol,
        "engine": config.engine,
        "seed": config.seed,
    }


def id_of(config: EvalConfig, question: Question, *, model_sha256: str) -> str:
    """Return the id of the record that answers the question."""
    size = 0 if config.batch_size == "auto" else config.batch_size
    return record_id(model_sha256=model_sha256, batch_size=size, **question)


def protocol_under(attacks: Sequence[AttackSpec], config: EvalConfig, *, num_classes: int) -> list[dict[str, Any]]:
    """Return the protocol; search precision and compilation are in it where they are not the default."""
    protocol = protocol_of(attacks, config.threat, num_classes=num_classes)
    for part in protocol:
        if config.search_precision != "float32":
            part["search_precision"] = config.search_precision
        if config.compiled:
            part["compiled"] = True
    return protocol
