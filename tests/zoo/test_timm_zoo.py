"""timm:NAME with weights from a local file and from timm's cache; in an environment that has it (make zoo)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import file_sha256
from robustbench_gkl.models import create_model
from robustbench_gkl.models.external import parse_model
from robustbench_gkl.models.external.source import ExternalSource

timm = pytest.importorskip("timm")
SHAPE = (3, 64, 64)


def parse(argument: str) -> ExternalSource:
    source = parse_model(argument)
    assert source is not None
    return source


@pytest.mark.parametrize("form", ["wrapped.pth", "st.safetensors"])
def test_weights_from_a_file(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    net = timm.create_model("test_byobnet", num_classes=7).eval()
    path = tmp_path / form
    if form == "wrapped.pth":
        torch.save({"model": {f"module.{name}": value for name, value in net.state_dict().items()}}, path)
    else:
        safetensors.torch.save_file(net.state_dict(), path)
    source = parse(f"timm:test_byobnet@{path}")
    assert source.identity()["checkpoint_sha256"] == file_sha256(path)
    assert source.identity()["timm"] == timm.__version__
    model = source.load(num_classes=7, input_shape=SHAPE)
    config = timm.get_pretrained_cfg("test_byobnet")
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (config.mean, config.std))
    images = torch.rand(2, *SHAPE)
    torch.testing.assert_close(model(images), net((images - mean) / std))
    assert not model.training
    given = source.load(num_classes=7, input_shape=SHAPE, mean=(0.0,), std=(1.0,))
    assert torch.equal(given(images), net(images))


def test_facts_are_timm_s_own() -> None:
    facts = parse("timm:vit_base_patch16_clip_224.openai").facts()
    config = timm.get_pretrained_cfg("vit_base_patch16_clip_224.openai")
    resolved = timm.data.resolve_data_config({}, pretrained_cfg=config.to_dict())
    assert (facts.mean, facts.std, facts.input_shape) == (resolved["mean"], resolved["std"], resolved["input_size"])
    assert facts.interpolation == resolved["interpolation"]
    assert facts.resize == int(224 / resolved["crop_pct"])
    resnet = parse("timm:resnet18").facts()
    assert (resnet.dataset, resnet.num_classes, resnet.crop) == ("imagenet", 1000, 224)
    assert resnet.resize == int(224 / timm.get_pretrained_cfg("resnet18").crop_pct)


def test_constants_are_those_of_the_tag() -> None:
    """The default tag of this architecture was trained with other constants than its tag ``dino``."""
    name = "vit_small_patch16_224"
    tags = {tag: timm.get_pretrained_cfg(f"{name}.{tag}").mean for tag in ("augreg_in21k", "dino")}
    assert len(set(tags.values())) == 2
    for tag, mean in tags.items():
        constants = create_model(f"timm:{name}.{tag}", num_classes=10).normalize.constants()
        assert constants is not None
        assert constants[0] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("argument", "options", "message"),
    [
        ("timm:resnet81", {}, "unknown model of timm .* 'resnet81'; did you mean 'resnet"),
        ("timm:resnet18.no_such_tag", {}, "cannot build 'resnet18.no_such_tag'.*tag"),
        ("timm:test_byobnet", {}, "tells 1000 classes apart, and the data set has 10"),
        ("timm:test_byobnet@FILE", {}, r"2 misshapen: net\.head\.fc\.weight of 7x256 in place of 10x256"),
        ("timm:test_vit@FILE", {"input_shape": (3, 8, 8)}, "cannot build 'test_vit' for images of 3x8x8"),
        ("timm:test_byobnet@PICKLE", {}, r"never unpickles.*model\.state_dict\(\) again"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, argument: str, options: dict[str, Any], message: str) -> None:
    torch.save(timm.create_model("test_byobnet", num_classes=7).state_dict(), tmp_path / "weights.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    filled = argument.replace("FILE", str(tmp_path / "weights.pt")).replace("PICKLE", str(tmp_path / "model.pt"))
    given: dict[str, Any] = {"num_classes": 10, "input_shape": SHAPE} | options
    with pytest.raises(UserError, match=message) as caught:
        parse(filled).load(**given)
    assert "\n" not in str(caught.value)


def test_no_way_to_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing answers there
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="its weights cannot be downloaded") as caught:
        parse("timm:test_byobnet").load(num_classes=1000, input_shape=SHAPE)
    assert "\n" not in str(caught.value)
