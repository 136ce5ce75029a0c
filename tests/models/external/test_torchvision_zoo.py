"""torchvision's classifiers with weights from a local file, and what is wrong about others."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import file_sha256
from robustbench_gkl.models.external import Facts, parse_model
from robustbench_gkl.models.external.source import ExternalSource

SHAPE = (3, 64, 64)


def parse(argument: str) -> ExternalSource:
    source = parse_model(argument)
    assert source is not None
    return source


@pytest.fixture
def net() -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = torchvision.models.resnet18(num_classes=10)
    return made.eval()


@pytest.mark.parametrize("form", ["plain.pth", "wrapped.tar", "st.safetensors"])
def test_weights_from_a_file(tmp_path: Path, net: torch.nn.Module, form: str) -> None:
    state = net.state_dict()
    path = tmp_path / form
    if form == "wrapped.tar":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    elif form == "plain.pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    source = parse(f"torchvision:resnet18@{path}")
    assert source.facts() == Facts()
    assert source.identity() == {
        "kind": "torchvision",
        "argument": f"torchvision:resnet18@{path}",
        "torchvision": torchvision.__version__.partition("+")[0],
        "checkpoint": form,
        "checkpoint_sha256": file_sha256(path),
    }
    images = torch.rand(2, *SHAPE)
    plain = source.load(num_classes=10, input_shape=SHAPE)
    assert torch.equal(plain(images), net(images))
    normalised = source.load(num_classes=10, input_shape=SHAPE, mean=(0.5,), std=(0.25,))
    assert torch.equal(normalised(images), net((images - 0.5) / 0.25))


def test_torchvision_s_own_weights_say_what_they_were_made_for() -> None:
    source = parse("torchvision:resnet18@IMAGENET1K_V1")
    assert source.facts() == Facts(
        dataset="imagenet",
        num_classes=1000,
        input_shape=(3, 224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        resize=256,
        crop=224,
        interpolation="bilinear",
    )
    assert source.identity()["weights"] == "IMAGENET1K_V1"
    newest = parse("torchvision:resnet50")
    assert newest.identity()["weights"] == parse("torchvision:resnet50@DEFAULT").identity()["weights"]
    assert newest.identity()["weights"] == torchvision.models.ResNet50_Weights.DEFAULT.name
    assert newest.facts().resize == 232


def test_what_is_downloaded_is_loaded_and_never_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torch.hub takes its file from its own cache, as it does after a download."""
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    cached = tmp_path / "checkpoints" / weights.url.rpartition("/")[2]
    cached.parent.mkdir()
    torch.manual_seed(0)
    full = torchvision.models.resnet18().eval()
    torch.save(full.state_dict(), cached)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    source = parse("torchvision:resnet18@IMAGENET1K_V1")
    model = source.load(num_classes=1000, input_shape=SHAPE)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in IMAGENET)
    images = torch.rand(2, *SHAPE)
    torch.testing.assert_close(model(images), full((images - mean) / std))
    torch.save(full, cached)
    with pytest.raises(UserError, match=r"its weights cannot be downloaded \(UnpicklingError") as caught:
        source.load(num_classes=1000, input_shape=SHAPE)
    assert "\n" not in str(caught.value)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_no_way_to_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing answers there
    with pytest.raises(UserError, match="its weights cannot be downloaded") as caught:
        parse("torchvision:resnet18").load(num_classes=1000, input_shape=SHAPE)
    assert isinstance(caught.value.__cause__, URLError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("torchvision:resnet81", "unknown classifier of torchvision 'resnet81'; did you mean 'resnet18'"),
        ("torchvision:fcn_resnet50", "unknown classifier of torchvision"),
        ("torchvision:resnet18@IMAGENET1K_V9", "unknown weights of resnet18 'IMAGENET1K_V9'; did you mean 'IMAGENET1K"),
        ("torchvision:resnet18", "tells 1000 classes apart, and the data set has 10"),
        ("torchvision:resnet18@FILE", "2 misshapen: net.fc.weight of 7x512 in place of 10x512"),
        ("torchvision:vit_b_16@FILE", "cannot predict images of 3x64x64 .*Wrong image height"),
        ("torchvision:resnet18@PICKLE", r"never unpickles.*model\.state_dict\(\) again"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, argument: str, message: str) -> None:
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), tmp_path / "weights.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    filled = argument.replace("FILE", str(tmp_path / "weights.pt")).replace("PICKLE", str(tmp_path / "model.pt"))
    with pytest.raises(UserError, match=message) as caught:
        parse(filled).load(num_classes=10, input_shape=SHAPE)
    assert "\n" not in str(caught.value)
