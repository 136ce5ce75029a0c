"""``gklbench corruptions`` and its leaderboard."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import CommandLine
from corruption_files import write_folder

import robustbench_gkl
from robustbench_gkl.data import load_dataset, to_unit
from robustbench_gkl.results import ResultStore

M = 20


@pytest.fixture
def workplace(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run ``tiny``, and ``digits-c``: digits that grow darker, and digits in noise."""
    shutil.copytree(trained, tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    test = load_dataset("digits").load("test").take(torch.arange(M))
    pixels = test.images[:, 0].numpy()
    dark = np.concatenate([pixels // severity for severity in range(1, 6)])
    noise = np.random.default_rng(0).integers(0, 256, dark.shape, dtype=np.uint8)
    write_folder(tmp_path / "digits-c", names=(), m=M)
    np.save(tmp_path / "digits-c/darkness.npy", dark)
    np.save(tmp_path / "digits-c/noise.npy", np.maximum(dark, noise // 2))
    np.save(tmp_path / "digits-c/labels.npy", np.tile(test.labels.numpy(), 5))
    return tmp_path


def test_accuracies_are_those_of_the_model(workplace: Path, gklbench: CommandLine) -> None:
    result = gklbench("corruptions", "tiny", "--data", "digits-c")
    assert result.code == 0, result.err
    (record,) = ResultStore(workplace / "results").corruptions.all()
    model = robustbench_gkl.load_model("tiny")
    labels = np.load("digits-c/labels.npy")
    rights = []
    for name in ("darkness", "noise"):
        images = to_unit(torch.from_numpy(np.load(f"digits-c/{name}.npy"))[:, None])
        right = (model(images).argmax(1).numpy() == labels).reshape(5, M)
        assert record.correct[name] == tuple(right.sum(1))
        rights.append(right)
    assert record.mean_corruption_acc == pytest.approx(100 * np.mean(rights))
    assert f"mean corruption accuracy {record.mean_corruption_acc:.2f} %" in result.out
    assert record.model.weights_sha256
    assert record.environment["torch"]


def test_it_is_done_once(workplace: Path, gklbench: CommandLine) -> None:
    arguments = ("corruptions", "tiny", "--data", "digits-c", "--n", 10)
    assert "already" not in gklbench(*arguments).out
    assert "already evaluated" in gklbench(*arguments).out
    assert "already" not in gklbench(*arguments, "--overwrite").out
    assert "already" not in gklbench(*arguments[:-1], 11).out
    assert len(list(ResultStore(workplace / "results").corruptions.all())) == 2
    quiet = gklbench(*arguments, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_the_leaderboard_of_corruptions(workplace: Path, gklbench: CommandLine) -> None:
    shutil.copytree(workplace / "checkpoints/tiny", workplace / "checkpoints/twin")
    for name in ("tiny", "twin"):
        assert gklbench("corruptions", name, "--data", "digits-c").code == 0
    printed = gklbench("leaderboard", "--corruptions")
    assert printed.code == 0
    assert "mean %" in printed.out
    assert gklbench("leaderboard", "--corruptions", "--csv", "c.csv", "--markdown", "c.md").code == 0
    table = pd.read_csv("c.csv")
    assert table["model"].tolist() == ["tiny", "twin"]
    assert table["rank"].tolist() == [1, 1]
    assert table["dataset"].tolist() == ["digits-c"] * 2
    assert Path("c.md").read_text().count("\n") == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("corruptions", "tiny"), "--data"),
        (("corruptions", "tny", "--data", "digits-c"), "tiny"),
        (("corruptions", "tiny", "--data", "none"), "none does not exist"),
        (("corruptions", "tiny", "--data", "checkpoints"), "CORRUPTION.npy"),
        (("corruptions", "tiny", "--data", "digits-c", "--n", 0), "1..20"),
        (("corruptions", "tiny", "--data", "digits-c", "--n", 21), "1..20"),
        (("corruptions", "tiny", "--data", "colour-c"), "1x8x8"),
        (("corruptions", "tiny", "--data", "digits-c", "--weights", "average"), "best, last"),
        (("leaderboard", "--corruptions", "--eps", "8/255"), "--eps"),
        (("leaderboard", "--corruptions"), "gklbench corruptions"),
    ],
)
def test_bad_input_to_corruptions(
    arguments: tuple[object, ...], says: str, workplace: Path, gklbench: CommandLine
) -> None:
    write_folder(workplace / "colour-c", names=("fog",), m=2)
    result = gklbench(*arguments)
    assert result.code == 2, result.out
    assert says in result.err
    assert result.err.count("\n") == 1


def test_a_net_of_a_file_is_known_by_its_code_too(workplace: Path, gklbench: CommandLine) -> None:
    text = "import torch\nfrom torch import nn\n\ntorch.manual_seed(0)\n"
    text += "build = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    command = ("corruptions", "net.py:build", "--data", "digits-c", "--name", "mine")
    edited = text.replace("nn.Flatten()", "nn.Sequential(nn.Flatten(), nn.Tanh())")  # the same weights
    for code, known in ((text, False), (text, True), (edited, False)):
        Path("net.py").write_text(code)
        result = gklbench(*command)
        assert result.code == 0, result.err
        assert ("already evaluated" in result.out) == known
    assert len(list(ResultStore(workplace / "results").corruptions.all())) == 2
