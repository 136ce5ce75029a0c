"""The engine on our own attacks: batches, interruptions, limits, and models of all kinds."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_net import CHEAP, THREAT, SmallNet, evaluated, labelled_images, measured
from torch import Tensor, nn

from robustbench_gkl import evaluate
from robustbench_gkl.attacks import AttackSpec
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.evaluation import Progress
from robustbench_gkl.evaluation.checks.after import candidates_in_ball
from robustbench_gkl.evaluation.context import Context
from robustbench_gkl.results.journal import Journal


def test_each_attack_breaks_some_and_leaves_some() -> None:
    for spec in CHEAP:
        result = evaluated(attacks=(spec,))
        assert 0 < result.robust_acc < result.clean_acc, spec


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.15), ("l1", 0.8)])
def test_other_norms_break_some_too(norm: str, eps: float) -> None:
    model = SmallNet()
    images, labels = labelled_images(40, model=model)
    for spec in CHEAP:
        result = evaluate(model, images, labels, ThreatModel(norm, eps), spec, batch_size=16)
        assert 0 < result.robust_acc < result.clean_acc, spec


@pytest.mark.parametrize("spec", CHEAP)
def test_batch_size_changes_no_verdict(spec: str) -> None:
    results = [evaluated(attacks=(spec,), batch_size=size).verdicts() for size in (7, 64, 500)]
    for other in results[1:]:
        assert results[0]["broken_by"].equals(other["broken_by"])
        np.testing.assert_allclose(results[0]["distance"], other["distance"], rtol=1e-4)


def test_a_sample_falls_to_the_same_restart_where_all_run_at_once() -> None:
    found = [
        evaluated(attacks=("pgd:steps=3,restarts=8",), batch_size=size, keep_adversarial=True) for size in (7, 900)
    ]
    one, other = found
    assert one.broken_by.tolist() == other.broken_by.tolist()
    assert one.adversarial is not None
    torch.testing.assert_close(one.adversarial, other.adversarial, rtol=0, atol=1e-6)


class _KilledError(Exception):
    pass


def test_killed_at_any_step_it_goes_on_to_the_same_verdicts(tmp_path: Path) -> None:
    expected = evaluated().verdicts()
    for steps in (0, 11, 40, 90):
        path = tmp_path / f"{steps}.jsonl"
        _kill_after(steps, path)
        result = evaluated(journal=Journal(path)).verdicts()
        assert result.drop(columns="distance").equals(expected.drop(columns="distance"))
        np.testing.assert_allclose(result["distance"], expected["distance"], rtol=1e-5)


def _kill_after(steps: int, path: Path) -> None:
    """Evaluate, and stop dead at the model's call number ``steps`` under attack."""
    model = SmallNet()
    images, labels = labelled_images(60, model=model)
    calls = iter(range(10**9))

    def hook(module: nn.Module, inputs: object) -> None:
        if next(calls) == steps + 4:
            raise _KilledError

    model.register_forward_pre_hook(hook)
    with pytest.raises(_KilledError):
        measured(model, images, labels, THREAT, CHEAP, batch_size=16, journal=Journal(path))


class _Astray(AttackSpec):
    """Steps far out of the ball for most samples."""

    name = "astray"

    def __init__(self, *, minimal: bool) -> None:
        self.minimal = minimal  # type: ignore[misc]

    def __call__(self, model: Any, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise) -> Tensor:
        far = (images + 0.5).clamp(0, 1)
        return torch.cat([threat.random_start(images, noise)[:1], far[1:]])

    def options(self) -> dict[str, Any]:
        return {}

    @property
    def brief(self) -> str:
        return self.name


@pytest.mark.parametrize(("minimal", "verdict"), [(False, "FAIL"), (True, "WARN")])
def test_an_attack_most_of_whose_candidates_are_refused_has_not_attacked(minimal: bool, verdict: str) -> None:
    model = SmallNet()
    images, labels = labelled_images(40, model=model)
    result = evaluate(model, images, labels, THREAT, [_Astray(minimal=minimal)], batch_size=16)
    (check,) = candidates_in_ball(result)
    assert (check.verdict, check.scope) == (verdict, "attack")
    assert re.match(r"\d+ of \d+ rejected", check.figure)
    (check,) = candidates_in_ball(evaluate(model, images, labels, THREAT, "pgd:steps=3"))
    assert check.verdict == "PASS"


def test_nothing_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = evaluated(journal=Journal(path))
    again = evaluated(journal=Journal(path))
    assert again.verdicts().equals(first.verdicts())
    for one, other in zip(first.attacks, again.attacks, strict=True):
        assert one == other


def test_a_time_limit_leaves_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    stopped = evaluated(time_limit=1e-9, journal=Journal(path))
    assert stopped.partial
    assert stopped.robust_acc == stopped.clean_acc
    whole = evaluated(journal=Journal(path))
    assert not whole.partial
    assert whole.verdicts().equals(evaluated().verdicts())


def test_what_a_later_restart_broke_counts_where_time_is_up_in_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    attacks, looks = ("square:queries=20,restarts=12",), iter(range(10**6))
    whole = evaluated(attacks=attacks, batch_size=500)
    monkeypatch.setattr(Context, "out_of_time", property(lambda context: next(looks) == 40))
    stopped = evaluated(attacks=attacks, batch_size=500)
    assert stopped.partial
    np.testing.assert_array_equal(stopped.standing, whole.standing)


