"""What a MODEL argument is, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from robustbench_gkl.config.names import WEIGHTS, check_name
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models.external import parse_model
from robustbench_gkl.models.external.hub import _PREFERRED, HubSource
from robustbench_gkl.models.external.robustbench_zoo import RobustBenchSource
from robustbench_gkl.models.external.timm_zoo import TimmSource
from robustbench_gkl.models.external.torchvision_zoo import TorchvisionSource
from robustbench_gkl.models.external.user_code import FileSource, ModuleSource


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: ``net.py``, ``nets/my-net.py``, ``weights.pt``, a package and two runs."""
    monkeypatch.chdir(tmp_path)
    for path in ("net.py", "nets/my-net.py", "weights.pt", "localpkg/__init__.py", "localpkg/nets.py"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()
    for run in ("run", "torchvision:resnet18", "old:runs/a"):
        Path(run).mkdir(parents=True)
        (Path(run) / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("net.py:build", "net-build"),
        ("./net.py:build", "net-build"),
        ("nets/my-net.py:Net.make", "my-net-Net.make"),
        ("localpkg.nets:build", "localpkg.nets-build"),
        ("json.decoder:JSONDecoder", "json.decoder-JSONDecoder"),
        ("torchvision:resnet18x", "torchvision-resnet18x"),
        ("torchvision:resnet18x@IMAGENET1K_V2", "torchvision-resnet18x-IMAGENET1K_V2"),
        ("torchvision:resnet18x@weights.pt", "torchvision-resnet18x-weights"),
        ("timm:resnet18", "timm-resnet18"),
        ("timm:vit_base.tag@weights.pt", "timm-vit_base.tag-weights"),
        ("robustbench:Standard", "robustbench-Standard"),
        ("robustbench:cifar10/L2/Wang2023Better_WRN-28-10", "robustbench-cifar10-L2-Wang2023Better_WRN-28-10"),
        ("hf:owner/repo", "hf-owner-repo"),
        ("hf:owner/repo@v1.0", "hf-owner-repo-v1.0"),
    ],
)
def test_kinds_and_their_legal_names(argument: str, name: str) -> None:
    source = parse_model(argument)
    assert source is not None
    assert source.argument == argument
    assert source.name == check_name(name)


def test_what_is_taken_from_an_argument(folder: Path) -> None:
    assert parse_model("net.py:build") == FileSource("net.py:build", "build", folder / "net.py")
    assert parse_model("localpkg.nets:a.b") == ModuleSource("localpkg.nets:a.b", "a.b", "localpkg.nets")
    with_file = "torchvision:resnet18x@weights.pt"
    assert parse_model(with_file) == TorchvisionSource(with_file, "resnet18x", None, folder / "weights.pt")
    assert parse_model("torchvision:a@DEFAULT") == TorchvisionSource("torchvision:a@DEFAULT", "a", "DEFAULT", None)
    assert parse_model("timm:a.b") == TimmSource("timm:a.b", "a.b", None)
    short, whole = "robustbench:cifar10/Std", "robustbench:cifar10/L2/Std"
    assert parse_model(short) == RobustBenchSource(short, "Std", "cifar10", None)
    assert parse_model(whole, zoo_dir=folder) == RobustBenchSource(whole, "Std", "cifar10", "L2", zoo_dir=folder)
    assert parse_model("hf:a/b@main") == HubSource("hf:a/b@main", "a/b", "main")


@pytest.mark.parametrize(
    "argument",
    [
        "run",
        "checkpoints/run",
        "wrn-34-10-seed0",
        "torchvision:resnet18",  # a run's folder is called so
        "old:runs/a",
        "old:runs/absent",
        r"C:\runs\mine",
        "D:/runs/mine",
        "/somewhere/absent",
        "",
    ],
)
def test_runs_are_for_the_caller(argument: str) -> None:
    assert parse_model(argument) is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("torchvison:resnet18", "unknown kind of model 'torchvison'; did you mean 'torchvision'"),
        ("torchvison:resnet-18", "unknown kind of model 'torchvison'; did you mean torchvision:NAME"),
        ("tim:resnet18", "unknown kind of model 'tim'; did you mean 'timm'"),
        ("net.py", "net.py:CALLABLE"),
        ("net.py:", r"written FILE\.py:CALLABLE, got 'net\.py:'"),
        ("net.py:1st", r"written FILE\.py:CALLABLE"),
        ("absent.py:build", r"no file absent\.py in .*; check the path"),
        ("nomodule.nets:build", r"no module 'nomodule'; install it, or name a file as \./nomodule/nets\.py:build"),
        ("timm:", r"written timm:NAME\[@FILE\]"),
        ("timm:a@", r"written timm:NAME\[@FILE\]"),
        ("timm:resnet18@absent.pt", r"no checkpoint at absent\.pt"),
        ("timm:resnet18@V1", "no checkpoint at V1"),
        ("torchvision:resnet 18", r"written torchvision:NAME"),
        ("torchvision:resnet18x@sub/absent", "no checkpoint at sub/absent"),
        ("robustbench:", "written robustbench:"),
        ("robustbench:a/b/c/d", "written robustbench:"),
        ("robustbench:cifar10//a", "written robustbench:"),
        ("hf:repo", "written hf:OWNER/REPO"),
        ("hf:a/b/c", "written hf:OWNER/REPO"),
        ("hf:a/b@", "written hf:OWNER/REPO"),
    ],
)
def test_what_is_none_of_them_is_said_in_one_line(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_model(argument)
    assert "\n" not in str(caught.value)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails from here on
from robustbench_gkl.models.external import parse_model
sources = [parse_model(argument) for argument in sys.argv[1:]]
print(*(source.name for source in sources))
print(sources[0].identity()["code_sha256"])
"""


def test_no_torch_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["net.py:build", "localpkg.nets:f", "torchvision:a@weights.pt", "timm:a", "robustbench:a", "hf:a/b"]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    names, digest = done.stdout.splitlines()
    assert len(names.split()) == len(arguments)
    assert digest == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256 of no bytes


def test_a_hub_s_weights_are_preferred_as_a_run_s() -> None:
    assert _PREFERRED == WEIGHTS
