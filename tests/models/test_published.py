"""Reading other people's checkpoints, and refusing what is none."""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models import create_model
from robustbench_gkl.models.published import load_published, read_checkpoint


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(create_model("wrn-10-1", num_classes=10).state_dict())


def assert_same(read: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    assert list(read) == list(state)
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.model", "weights", "weights.tar"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_reads_any_name(tmp_path: Path, state: dict[str, Tensor], name: str, zipped: bool) -> None:
    torch.save(OrderedDict(state), tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert_same(read_checkpoint(tmp_path / name), state)


@pytest.mark.parametrize("suffix", ["safetensors", "SafeTensors"])
def test_reads_safetensors(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    safetensors.torch.save_file(state, path)
    read = read_checkpoint(path)
    assert_same({name: read[name] for name in state}, state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "net"])
def test_unwraps(tmp_path: Path, state: dict[str, Tensor], wrapper: str) -> None:
    torch.save({"epoch": 3, wrapper: state, "optimizer": {"lr": 0.1}}, tmp_path / "weights.pt")
    assert_same(read_checkpoint(tmp_path / "weights.pt"), state)


def test_unwraps_twice_and_detaches(tmp_path: Path) -> None:
    torch.save({"net": {"state_dict": {"w": nn.Parameter(torch.ones(2))}}}, tmp_path / "weights.pt")
    (tensor,) = read_checkpoint(tmp_path / "weights.pt").values()
    assert not tensor.requires_grad


def web_page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>")


def text(path: Path) -> None:
    path.write_text("404: Not Found\n")


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def empty(path: Path) -> None:
    path.touch()


def folder(path: Path) -> None:
    path.mkdir()


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def cut_short(fraction: float, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        torch.save({"weight": torch.ones(4000)}, path, **options)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * fraction)])

    return write


def cut_safetensors(path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.ones(4000)}, path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors").write_bytes(path.with_suffix(".safetensors").read_bytes()[:-5])


def whole_model(path: Path) -> None:
    torch.save(create_model("tiny-cnn", num_classes=10), path)


def whole_model_legacy(path: Path) -> None:
    torch.save(create_model("tiny-cnn", num_classes=10), path, _use_new_zipfile_serialization=False)


def with_arguments(path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "args": SimpleNamespace(lr=0.1)}, path)


def plain_pickle(protocol: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(pickle.dumps({"weight": np.ones(3)}, protocol=protocol))

    return write


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def nothing_inside(path: Path) -> None:
    torch.save({}, path)


def numbers_inside(path: Path) -> None:
    torch.save({"epoch": 3, "acc": 0.9, "lr": 0.1, "beta": 6.0}, path)


def a_tensor(path: Path) -> None:
    torch.save(torch.ones(2), path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (web_page, "is a web page, not a checkpoint: the download failed"),
        (text, "damaged, cut short or no checkpoint"),
        (lfs_pointer, "Git LFS pointer"),
        (empty, "is empty: the download failed"),
        (folder, "is a folder"),
        (noise, "damaged, cut short or no checkpoint"),
        (cut_short(0.001), "damaged"),
        (cut_short(0.5), "damaged"),
        (cut_short(0.999), "damaged"),
        (cut_short(0.01, _use_new_zipfile_serialization=False), "damaged.*no complete pickle"),
        (cut_short(0.5, _use_new_zipfile_serialization=False), "damaged"),
        (
            whole_model,
            r"object robustbench_gkl\.models\.tiny_cnn\.TinyCNN and .* never unpickles.*state_dict\(\) again",
        ),
        (whole_model_legacy, r"object robustbench_gkl\.models\.tiny_cnn\.TinyCNN and .* never unpickles"),
        (with_arguments, r"object types\.SimpleNamespace and .* never unpickles"),
        (plain_pickle(2), r"object numpy\.[\w.]+ and .* never unpickles"),
        (plain_pickle(4), "holds Python objects and .* never unpickles"),
        (torchscript, "holds a TorchScript program and .* never unpickles"),
        (nothing_inside, "no state dict.*got an empty dict"),
        (numbers_inside, r"no state dict.*got a dict with epoch, acc, lr, \.\.\.;"),
        (a_tensor, "no state dict.*got a Tensor"),
    ],
)
def test_refuses_in_one_line(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "weights.pt"
    write(path)
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_refuses_damaged_safetensors(tmp_path: Path) -> None:
    cut_safetensors(tmp_path / "weights")
    with pytest.raises(UserError, match=r"damaged, cut short or no checkpoint \(Error while deserializing"):
        read_checkpoint(tmp_path / "weights.safetensors")
    web_page(tmp_path / "page.safetensors")
    with pytest.raises(UserError, match="is a web page"):
        read_checkpoint(tmp_path / "page.safetensors")


def test_refuses_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*absent\.pt"):
        read_checkpoint(tmp_path / "absent.pt")


def test_nothing_of_a_pickle_is_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (trap,)

    torch.save({"state_dict": {"w": torch.ones(1)}, "trap": Trap()}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="never unpickles"):
        read_checkpoint(tmp_path / "weights.pt")
    assert not trap.exists()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_strips_what_wrappers_leave(state: dict[str, Tensor], prefix: str) -> None:
    model = create_model("wrn-10-1", num_classes=10)
    load_published(model, {prefix + name: tensor for name, tensor in state.items()})
    assert_same(dict(model.state_dict()), state)


def test_keeps_a_prefix_that_not_all_have(state: dict[str, Tensor]) -> None:
    mixed = {("module." if name.startswith("fc") else "") + name: tensor for name, tensor in state.items()}
    with pytest.raises(UserError, match=r"2 missing: fc\.weight, fc\.bias; 2 unexpected: module\.fc\.weight"):
        load_published(create_model("wrn-10-1", num_classes=10), mixed)


def test_drops_the_unused_group_of_trades(state: dict[str, Tensor]) -> None:
    extra = {name.replace("block1.", "sub_block1."): w for name, w in state.items() if name.startswith("block1.")}
    published = {f"module.{name}": tensor for name, tensor in {**state, **extra}.items()}
    model = create_model("wrn-10-1", num_classes=10)
    load_published(model, published)
    assert_same(dict(model.state_dict()), state)
    with pytest.raises(UserError, match="unexpected"):
        load_published(create_model("wrn-10-1-swish", num_classes=10), published)


def test_batch_counts_may_be_missing(state: dict[str, Tensor]) -> None:
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    model = create_model("wrn-10-1", num_classes=10)
    load_published(model, old)
    assert_same(dict(model.state_dict()), state)


def test_half_precision_weights_become_float32(state: dict[str, Tensor]) -> None:
    model = create_model("wrn-10-1", num_classes=10)
    load_published(model, {name: t.half() if t.is_floating_point() else t for name, t in state.items()})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_misfits_are_counted_and_sampled_in_one_line(state: dict[str, Tensor]) -> None:
    model = create_model("wrn-10-1", num_classes=100)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del state["conv1.weight"]
    state |= {f"extra{number}": torch.ones(1) for number in range(5)}
    with pytest.raises(UserError) as caught:
        load_published(model, state)
    message = str(caught.value)
    assert "\n" not in message
    assert "1 missing: conv1.weight" in message
    assert "5 unexpected: extra0, extra1, extra2, ..." in message
    assert "2 misshapen: fc.weight of 10x64 in place of 100x64, fc.bias of 10 in place of 100" in message
    assert_same(dict(model.state_dict()), before)
