"""Records of evaluations that never took place, for tests of what is made from records."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from robustbench_gkl.attacks import AttackSpec, parse_attack, protocol_of
from robustbench_gkl.config.schema import EvalConfig, ThreatConfig, TrainConfig
from robustbench_gkl.core.exact import Norm, format_fraction, parse_fraction
from robustbench_gkl.results.record import (
    AttackResult,
    Check,
    CheckScope,
    CheckVerdict,
    DataInfo,
    ModelInfo,
    Record,
    StageResult,
    ThreatInfo,
    canonical_hash,
    model_sha256,
    pack_standing,
    record_id,
)
from robustbench_gkl.results.store import VERDICT_COLUMNS, ResultStore, verdict_bytes

BrokenBy = Sequence[str | None]
"""What broke each sample: None, ``clean`` or an attack."""


def verdict_frame(broken_by: BrokenBy) -> pd.DataFrame:
    """Return the verdicts of samples of class 0."""
    stands = np.array([name is None for name in broken_by])
    clean = np.array([name == "clean" for name in broken_by])
    frame = pd.DataFrame(
        {
            "index": np.arange(len(broken_by)),
            "label": 0,
            "clean_pred": np.where(clean, 1, 0),
            "broken_by": pd.array(list(broken_by), dtype="string"),
            "adv_pred": pd.Series(np.ones(len(broken_by)), dtype="Int64").where(~stands),
            "distance": np.where(stands, np.nan, np.where(clean, 0.0, 0.1)),
        }
    )
    assert tuple(frame.columns) == VERDICT_COLUMNS
    return frame


def attack_of(name: str) -> AttackSpec:
    """Return the attack of a spec or a label: ``pgd-20`` and ``autoattack-plus`` too."""
    if found := re.fullmatch(r"pgd-(\d+)(?::(.*))?", name):
        return parse_attack(",".join(filter(None, (f"pgd:steps={found[1]}", found[2]))))
    return parse_attack(name.replace("autoattack-", "autoattack:version="))


def _attack_results(
    verdicts: pd.DataFrame,
    attacks: Sequence[AttackSpec],
    variants: Sequence[AttackSpec],
    threat: ThreatConfig,
    *,
    seconds: float,
    keep_standing: bool,
) -> list[AttackResult]:
    """Return what each attack did, as verdicts say it; ``variants`` are the attacks of the engine that ran."""
    standing = (verdicts["clean_pred"] == verdicts["label"]).to_numpy().copy()
    n, results = len(verdicts), []
    broken_by = verdicts["broken_by"].fillna("").to_numpy()
    for attack, variant in zip(attacks, variants, strict=True):
        done = []
        for place, stage in enumerate(variant.stages(threat, num_classes=10)):
            names = {stage.name, stage.label} | ({attack.label} if place == 0 else set())
            fell = standing & np.isin(broken_by, sorted(names))
            attacked = int(standing.sum())
            standing &= ~fell
            done.append(
                StageResult(
                    name=stage.label if len(variant.stages(threat, num_classes=10)) == 1 else stage.name,
                    family=stage.family,
                    gradients=stage.gradients,
                    targeted=stage.targeted,
                    averages=stage.averages,
                    length=stage.length,
                    attacked=attacked,
                    broken=int(fell.sum()),
                    rejected=0,
                    seconds=seconds,
                    forwards=40 * attacked,
                    backwards=20 * attacked,
                )
            )
        result = AttackResult(
            label=attack.label,
            spec=attack.canonical,
            robust_acc=100 * int(standing.sum()) / n,
            stages=tuple(done),
            standing=pack_standing(standing) if keep_standing else "",
        )
        results.append(result)
    return results


def trained_model(
    name: str, *, weights_sha256: str, arch: str, params: int, which: str = "best", config: TrainConfig | None
) -> ModelInfo:
    """Return what a record says of a model; without ``config`` it was trained elsewhere."""
    return ModelInfo(
        name=name,
        arch=arch,
        loss=None if config is None else config.loss,
        params=params,
        weights=which,
        weights_sha256=weights_sha256,
        model_sha256=model_sha256(weights_sha256=weights_sha256, arch=arch),
        train_config=None if config is None else config.model_dump(mode="json"),
    )


def save_verdicts(
    store: ResultStore,
    verdicts: pd.DataFrame,
    *,
    model: ModelInfo,
    attacks: Sequence[AttackSpec],
    dataset: str,
    split: str = "test",
    samples: str = "",
    threat: ThreatConfig,
    seed: int = 0,
    engine: Literal["native", "reference"] = "native",
    created: str,
    checks: Sequence[Check],
    partial: bool = False,
    seconds: float = 1.5,
    keep_standing: bool = True,
    environment: dict[str, str] | None = None,
    first: int = 0,
) -> Record:
    """Write the record of an evaluation that ended with these verdicts, whose attacks ran in the order given.

    ``broken_by`` names stages, or an attack where all of it counts as its first stage.
    """
    store.prepare()
    n = len(verdicts)
    content = verdict_bytes(verdicts)
    variants = [attack.reference(threat) if engine == "reference" else attack for attack in attacks]
    protocol = protocol_of(variants, threat, num_classes=10)
    results = _attack_results(verdicts, attacks, variants, threat, seconds=seconds, keep_standing=keep_standing)
    stands = verdicts["broken_by"].isna().to_numpy()
    assert round(results[-1].robust_acc * n / 100) == int(stands.sum()), (
        "verdicts name a stage that none of the attacks has"
    )
    data_sha256 = canonical_hash([dataset, split, samples, n])
    config = EvalConfig(
        dataset=dataset,
        split="train" if split == "train" else "test",
        n=n,
        attacks=tuple(attack.canonical for attack in attacks),
        threat=threat,
        engine=engine,
        seed=seed,
    )
    record = Record(
        id=record_id(
            name=re.sub(r"[^\w.-]", "_", model.name),
            model_sha256=model.model_sha256,
            data_sha256=data_sha256,
            threat=f"{threat.norm} {format_fraction(threat.eps)}",
            protocol=protocol,
            engine=engine,
            seed=seed,
            batch_size=250,
        ),
        created=created,
        model=model,
        data=DataInfo(
            dataset=dataset,
            split=split,
            n=n,
            sha256=data_sha256,
            sample_set=f"first {n}",
            index_ranges=((first, first + n),),
            blocks=tuple(canonical_hash([dataset, split, samples, block])[:16] for block in range(n // 50)),
        ),
        threat=ThreatInfo(norm=threat.norm, eps=format_fraction(threat.eps)),
        config=config,
        protocol=tuple(protocol),
        protocol_sha256=canonical_hash(protocol),
        engine=engine,
        seed=seed,
        batch_size=250,
        clean_acc=100 * int((verdicts["clean_pred"] == verdicts["label"]).sum()) / n,
        attacks=tuple(results),
        worst_case_acc=100 * int(stands.sum()) / n,
        checks=tuple(checks),
        partial=partial,
        seconds=seconds,
        environment=environment or {"torch": "2.4"},
        verdicts_sha256=hashlib.sha256(content).hexdigest(),
        standing=pack_standing(stands) if keep_standing else "",
    ).sealed()
    store.save(record, content)
    return record


def make_record(
    store: ResultStore,
    broken_by: BrokenBy,
    *,
    model: str = "model",
    weights: str = "",
    weights_sha256: str | None = None,
    which: str = "best",
    attacks: Sequence[str] = ("pgd-20",),
    dataset: str = "digits",
    split: str = "test",
    samples: str = "",
    norm: Norm = "linf",
    eps: str = "0.1",
    seed: int = 0,
    engine: Literal["native", "reference"] = "native",
    created: str = "2026-01-01T00:00:00+00:00",
    verdict: CheckVerdict = "PASS",
    scope: CheckScope = "model",
    check: str = "some-check",
    partial: bool = False,
    seconds: float = 1.5,
    loss: str = "gkl",
    train_seed: int = 0,
    keep_standing: bool = False,
) -> Record:
    """Write the record and verdicts of one evaluation of a trained tiny-cnn.

    What none of the attacks is called counts as broken by the first of them.
    """
    parsed = [attack_of(name) for name in attacks]
    members = [stage for attack in parsed for stage in attack.stages(ThreatConfig(), num_classes=10)]
    known = {"clean", *(attack.label for attack in parsed), *(stage.name for stage in members)}
    broken_by = [name if name is None or name in known else parsed[0].label for name in broken_by]
    return save_verdicts(
        store,
        verdict_frame(broken_by),
        model=trained_model(
            model,
            weights_sha256=weights_sha256 or canonical_hash([model, weights]),
            arch="tiny-cnn",
            params=1234,
            which=which,
            config=TrainConfig(loss=loss, seed=train_seed),
        ),
        attacks=parsed,
        dataset=dataset,
        split=split,
        samples=samples,
        threat=ThreatConfig(norm=norm, eps=parse_fraction(eps)),
        seed=seed,
        engine=engine,
        created=created,
        checks=(Check(name=check, verdict=verdict, figure="0", scope=scope),),
        partial=partial,
        seconds=seconds,
        keep_standing=keep_standing,
    )


def outcome(*, stands: int, broken: int = 0, wrong: int = 0, by: str = "pgd-20") -> list[str | None]:
    """Return what broke each of so many samples: the first stand, the next are broken, the last are wrong at once."""
    return [None] * stands + [by] * broken + ["clean"] * wrong


_STAGE_FACTS = (
    *("family", "gradients", "targeted", "averages", "minimal", "length"),
    *("candidates", "unmoved", "nonfinite"),
)


def without_second_version(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a record without what version 2 has added."""
    values = json.loads(json.dumps(values)) | {"schema_version": 1}
    for key in ("config", "teacher", "certified", "draws", "sha256"):
        del values[key]
    for key in ("preprocessing", "code_sha256", "model_sha256"):
        del values["model"][key]
    for key in ("sample_set", "blocks"):
        del values["data"][key]
    for check in values["checks"]:
        del check["scope"]
    for result in values["attacks"]:
        del result["spec"], result["standing"]
        for stage in result["stages"]:
            for key in _STAGE_FACTS:
                del stage[key]
    return values
