"""Sound models to check, and ways to break them."""

from __future__ import annotations

import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustbench_gkl
from robustbench_gkl.cli import run
from robustbench_gkl.data import ImageSet, load_dataset
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.models.published import load_published, read_checkpoint

MEAN, STD = 0.305, 0.376
"""Of the digits' pixels."""
RECIPES = {
    "standard": ("digits-standard", "--epochs", "6"),
    "trades": ("digits-trades", "--epochs", "6", "--set", "attack.steps=3"),
    "gkl": ("digits-gkl", "--epochs", "6", "--set", "attack.steps=3"),
    "wrn": (
        "digits-standard",
        "--epochs",
        "4",
        "--model",
        "wrn-10-1",
        "--set",
        f"mean=[{MEAN}]",
        "--set",
        f"std=[{STD}]",
    ),
}


@cache
def digits_model(name: str) -> Classifier:
    """Return a net trained on digits for a few seconds, in eval mode: once a process."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["train", *RECIPES[name], "--name", name, "--checkpoints-dir", folder, "--quiet"]
        assert run([*arguments, "--set", "probe.steps=1"]) == 0
        return robustbench_gkl.load_model(Path(folder) / name)


@cache
def digits(n: int = 360) -> ImageSet:
    return load_dataset("digits").load("test").take(torch.arange(n))


@cache
def cifar(shared: Path) -> ImageSet:
    return load_dataset(f"npz:{shared / 'data/cifar10-jpeg-12k.npz'}").load("test")


@cache
def cnn_a(shared: Path) -> Classifier:
    """Return other people's PGD-trained net (linf 2/255)."""
    mean, std = (0.4914, 0.4824, 0.4467), (0.225, 0.225, 0.225)
    model = create_model("cnn-a", num_classes=10, input_shape=(3, 32, 32), mean=mean, std=std)
    load_published(model, read_checkpoint(shared / "models/cifar_cnn_a_adv.model"))
    return model.eval()


@cache
def resnet18() -> Classifier:
    """Return the ResNet-18 in pyautoattack's wheel, trained on CIFAR-10 without an adversary."""
    package = find_spec("pyautoattack")
    assert package is not None
    assert package.submodule_search_locations is not None
    model = create_model("resnet18", num_classes=10)
    load_published(model, read_checkpoint(Path(package.submodule_search_locations[0]) / "examples/model_test.pt"))
    return model.eval()


class Wrapped(nn.Module):
    """A net with something wrong around it; without a change, nothing is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def before(self, images: Tensor) -> Tensor:
        return images

    def after(self, logits: Tensor) -> Tensor:
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.net(self.before(images)))


class StuckInTraining(Wrapped):
    """train() was overridden, and eval() reaches nothing; ``layer`` is what that matters to."""

    def __init__(self, net: nn.Module, layer: nn.Module | None = None) -> None:
        super().__init__(net)
        self.layer = layer or nn.Identity()
        for module in self.modules():
            module.training = True

    def train(self, mode: bool = True) -> StuckInTraining:
        return self

    def before(self, images: Tensor) -> Tensor:
        changed: Tensor = self.layer(images)
        return changed


class Dropout(Wrapped):
    def before(self, images: Tensor) -> Tensor:
        return F.dropout(images, 0.2, training=True)


class RandomResize(Wrapped):
    def before(self, images: Tensor) -> Tensor:
        side = images.shape[-1]
        smaller = int(torch.randint(side - 1, side + 1, ()))
        resized = F.interpolate(images, size=smaller, mode="bilinear")
        left = int(torch.randint(0, side - smaller + 1, ()))
        return F.pad(resized, (left, side - smaller - left, 0, side - smaller))


class Softmax(Wrapped):
    def after(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class LogSoftmax(Wrapped):
    def after(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(1)


class Scaled(Wrapped):
    def __init__(self, net: nn.Module, factor: float = 1000) -> None:
        super().__init__(net)
        self.factor = factor

    def after(self, logits: Tensor) -> Tensor:
        return self.factor * logits


class Rounded(Wrapped):
    """The input is rounded to 3 bits, whose gradient is zero."""

    def before(self, images: Tensor) -> Tensor:
        return (7 * images).round() / 7


class Rippled(Wrapped):
    """The input is rounded, whose gradient is zero, and a faint ripple gives a gradient that misleads."""

    def before(self, images: Tensor) -> Tensor:
        return (32 * images).round() / 32 + 0.002 * torch.sin(200 * images)


class RootOfZero(Wrapped):
    """The logits are as they were; a root at 0 makes the gradient of bright images NaN."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        logits: Tensor = self.net(images)
        return logits + torch.where(mean > 0.3, 0 * mean, 1 + 0 * mean).sqrt()[:, None]


class Detached(Wrapped):
    def before(self, images: Tensor) -> Tensor:
        return images.detach()


class NormalisedOnceMore(Wrapped):
    def __init__(self, net: nn.Module, mean: float = MEAN, std: float = STD) -> None:
        super().__init__(net)
        self.mean, self.std = mean, std

    def before(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class ExpectsNormalised(Wrapped):
    """The caller was meant to normalise."""

    def before(self, images: Tensor) -> Tensor:
        return images * STD + MEAN


class ExpectsGreyLevels(Wrapped):
    def before(self, images: Tensor) -> Tensor:
        return images / 255


class CachesByShape(Wrapped):
    """The logits of the first batch of each shape are given to all."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.seen: dict[object, Tensor] = {}

    def key(self, images: Tensor) -> object:
        return tuple(images.shape)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return self.seen.setdefault(self.key(images), logits)


class CachesByFirstImage(CachesByShape):
    def key(self, images: Tensor) -> object:
        return (len(images), float(images[0].detach().double().sum()))


class PaddedByTheBatch(Wrapped):
    """The mean of the batch is taken from each image."""

    def before(self, images: Tensor) -> Tensor:
        return images - 0.5 * images.mean(0, keepdim=True)


class NotANumber(Wrapped):
    def after(self, logits: Tensor) -> Tensor:
        return logits / logits.new_zeros(())
