"""The plugin's own tests: each number has an oracle, and an attack that does nothing fails."""

from __future__ import annotations

import gklbench_example  # noqa: F401 (registers)
import torch

from robustbench_gkl import create_model, load_dataset
from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.config.recipes import read_recipe
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.losses import create_loss
from robustbench_gkl.losses.base import Logits


def test_the_loss_is_the_sum_of_its_terms_by_hand() -> None:
    logits = Logits(clean=torch.tensor([[1.0, 0.0]]), adv=torch.tensor([[0.0, 0.0]]))
    terms = create_loss("example-alp", num_classes=2, options={"weight": 2.0}).terms(logits, torch.tensor([0]))
    torch.testing.assert_close(terms["robust"], torch.tensor(2.0).log())
    torch.testing.assert_close(terms["pairing"], torch.tensor(1.0))  # 2 * (1 + 0) / 2


def test_the_attack_finds_corners_that_a_threshold_falls_to() -> None:
    # Class 0 while the first pixel is at most 0.5: from 0.45, half of the corners at 0.1 are beyond.
    def model(images: torch.Tensor) -> torch.Tensor:
        first = images[:, 0, 0, 0]
        return torch.stack([0.5 - first, first - 0.5], 1)

    images, labels = torch.full((64, 1, 2, 2), 0.45), torch.zeros(64, dtype=torch.int64)
    threat, noise = ThreatModel("linf", "0.1"), Noise(0, torch.arange(64))
    found = parse_attack("example-corners:tries=20")(model, images, labels, threat, noise=noise)
    assert (model(found).argmax(1) == 1).all()
    torch.testing.assert_close((found - images).abs(), torch.full_like(images, 0.1))


def test_data_and_model_fit() -> None:
    data = load_dataset("example-stripes")
    test = data.load("test")
    assert torch.equal(test.images, load_dataset("example-stripes").load("test").images)
    assert not torch.equal(test.images[:10], data.load("train").images[:10])
    model = create_model("example-mlp", num_classes=2, input_shape=data.shape)
    assert model(test.images.float() / 255).shape == (100, 2)


def test_the_recipe_uses_them() -> None:
    recipe = read_recipe("example")
    assert (recipe["loss"], recipe["model"], recipe["dataset"]) == ("example-alp", "example-mlp", "example-stripes")
