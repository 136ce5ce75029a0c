"""Records of version 1 as records of version 2.

Version 1 kept a display label where version 2 keeps a spec. Its protocol, however, has all settings of each stage, and
where these determine the spec, it is restored. The vocabulary is closed: no attack that was added later has such
records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from robustbench_gkl.core.exact import parse_fraction

OldStage = Mapping[str, Any]

ATTACK_CHECKS = frozenset(
    {"deterministic", "candidates-in-ball", "noise-baseline", "more-steps", "large-eps", "black-box"}
)
"""The checks of version 1 that speak of an evaluation's attacks, not of its model."""
_CLASSES = {"cifar100": 100, **dict.fromkeys(("digits", "mnist", "fashion-mnist", "svhn", "cifar10"), 10)}
_OPTIONS = {
    "pgd": ("steps", "restarts", "step_size", "objective", "random_start"),
    "fgsm": ("objective",),
    "apgd": ("steps", "restarts", "evaluations", "widened"),
    "apgd-t": ("steps", "targets", "widened"),
    "fab": ("steps", "restarts"),
    "fab-t": ("steps", "targets"),
    "square": ("queries", "restarts"),
}
_MEMBERS = {
    ("apgd-ce", "apgd-t", "fab-t", "square"): "standard",
    ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"): "plus",
    ("apgd-ce", "apgd-dlr"): "rand",
    ("apgd-ce", "apgd-prob-margin", "apgd-dlr", "apgd-t", "fab-t"): "quick",
}
_PUBLISHED = {
    "apgd-ce": "apgd-ce:steps=100,restarts=auto,evaluations=1,widened=true",
    "apgd-dlr": "apgd-dlr:steps=100,restarts=auto,evaluations=1,widened=true",
    "apgd-t": "apgd-t:steps=100,targets=auto,widened=true",
    "fab": "fab:steps=100,restarts=5",
    "fab-t": "fab-t:steps=100,targets=9",
    "square": "square:queries=5000,restarts=1",
}
"""The members of AutoAttack with their published options."""
_NO_GRADIENTS = ("square", "torchattacks.Square", "torchattacks.SPSA", "torchattacks.GN", "torchattacks.VANILA")
_SEVERAL_TARGETS = ("torchattacks.APGDT", "torchattacks.AutoAttack")


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain data of a version 1 record as those of version 2; the id and all figures stay.

    Raises:
        KeyError, TypeError, IndexError: something that each record has is absent.
    """
    new = dict(values)
    parts = values["protocol"]
    ball = values["threat"]
    classes = _CLASSES.get(values["data"]["dataset"])
    specs = [_spec(part.get("stages", ()), ball, classes) for part in parts]
    new["attacks"] = [
        _attack(attack, part.get("stages", ()), spec)
        for attack, part, spec in zip(values["attacks"], parts, specs, strict=False)
    ]
    ranges, n = [list(pair) for pair in values["data"]["index_ranges"]], values["data"]["n"]
    new["data"] = values["data"] | {"sample_set": f"first {n}" if ranges == [[0, n]] else "chosen"}
    new["checks"] = [
        check | {"scope": "attack" if check["name"] in ATTACK_CHECKS else "model"} for check in values["checks"]
    ]
    known = specs and None not in specs and ranges == [[0, n]]
    new["config"] = _config(values, specs, parts[0]) if known else None
    return new


def _config(values: Mapping[str, Any], specs: Sequence[str | None], settings: OldStage) -> dict[str, Any]:
    grid = settings.get("eps_grid")
    return {
        "dataset": values["data"]["dataset"],
        "split": values["data"]["split"],
        "n": values["data"]["n"],
        "attacks": specs,
        "threat": values["threat"],
        "engine": values["engine"],
        "seed": values["seed"],
        "batch_size": values["batch_size"],
        "search_precision": settings.get("search_precision", "float32"),
        "compiled": bool(settings.get("compiled")),
        "eps_grid": None if grid is None else grid.split(","),
    }


def _attack(attack: Mapping[str, Any], settings: Sequence[OldStage], spec: str | None) -> dict[str, Any]:
    # Each stage of a grid of radii is another call of the one attack.
    described = settings if len(settings) != 1 else [settings[0]] * len(attack["stages"])
    stages = [
        stage | _facts(described[place] if place < len(described) else {})
        for place, stage in enumerate(attack["stages"])
    ]
    return dict(attack) | {"spec": spec, "stages": stages}


def _facts(settings: OldStage) -> dict[str, Any]:
    """Return family, use of gradients, targets, averaging and length of a stage."""
    name, code = str(settings.get("attack", "")), settings.get("implementation")
    if code is None:
        return {}
    other = code == "torchattacks"
    gradients = name not in _NO_GRADIENTS
    steps = 100 if code == "pyautoattack" else settings.get("steps", 1 if name == "fgsm" else None)
    return {
        "family": name if other else name.partition("-")[0],
        "gradients": gradients,
        "targeted": name in _SEVERAL_TARGETS if other else name.endswith("-t"),
        "averages": settings.get("budget") == "rand"
        or int(settings.get("evaluations", settings.get("eot_iter", 1))) > 1
        or settings.get("version") == "rand",
        "length": int(steps) if gradients and steps is not None else None,
    }


def _spec(stages: Sequence[OldStage], ball: Mapping[str, str], classes: int | None) -> str | None:
    """Return the canonical spec of an attack from the settings of its stages; None where they do not determine it."""
    codes = {stage.get("implementation") for stage in stages}
    names = tuple(stage["attack"] for stage in stages if "attack" in stage)
    if codes == {"pyautoattack"}:
        return _PUBLISHED.get(names[0]) if len(names) == 1 else f"autoattack:version={stages[0]['budget']}"
    if codes == {"gklbench"}:
        if len(names) == 1:
            return _single(stages[0], ball, classes)
        return f"autoattack:version={_MEMBERS[names]}" if names in _MEMBERS else None
    if codes == {"torchattacks"}:
        return _foreign(stages[0], ball)
    return None


def _single(stage: OldStage, ball: Mapping[str, str], classes: int | None) -> str | None:
    name = stage["attack"]
    keys = _OPTIONS.get(name) or _OPTIONS.get(name.partition("-")[0])
    if keys is None:
        return None
    written = []
    for key in keys:
        value = stage.get(key)
        if key == "objective" and str(value).startswith("margin,"):
            value = "dlr"  # what the margin stood in for
        elif key == "step_size":
            value = _step_size(stage, ball)
        elif key == "restarts" and name.startswith("apgd"):
            value = "auto" if value == (5 if ball["norm"] == "l1" else 1) else value
        elif key == "targets":
            value = _targets(stage, ball, classes)
        elif key == "widened":
            value = value if ball["norm"] == "l1" else True  # of no effect elsewhere
        if value is None:
            return None
        written.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return f"{name}:{','.join(written)}"


def _step_size(stage: OldStage, ball: Mapping[str, str]) -> str:
    usual = Fraction(5, 2) * parse_fraction(ball["eps"]) / int(stage["steps"])
    return "auto" if parse_fraction(stage["step_size"]) == usual else str(stage["step_size"])


def _targets(stage: OldStage, ball: Mapping[str, str], classes: int | None) -> str | int | None:
    """Return the option that led to a number of targets; fewer than usual may be asked for, or be all there are."""
    found = int(stage["targets"])
    usual = 5 if stage["attack"] == "apgd-t" and ball["norm"] == "l1" else 9
    unset: str | int = "auto" if stage["attack"] == "apgd-t" else usual
    if found == usual or (classes is not None and found == min(usual, classes - 1)):
        return unset
    return None if classes is None else found


def _foreign(stage: OldStage, ball: Mapping[str, str]) -> str | None:
    """Return the spec of a torchattacks class; None where an option cannot be written, or ran under another ball."""
    if "max_epsilon" in stage or stage.get("norm", "").lower() not in ("", ball["norm"]):
        return None
    given = {k: str(v) for k, v in stage.items() if k not in ("attack", "implementation", "eps", "norm")}
    if any(set(value) & set(",=:[]()") or value == "None" for value in given.values()):
        return None
    written = (f"{key}={value.lower() if value in ('True', 'False') else value}" for key, value in given.items())
    return ":".join(filter(None, (str(stage["attack"]), ",".join(written))))
