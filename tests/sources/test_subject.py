"""Models as evaluations find them: runs, files of code, and where they are found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_gkl.config.schema import ModelOptions
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data import load_dataset
from robustbench_gkl.data.resizing import Fit
from robustbench_gkl.runs import Origin
from robustbench_gkl.sources.source import OutsideSource, RunSource, find_source, has_changed, source_again
from robustbench_gkl.sources.subject import Subject

NET = """
import torch
from torch import nn
from pathlib import Path


def build():
    net = nn.Sequential(nn.Flatten(), nn.Linear({inputs}, 10))
    net.load_state_dict(torch.load("weights.pt", weights_only=True))
    return net
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of code in the working directory, which reads weights from there."""
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(64, 10).state_dict(), tmp_path / "linear.pt")
    state = torch.load(tmp_path / "linear.pt", weights_only=True)
    torch.save({f"1.{key}": value for key, value in state.items()}, tmp_path / "weights.pt")
    (tmp_path / "net.py").write_text(NET.format(inputs=64))
    monkeypatch.chdir(tmp_path)
    return "net.py:build"


def found(model: str, **options: Any) -> OutsideSource | RunSource:
    source = find_source(model, checkpoints_dir=Path("checkpoints"), options=ModelOptions(**options))
    assert isinstance(source, (OutsideSource, RunSource))
    return source


def loaded(source: OutsideSource | RunSource) -> Subject:
    dataset = source.fitted(load_dataset("digits", data_dir=Path("data")))
    return source.load(dataset, device=torch.device("cpu"))


def test_a_file_is_found_again_from_another_working_directory(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = found(net, mean=(0.5,), std=(0.25,))
    first = loaded(source)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = source_again(source.reference(), Path("checkpoints"))
    second = again.load(load_dataset("digits", data_dir=Path("data")), device=torch.device("cpu"))
    assert Path.cwd() == tmp_path / "elsewhere"
    assert second.model_sha256 == first.model_sha256
    assert second.source == first.source
    assert again.name == source.name == "net-build"


def test_a_reference_without_a_folder_starts_from_the_working_directory(net: str) -> None:
    reference = found(net).reference()
    del reference["folder"]
    assert source_again(reference, Path("checkpoints")).label == net
    assert source_again(reference | {"folder": "/no/such/folder"}, Path("checkpoints")).label == net


def test_weights_code_normalisation_and_size_make_the_identity(net: str, tmp_path: Path) -> None:
    plain = loaded(found(net))
    assert loaded(found(net)).model_sha256 == plain.model_sha256
    normalised = loaded(found(net, mean=(0.5,), std=(0.5,)))
    assert normalised.weights_sha256 != plain.weights_sha256
    resized = loaded(found(net, resize=12, crop=8))
    assert (resized.weights_sha256, resized.fit) == (plain.weights_sha256, Fit(12, 8))
    (tmp_path / "net.py").write_text(NET.format(inputs=64) + "# edited\n")
    edited = loaded(found(net))
    assert (edited.weights_sha256, edited.arch) == (plain.weights_sha256, plain.arch)
    hashes = {subject.model_sha256 for subject in (plain, normalised, resized, edited)}
    assert len(hashes) == 4


def test_what_a_record_says_of_it(net: str) -> None:
    info = loaded(found(net, mean=(0.5,), std=(0.25,), resize=12, crop=8)).info("mine")
    assert (info.name, info.arch, info.loss, info.run, info.train_config) == ("mine", net, None, None, None)
    assert info.preprocessing is not None
    assert info.preprocessing.model_dump(exclude_none=True) == {
        "mean": (0.5,),
        "std": (0.25,),
        "resize": 12,
        "crop": 8,
        "interpolation": "bilinear",
    }
    assert info.source is not None
    assert {key: info.source[key] for key in ("kind", "argument", "mean", "resize")} == {
        "kind": "file",
        "argument": net,
        "mean": [0.5],
        "resize": 12,
    }
    assert info.params == 650


def test_options_that_belong_to_another_kind_are_refused(net: str, trained: Path) -> None:
    with pytest.raises(UserError, match="--mean, --std: run tiny has its preprocessing inside"):
        find_source("tiny", checkpoints_dir=trained, options=ModelOptions(mean=(0.5,), std=(0.5,)))
    with pytest.raises(UserError, match="--weights best chooses among the weights of a run"):
        find_source(net, checkpoints_dir=trained, weights="best", options=ModelOptions())


def test_a_run_is_found_again_where_it_was(trained: Path, tmp_path: Path) -> None:
    source = find_source("tiny", checkpoints_dir=trained, options=ModelOptions())
    again = source_again(source.reference(), tmp_path / "none")
    assert isinstance(again, RunSource)
    assert again.run.folder.resolve() == (trained / "tiny").resolve()


def test_a_model_has_changed_with_its_weights_or_its_code(net: str, trained: Path) -> None:
    source = found(net)
    assert isinstance(source, OutsideSource)
    origin = Origin(name="net", model_sha256="", source=dict(source.outside.identity()))
    assert not has_changed(origin, net, checkpoints_dir=trained)
    Path("net.py").write_text(Path("net.py").read_text() + "\n# another version\n")
    assert has_changed(origin, net, checkpoints_dir=trained)

    tiny = find_source("tiny", checkpoints_dir=trained, options=ModelOptions())
    subject = tiny.load(load_dataset("digits"), device=torch.device("cpu"))
    same, other = (Origin(name="tiny", model_sha256=sha256) for sha256 in (subject.model_sha256, "0"))
    assert [has_changed(one, "tiny", checkpoints_dir=trained) for one in (same, other)] == [False, True]
    assert not has_changed(other, "gone", checkpoints_dir=trained), "what is gone cannot tell"
