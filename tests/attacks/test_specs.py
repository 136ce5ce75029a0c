"""Specs: text to a value and back, for all that is registered."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from robustbench_gkl import evaluate
from robustbench_gkl.attacks import ATTACKS, AttackSpec, parse_attack
from robustbench_gkl.attacks.specs.torchattacks import CLASSES
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import Norm
from robustbench_gkl.core.threat import ThreatModel

NAMES = [
    entry.name
    for entry in ATTACKS.entries()
    if entry.pattern is None and getattr(entry.value, "positional", None) is None
]
CHANGED = (
    "pgd:steps=7,restarts=3,step_size=1/255,objective=dlr,random_start=false",
    "pgd:step_size=auto",
    "fgsm:objective=prob-margin",
    "apgd:objective=margin,steps=12",
    "apgd-margin:steps=12",
    "apgd:objective=prob-margin,restarts=2,evaluations=3,widened=false",
    "apgd-t:targets=3,widened=false",
    "fab:steps=3,restarts=1",
    "fab-t:targets=2",
    "square:queries=500,restarts=2",
    "autoattack:version=plus",
    "autoattack:version=rand",
    "autoattack:version=quick",
    "torchattacks.PGD:steps=3,alpha=1/255,random_start=false",
    "torchattacks.DIFGSM:resize_rate=0.8",
    "torchattacks.CW:c=0.5,kappa=1",
)
EVERYTHING = [*NAMES, *CHANGED, *(f"torchattacks.{cls}" for cls in CLASSES)]


@pytest.mark.parametrize("text", EVERYTHING)
def test_the_canonical_form_is_read_back_as_the_same_attack(text: str) -> None:
    spec = parse_attack(text)
    again = parse_attack(spec.canonical)
    assert again == spec
    assert again.canonical == spec.canonical
    assert again.label == spec.label
    assert hash(again) == hash(spec)


def test_defaults_are_written_out() -> None:
    assert parse_attack("pgd").canonical == "pgd:steps=20,restarts=1,step_size=auto,objective=ce,random_start=true"
    assert parse_attack("apgd").canonical == "apgd-ce:steps=100,restarts=auto,evaluations=1,widened=true"
    assert parse_attack("apgd").canonical == parse_attack("apgd-ce:steps=100").canonical
    assert parse_attack("autoattack").canonical == "autoattack:version=standard"
    assert parse_attack("none").canonical == "none"
    assert parse_attack(
        "torchattacks.PGD"
    ).canonical == f"torchattacks.PGD:alpha={2 / 255},steps=10,random_start=True".lower().replace("pgd", "PGD")


def flags(text: str) -> tuple[bool | None, bool, bool, int | None]:
    spec = parse_attack(text)
    return spec.gradients, spec.targeted, spec.averages, spec.length


def test_a_spec_knows_what_kind_of_attack_it_is() -> None:
    assert flags("pgd:steps=7") == (True, False, False, 7)
    assert flags("apgd-t") == (True, True, False, 100)
    assert flags("square:queries=500") == (False, False, False, None)
    assert flags("torchattacks.Square") == (False, False, False, None)
    assert flags("apgd-ce:evaluations=20") == (True, False, True, 100)
    assert flags("autoattack:version=rand")[2]
    assert flags("torchattacks.EOTPGD")[2]
    assert not flags("torchattacks.EOTPGD:eot_iter=1")[2]
    families = [parse_attack(text).family for text in ("apgd-dlr", "fab-t", "autoattack:version=plus")]
    assert families == ["apgd", "fab", "autoattack"]


def reference(text: str, norm: Norm = "linf") -> AttackSpec:
    return parse_attack(text).reference(ThreatModel(norm, "0.1"))


def test_published_implementations_take_the_options() -> None:
    found = reference("pgd:steps=5,random_start=false")
    assert found == parse_attack("torchattacks.PGD:alpha=0.05,steps=5,random_start=false")
    assert reference("apgd:objective=ce").implementation == "pyautoattack"
    refused: tuple[tuple[str, Norm], ...] = (
        ("pgd", "l1"),
        ("pgd:restarts=2", "linf"),
        ("apgd-ce:steps=5", "linf"),
        ("apgd-margin", "linf"),
    )
    for text, norm in refused:
        with pytest.raises(UserError, match="--engine"):
            reference(text, norm)


@pytest.mark.parametrize(
    ("text", "norm", "message"),
    [
        ("torchattacks.PGD", "l2", "searches in linf, and the threat model is l2"),
        ("torchattacks.PGDL2", "linf", "searches in l2, and the threat model is linf"),
        ("torchattacks.Square", "l1", "searches in linf or l2, and the threat model is l1"),
    ],
)
def test_an_attack_for_another_norm_is_refused(text: str, norm: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_attack(text).check(ThreatModel(norm, "0.1"))


_SLOW = {
    "SPSA": "nb_iter=1",
    "CW": "steps=3",
    "DeepFool": "steps=5",
    "EADL1": "max_iterations=10",
    "EADEN": "max_iterations=10",
    "AutoAttack": "version=rand",
    "APGDT": "steps=2",
    "Square": "n_queries=20",
}


@pytest.mark.parametrize(("cls", "norm"), [(cls, norm) for cls, facts in CLASSES.items() for norm in facts.norms])
def test_a_class_searches_in_the_norms_that_the_table_names(cls: str, norm: Norm) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 10))
        images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        labels = model(images).argmax(1)
    threat = ThreatModel(norm, {"linf": "8/255", "l2": "0.5", "l1": "12"}[norm])
    options = f":{_SLOW[cls]}" if cls in _SLOW else ""
    result = evaluate(model, images, labels, threat, f"torchattacks.{cls}{options}")
    (stage,) = result.attacks[0].stages
    assert stage.candidates == 4
    assert stage.minimal or stage.rejected == 0
    assert (stage.backwards == 0) != stage.gradients


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchattacks.PGD:steps=x", "torchattacks.PGD: steps must be a number, such as 10, got 'x'"),
        ("torchattacks.PGD:random_start=3", "random_start must be true or false"),
        ("torchattacks.PGD:alpha=fast", "alpha must be a number"),
        ("torchattacks.PGD:alpha=nan", "alpha must be a number"),
        ("torchattacks.PGD:eps=0.3", "eps is the threat model's; give it as --eps"),
        ("torchattacks.Square:norm=L2", "norm is the threat model's; give it as --norm"),
        ("torchattacks.PIFGSM:max_epsilon=0.1", "max_epsilon is the threat model's; give it as --eps"),
        ("torchattacks.PGD:stps=3", "unknown option of torchattacks.PGD 'stps'; did you mean 'steps'"),
        ("torchattacks.MultiAttack", "wraps other attacks"),
        ("torchattacks.VANILA", "proposes no images"),
        ("torchattacks.JSMA", "l0"),
        ("torchattacks.PDG", "unknown torchattacks class 'PDG'; did you mean 'PGD'"),
        ("square:queries=auto", "Input should be a valid integer"),
    ],
)
def test_bad_specs(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_attack(text)


def test_an_error_in_other_people_s_code_is_one_line() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images, labels = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
    with torch.no_grad():
        labels = model(images).argmax(1)
    attack = "torchattacks.EADL1:max_iterations=2"
    with pytest.raises(UserError, match=r"torchattacks.EADL1 ended in an error \(ZeroDivisionError: .*\); look at its"):
        evaluate(model, images, labels, ThreatModel("l1", "1"), attack)


def test_a_typo_costs_no_torch() -> None:
    program = """
import sys
sys.modules["torch"] = None
from robustbench_gkl.attacks import ATTACKS, parse_attack
from robustbench_gkl.config.schema import ThreatConfig
parse_attack("autoattack").calls(ThreatConfig(), num_classes=10)
for text in ("pgd:stesp=3", "torchattacks.PDG", "autoatack"):
    try:
        parse_attack(text)
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("did you mean") == 3
