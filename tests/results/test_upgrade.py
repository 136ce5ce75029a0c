"""Records of version 1 are read as records of version 2."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import make_record, outcome, without_second_version

from robustbench_gkl.attacks import ATTACKS, parse_attack, protocol_of
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import NORMS, Norm
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.results import Record, ResultStore
from robustbench_gkl.results.record import canonical_hash

EXAMPLES = Path(__file__).parents[2] / "results" / "examples"
SHIPPED = sorted(path for study in ("digits", "cifar10-cnn-a") for path in (EXAMPLES / study).glob("records/*.json"))
"""Records of version 1."""
LATER = ("none", "images", "certify")
"""Attacks that version 1 did not have."""
SPECS = [
    *(entry.name for entry in ATTACKS.entries() if entry.pattern is None and entry.name not in LATER),
    *("pgd:steps=7,restarts=3,step_size=1/255,objective=dlr,random_start=false", "apgd-margin:steps=12"),
    *("apgd-ce:restarts=3,evaluations=20", "apgd-t:targets=3", "fab-t:targets=2,steps=5", "fab:restarts=1"),
    *("square:queries=500,restarts=2", "fgsm:objective=margin"),
    *(f"autoattack:version={version}" for version in ("plus", "rand", "quick")),
    "torchattacks.MIFGSM:steps=3,decay=0.5",
]


def first_version(store: ResultStore, spec: str, norm: Norm, engine: str = "native", **more: Any) -> dict[str, Any]:
    """Return what version 1 wrote of an evaluation."""
    record = make_record(store, outcome(stands=3, broken=1), norm=norm, eps="0.1", attacks=(spec,))
    values: dict[str, Any] = json.loads(record.text())
    threat, attack = ThreatModel(norm, "0.1"), parse_attack(spec)
    protocol = protocol_of([attack.reference(threat) if engine == "reference" else attack], threat, num_classes=10)
    for part in protocol:
        part.update(more)
    values |= {"protocol": protocol, "protocol_sha256": canonical_hash(protocol)}
    values["engine"] = engine
    return without_second_version(values)


def read(values: dict[str, Any]) -> Record:
    return Record.read(json.dumps(values).encode(), what="record x.json")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spec", SPECS)
def test_the_question_is_restored_from_the_settings_of_the_stages(spec: str, norm: Norm, tmp_path: Path) -> None:
    attack = parse_attack(spec)
    if norm not in attack.norms:
        return
    record = read(first_version(ResultStore(tmp_path), spec, norm))
    assert record.config == EvalConfig(
        dataset="digits", n=4, attacks=(attack.canonical,), threat={"norm": norm, "eps": "0.1"}
    )
    threat = ThreatModel(norm, "0.1")
    for stage, found in zip(attack.stages(threat, num_classes=10), record.attacks[0].stages, strict=True):
        facts = (stage.family, stage.gradients, stage.targeted, stage.averages, stage.length)
        assert (found.family, found.gradients, found.targeted, found.averages, found.length) == facts


@pytest.mark.parametrize("spec", ["autoattack", "autoattack:version=plus", "apgd-t", "square"])
def test_the_question_of_the_reference_engine_too(spec: str, tmp_path: Path) -> None:
    record = read(first_version(ResultStore(tmp_path), spec, "linf", "reference"))
    assert record.config is not None
    assert record.config.attacks == (parse_attack(spec).canonical,)
    # torchattacks' own class is what ran; it measures the same by its own name.
    record = read(first_version(ResultStore(tmp_path), "pgd:steps=4", "linf", "reference"))
    assert record.config is not None
    published = parse_attack("pgd:steps=4").reference(ThreatModel("linf", "0.1"))
    assert record.config.attacks == (published.canonical,)


def test_how_it_was_searched_is_restored(tmp_path: Path) -> None:
    more: dict[str, Any] = {"search_precision": "bf16", "compiled": True, "eps_grid": "0,0.1"}
    config = read(first_version(ResultStore(tmp_path), "pgd", "linf", **more)).config
    assert config is not None
    assert (config.search_precision, config.compiled) == ("bf16", True)
    assert config.eps_grid is not None
    assert [float(eps) for eps in config.eps_grid] == [0, 0.1]


def test_what_the_settings_leave_open_stays_open(tmp_path: Path) -> None:
    values = first_version(ResultStore(tmp_path), "apgd-t:targets=3", "linf")
    values["data"]["dataset"] = "npz:x.npz"  # three targets, or all that four classes have?
    record = read(values)
    assert record.config is None
    assert record.attacks[0].spec is None
    values["protocol"][0]["stages"][0]["attack"] = "gone"
    assert read(values).config is None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_records_keep_their_figures(path: Path) -> None:
    raw = json.loads(path.read_bytes())
    assert raw["schema_version"] == 1
    record = Record.read(path.read_bytes(), what=str(path))
    assert record.id == raw["id"] == path.stem
    assert record.worst_case_acc == raw["worst_case_acc"]
    assert record.config is not None
    assert [parse_attack(spec).label for spec in record.config.attacks] == [each["label"] for each in raw["attacks"]]
    assert {check.name for check in record.checks if check.scope == "attack"} >= {"deterministic", "large-eps"}
    assert record.model.model_sha256


def test_an_edited_standing_is_not_believed(tmp_path: Path) -> None:
    raw = json.loads(SHIPPED[0].read_bytes())
    raw["standing"] = "/" * len(raw["standing"].rstrip("=")) + "=" * raw["standing"].count("=")
    with pytest.raises(UserError, match=r"worst_case_acc is .* samples stand; the file was changed"):
        read(raw)


@pytest.mark.parametrize("escaped", [True, False])
def test_control_characters_do_not_reach_a_terminal(escaped: bool, tmp_path: Path) -> None:
    values = first_version(ResultStore(tmp_path), "pgd", "linf")
    name = "a\x1b[31mb\x07\x9bc\x7f" if escaped else "a[31mb\x9bc\x7f"
    values["model"]["name"] = name
    content = json.dumps(values, ensure_ascii=escaped).encode()
    shown = Record.read(content, what="record x.json").model.name
    assert shown == re.sub("[\x00-\x1f\x7f-\x9f]", "\ufffd", name)


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("sign", ["\u202e", "\u2066"])
def test_a_name_does_not_turn_around_what_stands_beside_it(sign: str, escaped: bool, tmp_path: Path) -> None:
    values = first_version(ResultStore(tmp_path), "pgd", "linf")
    values["model"]["name"] = f"a{sign}b – שלום"
    content = json.dumps(values, ensure_ascii=escaped).encode()
    assert Record.read(content, what="record x.json").model.name == "a\ufffdb – שלום"


@pytest.mark.parametrize("steps", ["x", 0, 1e400])
def test_settings_that_mean_nothing_are_one_line(steps: object, tmp_path: Path) -> None:
    values = first_version(ResultStore(tmp_path), "pgd", "linf")
    values["protocol"][0]["stages"][0]["steps"] = steps
    with pytest.raises(UserError, match=r"record x\.json is broken"):
        read(values)
