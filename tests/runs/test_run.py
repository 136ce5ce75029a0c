"""Looking at runs, with and without torch."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command_line import CommandLine

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models import create_model
from robustbench_gkl.runs import Run, find_run, load_model, runs_in, weights_sha256

REPOSITORY = Path(__file__).parents[2]
NORMALISED = {"mean": (0.4914, 0.4824, 0.4467), "std": (0.225,)}

LOOK = """
import sys
for name in ("torch", "torchvision", "safetensors.torch"):
    sys.modules[name] = None  # an import of it fails from here on
from pathlib import Path
from robustbench_gkl.runs import find_run
run = find_run("tiny", checkpoints_dir=Path(sys.argv[1]))
print(run.config().arch, run.epochs_done(), *run.available(), run.weights_sha256("last"), len(run.state_bytes()) > 0)
"""


def of_earlier_version(path: Path) -> None:
    """Take the hash out of a weights file's header."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = {key: value for key, value in file.metadata().items() if key != "weights_sha256"}
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata=header)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_hash_of_a_weights_file_is_that_of_the_model(normalised: bool, tmp_path: Path) -> None:
    model = create_model("preact-resnet18", num_classes=10, **(NORMALISED if normalised else {}))  # type: ignore[arg-type]
    run = Run(tmp_path)
    run.save_weights("last", model)
    with safetensors.safe_open(run.weights_path("last"), framework="numpy") as file:
        header = file.metadata()
    assert run.weights_sha256("last") == header["weights_sha256"] == weights_sha256(model)
    of_earlier_version(run.weights_path("last"))
    assert run.weights_sha256() == weights_sha256(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    assert run.weights_sha256() != weights_sha256(model)


def test_the_hash_is_over_names_dtypes_shapes_and_bytes(tmp_path: Path) -> None:
    model = torch.nn.BatchNorm2d(2)
    text = hashlib.sha256()
    for name, tensor in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        text.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode() + tensor.detach().numpy().tobytes())
    assert weights_sha256(model) == text.hexdigest()


def test_weights_that_are_not_those_of_the_header_are_refused(trained: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "net")
    run.create(Run(trained / "tiny").config())
    content = bytearray(Run(trained / "tiny").weights_path("last").read_bytes())
    content[-1] ^= 1
    run.weights_path("last").write_bytes(content)
    with pytest.raises(UserError, match=r"last\.safetensors does not hold the weights whose hash"):
        run.load_model()
    of_earlier_version(run.weights_path("last"))
    assert run.weights_sha256() == weights_sha256(run.load_model())


def test_looking_at_a_run_needs_no_torch(trained: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(trained)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    digest = weights_sha256(load_model("tiny", weights="last", checkpoints_dir=trained))
    assert done.stdout.split() == ["tiny-cnn", "2", "best", "last", digest, "True"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"\x02" + b"\0" * 7 + b"{}"])
def test_a_broken_weights_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "last.safetensors").write_bytes(content)
    if content.endswith(b"{}") and len(content) > 2:
        assert Run(tmp_path).weights_sha256() == hashlib.sha256().hexdigest()  # sound, of no tensors
        return
    with pytest.raises(UserError, match=r"last\.safetensors is broken"):
        Run(tmp_path).weights_sha256()


def test_the_name_is_that_of_the_folder(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gklbench: CommandLine
) -> None:
    (tmp_path / "link").symlink_to(trained / "tiny", target_is_directory=True)
    assert Run(tmp_path / "link").name == "link"
    monkeypatch.chdir(trained / "tiny")
    assert (Run(Path()).name, Run(Path("..")).name) == ("tiny", "checkpoints")
    results = tmp_path / "results"
    arguments = ("--attack", "fgsm", "--n", 4, "--results-dir", results, "--device", "cpu")
    assert gklbench("eval", ".", *arguments).code == 0
    (path,) = (results / "records").iterdir()
    assert json.loads(path.read_bytes())["model"]["name"] == "tiny"


@pytest.mark.parametrize("name", ["<b>x", ".hidden", "-x", "a b"])
def test_a_folder_that_cannot_name_a_run_is_refused(name: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_bytes((trained / "tiny" / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"a run's name must be letters.*; rename the folder") as raised:
        find_run(str(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_hidden_folders_are_no_runs(trained: Path, tmp_path: Path) -> None:
    for name in ("b", "a", ".c.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes((trained / "tiny" / "config.json").read_bytes())
    (tmp_path / "none").mkdir()
    assert [run.name for run in runs_in(tmp_path)] == ["a", "b"]
    with pytest.raises(UserError, match=r"no run 'x' in .* \(runs there: a, b\)"):
        find_run("x", checkpoints_dir=tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch(mode=0o000)
    with pytest.raises(UserError, match=r"cannot read .*config\.json: Permission denied"):
        Run(tmp_path).config()
