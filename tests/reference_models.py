"""Reference networks: where they are, and how any two implementations of an architecture are compared."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_gkl.models import Classifier, create_model

SHARED = Path(__file__).parents[2] / "shared"
REFERENCE = SHARED / "reference"
needs_shared = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference files are not here")


def filled_value(name: str, tensor: Tensor) -> Tensor:
    """Return reproducible weights for a key: any two implementations of an architecture can be compared with them."""
    generator = torch.Generator().manual_seed(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    noise = torch.randn(tensor.shape, generator=generator)
    if name.endswith("running_var"):
        return 1 + 0.1 * noise.abs()
    if name.endswith("running_mean"):
        return 0.1 * noise
    if tensor.ndim > 1:
        return noise * math.sqrt(2 / tensor[0].numel())
    if tensor.ndim == 1:
        return 1 + 0.1 * noise if "weight" in name.rpartition(".")[2] else 0.1 * noise
    return torch.zeros_like(tensor)


def filled(name: str, *, num_classes: int, **options: Any) -> Classifier:
    model = create_model(name, num_classes=num_classes, **options)
    model.load_state_dict({key: filled_value(key, tensor) for key, tensor in model.state_dict().items()})
    return model.eval()


def reference_images(model: Classifier) -> Tensor:
    return torch.rand(2, *model.input_shape, generator=torch.Generator().manual_seed(7))


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def assert_published(model: Classifier, reference: dict[str, Any]) -> None:
    """Assert that ``model``, filled, has the names, shapes, size and logits of the reference."""
    assert [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()] == reference["keys"]
    assert parameter_count(model) == reference["params"]
    expected = torch.tensor(reference["logits"])
    with torch.no_grad():
        logits = model(reference_images(model))
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