def test_progress_bounds_the_outcome_at_every_moment() -> None:
    seen: list[Progress] = []
    result = evaluated(on_progress=seen.append)
    assert {event.stage for event in seen} >= {"clean", "pgd-5"}
    assert all(100 * event.standing / event.n >= result.robust_acc for event in seen)
    assert all(0 <= event.done <= event.total for event in seen)


@pytest.mark.parametrize(
    ("classes", "channels", "size", "n"), [(2, 1, 8, 5), (4, 1, 8, 1), (10, 3, 32, 3), (5, 3, 224, 1)]
)
def test_any_number_of_classes_and_any_size(classes: int, channels: int, size: int, n: int) -> None:
    model = SmallNet(classes=classes, channels=channels, size=size)
    images, labels = labelled_images(n, channels=channels, size=size, model=model)
    attacks = ("apgd-ce:steps=3", "apgd-dlr:steps=3", "apgd-t:steps=3", "fab:steps=2,restarts=2", "fab-t:steps=2")
    for norm, eps in (("linf", 0.5), ("l2", 20.0), ("l1", 1e4)):
        threat = ThreatModel(norm, eps)
        result = evaluate(model, images, labels, threat, [*attacks, "square:queries=9"])
        assert result.robust_acc == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_gradient_that_is_the_same_for_all_pixels(norm: str) -> None:
    class Brightness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images.sum((1, 2, 3)), images.new_full((len(images),), 32.0)], 1)

    images = torch.full((2, 1, 8, 8), 0.49)  # their sums are 31.36
    result = evaluate(Brightness(), images, [1, 1], ThreatModel(norm, 0.1), ["pgd:steps=2", "apgd-ce:steps=2", "fab-t"])
    assert result.robust_acc == 0


def test_nan_under_attack_is_an_error() -> None:
    class Fragile(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            return logits + torch.where(images.flatten(1)[:, :1] > 0.5, torch.nan, 0.0)

    images = torch.full((4, 1, 8, 8), 0.49)
    model = Fragile()
    labels = model(images).argmax(1)
    with pytest.raises(UserError, match=r"NaN or infinite logits for . of . images under attack by pgd"):
        evaluate(model, images, labels, ThreatModel("linf", 0.1), "pgd")


def test_square_sees_through_a_model_without_gradients() -> None:
    class Quantised(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).mul(20).round().div(20) + 0 * images.sum()

    model = Quantised()
    images, labels = labelled_images(20, model=model)
    masked = evaluate(model, images, labels, THREAT, "apgd-ce")
    found = evaluate(model, images, labels, THREAT, ["apgd-ce:steps=5", "fab-t:steps=5", "square:queries=500"])
    assert found.robust_acc < masked.robust_acc
    assert found.attacks[-1].stages[0].broken > 0


def test_a_random_model_does_not_fall_by_luck() -> None:
    generator = torch.Generator().manual_seed(0)

    class Coin(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            lucky = torch.rand(len(images), 1, generator=generator) < 0.1
            return torch.where(lucky, -logits, logits)

    images, labels = labelled_images(40, model=SmallNet())
    attack = "apgd-ce:evaluations=2,steps=40"
    result = evaluate(Coin(), images, labels, ThreatModel("linf", 1e-6), attack, batch_size=16)
    assert result.clean_acc - result.robust_acc <= 10  # judged at each step, some 30 points would fall
    assert (
        evaluate(SmallNet(), images, labels, THREAT, attack).robust_acc
        == evaluated(40, attacks=("apgd-ce:steps=40",)).robust_acc
    )


def test_low_precision_finds_nothing_that_float32_does_not_confirm() -> None:
    plain, rough = evaluated(), evaluated(search_precision="bf16")
    assert abs(plain.robust_acc - rough.robust_acc) <= 5
    model = SmallNet()
    images, labels = labelled_images(60, model=model)
    kept = evaluated(search_precision="bf16", keep_adversarial=True)
    assert kept.adversarial is not None
    with torch.no_grad():
        wrong = (model(kept.adversarial).argmax(1) != labels).numpy()
    assert np.array_equal(wrong, ~kept.standing)
    assert len(images) == len(labels)


def test_parameters_collect_no_gradients() -> None:
    model = SmallNet()
    images, labels = labelled_images(10, model=model)
    evaluate(model, images, labels, THREAT, ["apgd-ce:steps=2", "fab:steps=2"])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


_SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
from small_net import evaluated
from robustbench_gkl.evaluation.checks.after import candidates_in_ball
from robustbench_gkl.evaluation.context import Context
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.store import verdict_bytes
result = evaluated(200, journal=Journal(Path({journal!r})), batch_size=32)
Path({out!r}).write_bytes(verdict_bytes(result.verdicts()))
"""


@pytest.mark.slow
def test_sigkill_at_random_moments(tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        paths = {"tests": str(Path(__file__).parent), "journal": str(tmp_path / f"{name}.jsonl")}
        return [sys.executable, "-c", _SCRIPT.format(**paths, out=str(tmp_path / f"{name}.parquet"))]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, env=environment)
    delays = np.random.default_rng(0).uniform(0.0, 0.4, 4)
    for delay in delays:
        process = subprocess.Popen(command("killed"), env=environment)
        journal = tmp_path / "killed.jsonl"
        before = journal.stat().st_size if journal.exists() else 0
        while process.poll() is None and (not journal.exists() or journal.stat().st_size <= before):
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command("killed"), check=True, env=environment)
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    lines = (tmp_path / "killed.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)
