"""Models by other people, through a file's function: their logits are those of their own code."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from robustbench_gkl.models.external import parse_model

CIFAR = {"num_classes": 10, "input_shape": (3, 32, 32)}
MNIST = {"num_classes": 10, "input_shape": (1, 28, 28)}
IMAGENET_CONSTANTS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CIFAR_CONSTANTS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}

COMMON = """
import torch
from torch import nn
from torch.nn import functional as F


def weights(name):
    content = torch.load(FOLDER + "/" + name, map_location="cpu", weights_only=True)
    return {key.removeprefix("module."): value for key, value in content.get("state_dict", content).items()}
"""

RESNET20 = """
class Block(nn.Module):
    def __init__(self, inside, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.pad = planes // 4 if stride != 1 else 0

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x)


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        def stage(a, b, s):
            return nn.Sequential(Block(a, b, s), Block(b, b, 1), Block(b, b, 1))
        self.layer1, self.layer2, self.layer3 = stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)
        self.load_state_dict(weights("cifar10_resnet20.th"))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
"""

RESNET2B = """
class Block(nn.Module):
    def __init__(self, inside, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, planes, 3, stride, 1)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, planes, 1, stride))

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet2B(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
        self.linear1, self.linear2 = nn.Linear(1024, 100), nn.Linear(100, 10)

    def forward(self, x):
        x = self.layer1(F.relu(self.conv1(x)))
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


def resnet2b():
    net = ResNet2B()
    net.load_state_dict(weights("cifar_resnet_2b.pth"))
    return net
"""

MADRY = """
def madry():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 5, 2, 2), nn.ReLU(), nn.Conv2d(4, 8, 5, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(392, 128), nn.ReLU(), nn.Linear(128, 10),
    )
    net.load_state_dict(weights("mnist_madry_cnn_tiny.pt"))
    return net
"""


@pytest.fixture
def nets(tmp_path: Path, shared: Path) -> Path:
    """A file with the three nets."""
    if not (shared / "models").is_dir():
        pytest.skip("no models among the reference data")
    path = tmp_path / "nets.py"
    text = COMMON + RESNET20 + RESNET2B.replace("Block", "PlainBlock") + MADRY
    path.write_text(f"FOLDER = {str(shared / 'models')!r}\n" + dedent(text))
    return path


@pytest.mark.parametrize(
    ("attribute", "key", "constants", "accuracy"),
    [("ResNet20", "resnet20", IMAGENET_CONSTANTS, 0.8165), ("resnet2b", "resnet2b", CIFAR_CONSTANTS, 0.6995)],
)
def test_cifar_nets(
    nets: Path, shared: Path, attribute: str, key: str, constants: dict[str, tuple[float, ...]], accuracy: float
) -> None:
    """Logits as their own code gave them, and the accuracy that was measured on the 2,000 test images."""
    data = np.load(shared / "data/cifar10-jpeg-12k.npz")
    images = torch.from_numpy(data["x_test"]).permute(0, 3, 1, 2).float() / 255
    source = parse_model(f"{nets}:{attribute}")
    assert source is not None
    model = source.load(**CIFAR, **constants)  # type: ignore[arg-type]
    with torch.no_grad():
        logits = torch.cat([model(chunk) for chunk in images.reshape(10, -1, 3, 32, 32)])
    reference = torch.from_numpy(np.load(shared / "reference/real_models.npz")[f"{key}/logits"])
    torch.testing.assert_close(logits[:16], reference, rtol=1e-4, atol=1e-4)
    correct = (logits.argmax(1).numpy() == data["y_test"]).mean()
    assert correct == pytest.approx(accuracy, abs=6e-4)


def test_an_mnist_net(nets: Path, shared: Path) -> None:
    data = np.load(shared / "data/mnist-10k.npz")
    images = torch.from_numpy(data["x_test"]).reshape(-1, 1, 28, 28).float() / 255
    source = parse_model(f"{nets}:madry")
    assert source is not None
    model = source.load(**MNIST)  # type: ignore[arg-type]
    state = torch.load(shared / "models/mnist_madry_cnn_tiny.pt", map_location="cpu", weights_only=True)
    with torch.no_grad():
        logits = model(images)
        hidden = torch.nn.functional.conv2d(images, state["0.weight"], state["0.bias"], 2, 2).relu()
        hidden = torch.nn.functional.conv2d(hidden, state["2.weight"], state["2.bias"], 2, 2).relu().flatten(1)
        by_hand = (hidden @ state["5.weight"].T + state["5.bias"]).relu() @ state["7.weight"].T + state["7.bias"]
    torch.testing.assert_close(logits, by_hand, rtol=1e-4, atol=1e-4)
    assert (logits.argmax(1).numpy() == data["y_test"]).mean() > 0.95
