"""Records and verdicts as an evaluation would leave them, made without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from synthetic_records import save_verdicts, trained_model

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.config.schema import ThreatConfig, TrainConfig
from robustbench_gkl.core.exact import parse_fraction
from robustbench_gkl.results.record import Check, CheckVerdict, Record, canonical_hash
from robustbench_gkl.results.store import ResultStore

LOSSES = ("standard", "pgd-at", "trades", "mart", "gkl")
EPS = ("1/255", "2/255", "4/255", "8/255", "16/255")
MEMBERS = ("apgd-ce", "apgd-t", "fab-t", "square")
HOSTILE = "<script>document.title='owned'</script>"

CHECKS: dict[CheckVerdict, Check] = {
    "PASS": Check(name="eval-mode", verdict="PASS", figure="0 modules in training mode"),
    "WARN": Check(
        name="black-box-behind",
        verdict="WARN",
        figure="square broke 3 samples that gradients did not",
        advice="Gradients may be masked; attack again with more restarts.",
    ),
    "FAIL": Check(
        name="zero-gradients",
        verdict="FAIL",
        figure="62.0 % of gradients are exactly zero",
        advice="The model hides its gradients, so the figures above are no robustness. Look for rounding layers.",
    ),
}


def sample_verdicts(
    rng: np.random.Generator, *, n: int, clean: float, survival: Sequence[tuple[str, float]]
) -> pd.DataFrame:
    """Return verdicts of ``n`` samples of ten classes, of which each attack leaves about a share standing."""
    label = np.random.default_rng(0).integers(0, 10, n)
    wrong = rng.random(n) > clean
    broken = np.full(n, None, dtype=object)
    broken[wrong] = "clean"
    hardness = rng.random(n) * (0.7 + 0.06 * label)
    for name, share in survival:
        standing = np.array([by is None for by in broken])
        broken[standing & (hardness > share)] = name
    fell = np.array([by is not None for by in broken])
    other = (label + rng.integers(1, 10, n)) % 10
    return pd.DataFrame(
        {
            "index": np.arange(n),
            "label": label,
            "clean_pred": np.where(wrong, other, label),
            "broken_by": pd.array(broken, dtype="string"),
            "adv_pred": pd.Series(other, dtype="Int64").where(fell),
            "distance": np.where(fell, rng.random(n) * 0.03, np.nan),
        }
    )


def save_record(
    store: ResultStore,
    *,
    name: str,
    loss: str | None = "trades",
    eps: str = "8/255",
    with_autoattack: bool = True,
    verdict: CheckVerdict = "PASS",
    n: int = 1000,
    clean: float = 0.85,
    strength: float = 0.5,
    seed: int = 0,
    minute: int = 0,
) -> Record:
    """Write a record and its verdicts, which agree with each other, and return the record."""
    rng = np.random.default_rng([*name.encode()])
    attacks = [parse_attack(spec) for spec in ("pgd:steps=20", *(["autoattack"] if with_autoattack else []))]
    stages = ["pgd-20", *(MEMBERS if with_autoattack else ())]
    survival = [(stage, strength * 0.97**i) for i, stage in enumerate(stages)]
    config = TrainConfig.model_validate({"loss": loss, "seed": seed, "recipe": None}) if loss else None
    return save_verdicts(
        store,
        sample_verdicts(rng, n=n, clean=clean, survival=survival),
        model=trained_model(
            name, weights_sha256=canonical_hash([name]), arch="preact-resnet18", params=11_171_146, config=config
        ),
        attacks=attacks,
        dataset="cifar10",
        threat=ThreatConfig(norm="linf", eps=parse_fraction(eps)),
        seed=seed,
        created=f"2026-03-0{1 + minute // 1440}T{minute // 60 % 24:02}:{minute % 60:02}:00+00:00",
        checks=(CHECKS["PASS"], *([CHECKS[verdict]] if verdict != "PASS" else [])),
        seconds=12.5,
        environment={"gklbench": "0.1.0", "python": "3.11.7", "torch": "2.9.0", "device": "cpu (x86_64)"},
    )


def save_many(folder: Path, *, seeds: int = 4, eps: Sequence[str] = EPS, n: int = 1000) -> ResultStore:
    """Write records of five losses, some seeds and radii, with and without AutoAttack; one model fails its checks."""
    store = ResultStore(folder)
    store.prepare()
    minute = 0
    for i, loss in enumerate(LOSSES):
        for seed in range(seeds):
            for j, radius in enumerate(eps):
                for with_autoattack in (True, False):
                    minute += 1
                    save_record(
                        store,
                        name=f"{loss}-preact-resnet18-seed{seed}",
                        loss=loss,
                        eps=radius,
                        with_autoattack=with_autoattack,
                        verdict="FAIL" if (loss, seed) == ("mart", 1) else "WARN" if seed == 2 else "PASS",
                        n=n,
                        clean=0.93 - 0.02 * i,
                        strength=max(0.05, (0.5 + 0.1 * i) * (1 - 0.2 * j)),
                        seed=seed,
                        minute=minute,
                    )
    return store


if __name__ == "__main__":
    import sys

    save_many(Path(sys.argv[1]))
