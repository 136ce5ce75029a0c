"""hf:OWNER/REPO from files in the hub's own cache format, offline; in an environment that has it (make zoo)."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_gkl.core.environment import environment
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import file_sha256
from robustbench_gkl.models import create_model
from robustbench_gkl.models.external import parse_model
from robustbench_gkl.models.external.hub import HubSource
from robustbench_gkl.runs import Run, RunConfig, now

hub = pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHAPE = (3, 16, 16)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no way to the hub itself."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def snapshot(cache: Path) -> Path:
    """A run in the cache as ``someone/nets``: its branch ``main`` points to one snapshot."""
    folder = cache / "models--someone--nets"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    torch.manual_seed(0)
    model = create_model("tiny-cnn", num_classes=5, input_shape=SHAPE, mean=(0.4, 0.5, 0.6), std=(0.2,))
    run = Run(snapshot)
    run.create(
        RunConfig(
            name="nets",
            arch="tiny-cnn",
            num_classes=5,
            input_shape=SHAPE,
            dataset="cifar10",
            created=now(),
            environment=environment(torch.device("cpu")),
        )
    )
    run.save_weights("last", model)
    torch.nn.init.zeros_(next(model.parameters()))
    run.save_weights("best", model)
    return snapshot


def parse(argument: str) -> HubSource:
    source = parse_model(argument)
    assert isinstance(source, HubSource)
    return source


def load(argument: str, **options: Any) -> torch.nn.Module:
    given: dict[str, Any] = {"num_classes": 5, "input_shape": SHAPE} | options
    return parse(argument).load(**given)


@pytest.mark.parametrize("argument", ["hf:someone/nets", "hf:someone/nets@main", f"hf:someone/nets@{COMMIT}"])
def test_a_run_in_the_cache_is_that_run(snapshot: Path, argument: str) -> None:
    images = torch.rand(2, *SHAPE)
    model = load(argument)
    assert torch.equal(model(images), Run(snapshot).load_model()(images))
    assert not torch.equal(model(images), Run(snapshot).load_model("last")(images))
    assert parse(argument).identity() == {
        "kind": "hf",
        "argument": argument,
        "commit": COMMIT,
        "huggingface_hub": hub.__version__,
        "checkpoint": "best.safetensors",
        "checkpoint_sha256": file_sha256(snapshot / "best.safetensors"),
    }


def test_what_its_config_says(snapshot: Path) -> None:
    facts = parse("hf:someone/nets").facts()
    assert (facts.dataset, facts.num_classes, facts.input_shape, facts.norm) == ("cifar10", 5, SHAPE, None)
    config = json.loads((snapshot / "config.json").read_text())
    config["train"] = {"threat": {"norm": "l2", "eps": "0.5"}, "something": "of a later version"}
    (snapshot / "config.json").write_text(json.dumps(config))
    assert parse("hf:someone/nets").facts() == replace(facts, norm="l2", eps=Fraction(1, 2))


def test_a_single_file_of_another_name(snapshot: Path) -> None:
    (snapshot / "best.safetensors").unlink()
    (snapshot / "last.safetensors").rename(snapshot / "model.safetensors")
    assert isinstance(load("hf:someone/nets"), torch.nn.Module)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("argument", "options", "message"),
    [
        ("hf:someone/absent", {}, "neither in the hub's cache nor to be had from the hub"),
        ("hf:someone/nets@v2", {}, "neither in the hub's cache nor to be had from the hub"),
        ("hf:someone/-nets", {}, "names no repository"),
        ("hf:someone/nets", {"num_classes": 10}, "tells 5 classes apart, and the data set has 10"),
        ("hf:someone/nets", {"input_shape": (3, 32, 32)}, "takes images of 3x16x16, and the data set has 3x32x32"),
        ("hf:someone/nets", {"mean": (0.5,), "std": (0.5,)}, "normalises its images itself"),
    ],
)
def test_what_is_wrong_is_one_line(snapshot: Path, argument: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(argument, **options)
    assert "\n" not in str(caught.value)


def test_broken_files_are_one_line(snapshot: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            load("hf:someone/nets")
        assert "\n" not in str(caught.value)

    change(snapshot / "config.json", arch="resnet18")
    refused("does not hold the weights of resnet18")
    change(snapshot / "config.json", arch="no-such-net")
    refused("unknown model 'no-such-net'")
    change(snapshot / "config.json", num_classes="many")
    refused("its config.json is none of a run.*num_classes")
    change(snapshot / "config.json", num_classes=5, arch="tiny-cnn")
    (snapshot / "best.safetensors").write_bytes(b"cut")
    refused("is broken")
    for path in snapshot.glob("*.safetensors"):
        path.unlink()
    (snapshot / "pytorch_model.bin").write_bytes(b"a pickle")
    refused(r"has none; .*a pickle is never read")
    (snapshot / "config.json").unlink()
    refused("has no config.json")
