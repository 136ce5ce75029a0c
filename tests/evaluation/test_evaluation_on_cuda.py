"""Evaluation with what only CUDA takes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from small_net import CHEAP, SmallNet, TwoLayers, labelled_images
from torch import Tensor

from robustbench_gkl import ThreatModel
from robustbench_gkl.attacks.search.queries import Precision
from robustbench_gkl.evaluation import Evaluation
from robustbench_gkl.evaluation.effort import Effort
from robustbench_gkl.evaluation.engine import EngineSettings, measure

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
THREATS = {"linf": ThreatModel("linf", "6/255"), "l2": ThreatModel("l2", "0.3"), "l1": ThreatModel("l1", "1.5")}


def evaluated(norm: str, *, device: str, precision: Precision = "float32") -> Evaluation:
    images, labels = labelled_images(60, model=SmallNet())
    settings = EngineSettings(batch_size=25, search_precision=precision)
    return measure(SmallNet(), images, labels, THREATS[norm], CHEAP, settings, device=device, keep_adversarial=True)


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_what_any_precision_finds_float32_on_the_cpu_confirms(norm: str, precision: Precision) -> None:
    found, cpu = evaluated(norm, device="cuda", precision=precision), evaluated(norm, device="cpu")
    assert found.adversarial is not None
    assert found.has_adversarial is not None
    images, labels = labelled_images(60, model=SmallNet())
    broken = torch.from_numpy(found.has_adversarial)
    assert int(broken.sum()) > 10
    with torch.no_grad():
        predicted = SmallNet()(found.adversarial[broken]).argmax(1)
    assert bool((predicted != labels[broken]).all())
    assert bool(THREATS[norm].contains(found.adversarial[broken], images[broken]).all())
    assert abs(int(found.standing.sum()) - int(cpu.standing.sum())) <= 1


class _Notes(torch.autograd.Function):
    """Passes values on, and notes whether TF32 is allowed on the way there and back."""

    seen: ClassVar[list[tuple[str, bool]]] = []

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        _Notes.seen.append(("forward", torch.backends.cudnn.allow_tf32))
        return values.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        _Notes.seen.append(("backward", torch.backends.cudnn.allow_tf32))
        return gradient


def test_tf32_is_of_gradients_too_and_never_of_verdicts() -> None:
    class Noted(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            noted: Tensor = _Notes.apply(super().forward(images))
            return noted

    images, labels = labelled_images(20, model=SmallNet())
    seen = {}
    precisions: tuple[Precision, ...] = ("float32", "tf32")
    for precision in precisions:
        _Notes.seen = []
        settings = EngineSettings(batch_size=25, search_precision=precision)
        measure(Noted(), images, labels, THREATS["linf"], ("pgd:steps=3",), settings, device="cuda")
        seen[precision] = set(_Notes.seen)
    assert seen["float32"] == {("forward", False), ("backward", False)}
    assert seen["tf32"] == {("forward", False), ("forward", True), ("backward", True)}


@pytest.mark.parametrize("norm", THREATS)
def test_the_second_device_alone(norm: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    first, second = (evaluated(norm, device=f"cuda:{number}") for number in (0, 1))
    assert first.broken_by.tolist() == second.broken_by.tolist()


@pytest.mark.parametrize("attacks", [("certify",), ("pgd:steps=3", "apgd-ce:steps=5")], ids=["certify", "eval"])
def test_certificates_are_those_of_the_cpu(attacks: tuple[str, ...]) -> None:
    model = TwoLayers()
    images, labels = labelled_images(24, model=model)
    effort = Effort(complete=True, calls=300) if attacks == ("certify",) else Effort()
    threat, settings = ThreatModel("linf", "6/255"), EngineSettings(batch_size=16)
    cuda, cpu = (
        measure(model, images, labels, threat, attacks, settings, device=device, effort=effort)
        for device in ("cuda", "cpu")
    )
    assert cpu.certified_by is not None
    assert cuda.certified_by is not None
    assert 0 < sum(method is not None for method in cpu.certified_by) < 24
    assert cuda.certified_by.tolist() == cpu.certified_by.tolist()
    assert cuda.broken_by.tolist() == cpu.broken_by.tolist()
