"""Bad input ends in one line that names what was wrong, and in exit code 2."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import TINY, CommandLine
from corruption_files import write_folder

EVAL = ("eval", "tiny", "--n", 8, "--attack", "fgsm")
TRAIN = ("train", "digits-trades", "--name", "new", *TINY)
IMPORT = ("import", "net.pt", "--dataset", "digits", "--model", "tiny-cnn", "--name", "new")

NINE = np.zeros((8, 9, 9), np.uint8)


def with_file(path: str, content: bytes | str) -> Callable[[Path], None]:
    """Return a preparation that writes a file."""

    def prepare(folder: Path) -> None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def with_npz(**arrays: np.ndarray) -> Callable[[Path], None]:
    """Return a preparation that writes ``data.npz``: eight grey 8x8 images of each split, but for ``arrays``."""
    sound = {
        "x_train": np.zeros((8, 8, 8), np.uint8),
        "y_train": np.arange(8) % 10,
        "x_test": np.zeros((8, 8, 8), np.uint8),
        "y_test": np.arange(8) % 10,
    }

    def prepare(folder: Path) -> None:
        np.savez(folder / "data.npz", **(sound | arrays))  # type: ignore[arg-type]

    return prepare


def truncated(path: str) -> Callable[[Path], None]:
    """Return a preparation that cuts a file in half."""

    def prepare(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: len(content) // 2])

    return prepare


def without_state(folder: Path) -> None:
    (folder / "checkpoints/tiny/state.pt").write_bytes(b"PK")


def with_checkpoint(**tensors: torch.Tensor) -> Callable[[Path], None]:
    return lambda folder: torch.save(tensors, folder / "net.pt")


def pickled(folder: Path) -> None:
    (folder / "net.pt").write_bytes(pickle.dumps({"weights": Path("anything")}))


NET = """
import torch
from torch import nn
build = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
five = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
wide = nn.Sequential(nn.Flatten(), nn.Linear(99, 10))
words = "a model"
def needs(depth): return build
def fails(): raise ValueError("no such depth")
def nothing(): return None
class Pair(nn.Module):
    def forward(self, images): return images, images
"""


def with_net(folder: Path) -> None:
    """Write ``net.py``, with what is a model for digits and what is none."""
    (folder / "net.py").write_text(NET)


def with_images(**arrays: np.ndarray) -> Callable[[Path], None]:
    """Return a preparation that writes ``adv.npz`` beside ``net.py``."""

    def prepare(folder: Path) -> None:
        with_net(folder)
        np.savez(folder / "adv.npz", **arrays)  # type: ignore[arg-type]

    return prepare


@dataclass(frozen=True)
class Case:
    """Arguments, what the message must say, and what is prepared before."""

    arguments: tuple[object, ...]
    says: str
    prepare: Callable[[Path], None] = lambda folder: None


def with_corruptions(folder: Path) -> None:
    """Write ``net.py`` and a folder of corrupted digits."""
    with_net(folder)
    write_folder(folder / "digits-c", names=("noise",), m=8, shape=(8, 8))


def with_namesakes(folder: Path) -> None:
    """Write ``net.py`` and a suite that evaluates it in two ways under one name."""
    with_net(folder)
    models = 'models = ["net.py:build", {model = "net.py:build", crop = 4}]'
    (folder / "mine.toml").write_text(f'{models}\n[[eval]]\nattacks = ["fgsm"]\n')


OWN = ("eval", "net.py:build", "--dataset", "digits", "--norm", "linf", "--eps", "0.1", "--n", 8, "--attack", "fgsm")
ADV = (*OWN[:-1], "images:adv.npz")

CASES = {
    "unknown command": Case(("evall", "tiny"), "did you mean 'eval'?"),
    "unknown option": Case(("eval", "tiny", "--epsilon", "8"), "--epsilon"),
    "missing argument": Case(("eval",), "MODEL"),
    "option without value": Case(("eval", "tiny", "--eps"), "--eps"),
    "unknown recipe": Case(("train", "digits-gkll"), "did you mean 'digits-gkl'?"),
    "unknown loss": Case((*TRAIN, "--loss", "tradez"), "did you mean 'trades'?"),
    "unknown model": Case((*TRAIN, "--model", "tinycnn"), "did you mean 'tiny-cnn'?"),
    "impossible depth": Case((*TRAIN, "--model", "wrn-11-2"), "6n + 4"),
    "unknown data set": Case((*TRAIN, "--dataset", "digit"), "did you mean 'digits'?"),
    "unknown attack": Case((*EVAL[:4], "--attack", "pdg"), "did you mean"),
    "unknown loss option": Case((*TRAIN, "--set", "loss_options.bata=3"), "did you mean 'beta'?"),
    "unknown key": Case((*TRAIN, "--set", "epoch=3"), "epoch"),
    "unknown augmentation": Case((*TRAIN, "--set", "augment=flop"), "flop"),
    "unknown augmentation of the second view": Case((*TRAIN, "--set", "second_view.augment=flop"), "flop"),
    "absent generated images": Case((*TRAIN, "--synthetic", "none.npz", "--set", "synthetic.fraction=0.5"), "none.npz"),
    "learning rate true": Case((*TRAIN, "--set", "lr=true"), "optimizer.lr: must be a number, got True"),
    "negative weight in the loss": Case((*TRAIN, "--set", "loss_options.beta=-4"), "option beta"),
    "setting without an effect": Case(
        (*TRAIN, "--set", "awp.gamma=0.005"),
        "awp.gamma = 0.005 has no effect: awp.start_epoch is 10 and epochs 2; leave it out or change that",
    ),
    "momentum of absent batch normalisation": Case(
        (*TRAIN, "--model", "cnn-a", "--set", "batchnorm_momentum=0.5"), "cnn-a has no batch normalisation"
    ),
    "resume of nothing": Case(("train", "--name", "new", "--resume"), "no run new in checkpoints to resume"),
    "key through a value": Case((*TRAIN, "--set", "epochs.more=3"), "not a table"),
    "assignment without value": Case((*TRAIN, "--set", "epochs"), "key=value"),
    "zero epochs": Case((*TRAIN, "--epochs", 0), "epochs"),
    "negative learning rate": Case((*TRAIN, "--lr", -1), "lr"),
    "negative seed": Case((*TRAIN, "--seed", -1), "seed"),
    "name with a slash": Case((*TRAIN[:2], "--name", "a/b"), "letters, digits"),
    "resume and overwrite": Case((*TRAIN, "--resume", "--overwrite"), "not both"),
    "run exists": Case(("train", "digits-trades", "--name", "tiny"), "--resume"),
    "resume with other settings": Case(
        ("train", "--name", "tiny", "--resume", "--epochs", 7), "other settings: epochs = 2, here 7"
    ),
    "resume from a broken state": Case(("train", "--name", "tiny", "--resume"), "state.pt", without_state),
    "more images than there are": Case((*TRAIN, "--set", "train_size=999999"), "train_size"),
    "spec without value": Case((*EVAL[:4], "--attack", "pgd:steps"), "NAME:key=value"),
    "spec with a word for a number": Case((*EVAL[:4], "--attack", "pgd:steps=many"), "steps"),
    "spec with zero steps": Case((*EVAL[:4], "--attack", "pgd:steps=0"), "steps"),
    "spec with an unknown key": Case((*EVAL[:4], "--attack", "pgd:stepz=3"), "did you mean 'steps'?"),
    "spec with a key twice": Case((*EVAL[:4], "--attack", "pgd:steps=3,steps=4"), "twice"),
    "spec with a wrong objective": Case((*EVAL[:4], "--attack", "pgd:objective=kl"), "objective"),
    "attack twice": Case((*EVAL, "--attack", "fgsm"), "twice"),
    "unknown torchattacks class": Case((*EVAL[:4], "--attack", "torchattacks.PGDD"), "did you mean 'PGD'?"),
    "unknown torchattacks option": Case((*EVAL[:4], "--attack", "torchattacks.PGD:stepz=3"), "stepz"),
    "eps inside a torchattacks spec": Case((*EVAL[:4], "--attack", "torchattacks.PGD:eps=0.1"), "--eps"),
    "no reference for the norm": Case(
        (*EVAL[:4], "--attack", "pgd", "--norm", "l1", "--eps", 2, "--engine", "reference"), "--engine native"
    ),
    "eps in grey levels": Case((*EVAL, "--eps", 8), "[0, 1]"),
    "eps negative": Case((*EVAL, "--eps", "-1/255"), "negative"),
    "eps a word": Case((*EVAL, "--eps", "small"), "8/255"),
    "eps not a number": Case((*EVAL, "--eps", "nan"), "nan"),
    "eps over zero": Case((*EVAL, "--eps", "8/0"), "8/0"),
    "unknown norm": Case((*EVAL, "--norm", "l3"), "l3"),
    "more samples than there are": Case(("eval", "tiny", "--n", 5000), "360"),
    "no samples": Case(("eval", "tiny", "--n", 0), "n"),
    "batch of none": Case((*EVAL, "--batch-size", 0), "batch_size"),
    "threshold above 100": Case((*EVAL, "--fail-under", 101), "100"),
    "unknown device": Case((*EVAL, "--device", "gpu"), "auto, cpu, cuda"),
    "absent device": Case((*EVAL, "--device", "cuda:99"), "CUDA devices"),
    "unknown run": Case(("eval", "tny"), "tiny"),
    "absent weights": Case((*EVAL, "--weights", "average"), "best, last"),
    "truncated weights": Case(EVAL, "best.safetensors", truncated("checkpoints/tiny/best.safetensors")),
    "truncated run configuration": Case(EVAL, "config.json", truncated("checkpoints/tiny/config.json")),
    "images of another size": Case(
        (*EVAL, "--dataset", "npz:data.npz"),
        "1x8x8",
        with_npz(x_train=NINE, x_test=NINE),
    ),
    "absent npz": Case((*EVAL, "--dataset", "npz:none.npz"), "none.npz"),
    "npz that is none": Case((*EVAL, "--dataset", "npz:data.npz"), "data.npz", with_file("data.npz", "<html>")),
    "npz with NaN images": Case(
        (*EVAL, "--dataset", "npz:data.npz"), "NaN", with_npz(x_test=np.full((8, 8, 8), np.nan, np.float32))
    ),
    "npz of the wrong shape": Case(
        (*EVAL, "--dataset", "npz:data.npz"), "x_test", with_npz(x_test=np.zeros((8, 64), np.uint8))
    ),
    "npz with a label below 0": Case(
        (*EVAL, "--dataset", "npz:data.npz"), "y_test", with_npz(y_test=np.array([0, 1, 2, 3, -4, 5, 6, 7]))
    ),
    "npz with too few labels": Case((*EVAL, "--dataset", "npz:data.npz"), "y_test", with_npz(y_test=np.arange(3))),
    "data of other classes": Case(
        (*EVAL, "--dataset", "npz:data.npz"), "classes", with_npz(y_test=np.arange(8) * 3, y_train=np.arange(8) * 3)
    ),
    "absent folder": Case((*EVAL, "--dataset", "folder:pictures"), "pictures"),
    "empty folder": Case(
        (*EVAL, "--dataset", "folder:pictures"),
        "pictures",
        lambda folder: (folder / "pictures/test/a").mkdir(parents=True),
    ),
    "picture that is none": Case(
        (*EVAL, "--dataset", "folder:pictures"), "0.png", with_file("pictures/test/a/0.png", "not a picture")
    ),
    "results folder that cannot be written": Case(EVAL, "results", with_file("results", "a file is in the way")),
    "checkpoints folder that cannot be written": Case(
        (*TRAIN, "--checkpoints-dir", "/proc/none"), "folder that can be written"
    ),
    "absent results": Case(("leaderboard", "--results-dir", "none"), "none"),
    "broken record": Case(("leaderboard", "--strict"), "broken.json", with_file("results/records/broken.json", "{")),
    "table that cannot be written": Case(
        ("leaderboard", "--csv", "results/file/t.csv"), "t.csv", with_file("results/file", "in the way")
    ),
    "absent checkpoint": Case(IMPORT, "net.pt"),
    "web page as checkpoint": Case(IMPORT, "web page", with_file("net.pt", "<!DOCTYPE html><html></html>")),
    "pickled objects as checkpoint": Case(IMPORT, "net.pt", pickled),
    "truncated checkpoint": Case(IMPORT, "net.pt", with_file("net.pt", b"PK\x03\x04 and nothing more")),
    "checkpoint of another architecture": Case(
        IMPORT, "conv1.weight", with_checkpoint(weight=torch.zeros(3), bias=torch.zeros(3))
    ),
    "mean without std": Case((*IMPORT, "--mean", "0.5"), "together", with_checkpoint(weight=torch.zeros(3))),
    "means of too many channels": Case(
        (*IMPORT, "--mean", ".5,.5,.5", "--std", "1"), "mean", with_checkpoint(weight=torch.zeros(3))
    ),
    "mean that is no number": Case((*IMPORT, "--mean", "half", "--std", "1"), "--mean"),
    "absent file of code": Case((*OWN[:1], "none.py:build", *OWN[2:]), "no file none.py"),
    "file of code alone": Case((*OWN[:1], "net.py", *OWN[2:]), "net.py:CALLABLE", with_net),
    "name that a file has not": Case((*OWN[:1], "net.py:biuld", *OWN[2:]), "did you mean 'build'", with_net),
    "model that is a word": Case((*OWN[:1], "net.py:words", *OWN[2:]), "is a str", with_net),
    "model that needs arguments": Case((*OWN[:1], "net.py:needs", *OWN[2:]), "needs arguments (depth)", with_net),
    "model that raises": Case((*OWN[:1], "net.py:fails", *OWN[2:]), "net.py, line 9: ValueError", with_net),
    "model that is None": Case((*OWN[:1], "net.py:nothing", *OWN[2:]), "must return a torch.nn.Module", with_net),
    "model that returns a pair": Case((*OWN[:1], "net.py:Pair", *OWN[2:]), "returns a tuple", with_net),
    "model of other classes": Case((*OWN[:1], "net.py:five", *OWN[2:]), "2x10", with_net),
    "model of other images": Case((*OWN[:1], "net.py:wide", *OWN[2:]), "cannot predict", with_net),
    "file with a syntax error": Case(OWN, "net.py, line 2: SyntaxError", with_file("net.py", "x = 1\nbuild = (\n")),
    "unknown kind of model": Case((*OWN[:1], "torchvison:resnet18", *OWN[2:]), "did you mean 'torchvision'"),
    "unknown torchvision model": Case((*OWN[:1], "torchvision:resnet19", *OWN[2:]), "did you mean 'resnet18'"),
    "absent checkpoint of torchvision": Case((*OWN[:1], "torchvision:resnet18@none.pt", *OWN[2:]), "none.pt"),
    "outside model without a data set": Case(("eval", "net.py:build"), "give --dataset", with_net),
    "outside model with weights": Case((*OWN, "--weights", "best"), "--weights best", with_net),
    "outside mean without std": Case((*OWN, "--mean", "0.5"), "together", with_net),
    "outside mean of two channels": Case((*OWN, "--mean", "0.5,0.5", "--std", "1,1"), "mean", with_net),
    "outside mean that is no number": Case((*OWN, "--mean", "x", "--std", "1"), "--mean must be numbers", with_net),
    "outside std of nothing": Case((*OWN, "--mean", "0.5", "--std", "0"), "std", with_net),
    "crop larger than the images": Case((*OWN, "--crop", 9), "--crop 9 is larger", with_net),
    "crop of nothing": Case((*OWN, "--crop", 0), "--crop", with_net),
    "resize to nothing": Case((*OWN, "--resize", "big"), "--resize", with_net),
    "run with a mean": Case((*EVAL, "--mean", "0.5", "--std", "0.5"), "run tiny has its preprocessing inside"),
    "run with a crop": Case((*EVAL, "--crop", 4), "run tiny has its preprocessing inside"),
    "no radius for a norm": Case((*EVAL, "--norm", "l1"), "give --eps"),
    "illegal name on the board": Case((*OWN, "--name", "a/b"), "letters, digits", with_net),
    "submitted images that are not there": Case((*OWN[:-1], "images:none.npz"), "none.npz", with_net),
    "submitted images without a file": Case((*OWN[:-1], "images"), "images", with_net),
    "submitted images of another format": Case((*OWN[:-1], "images:adv.pt"), ".npz or .safetensors", with_net),
    "submitted images that are none": Case((*ADV,), "must hold an array images", with_images(x=NINE)),
    "submitted images in bytes": Case(ADV, "must be float32", with_images(images=np.zeros((8, 1, 8, 8), np.uint8))),
    "submitted images of another size": Case(
        ADV, "those of the data set 1x8x8", with_images(images=np.zeros((8, 8, 8, 1), np.float32))
    ),
    "submitted images with an index twice": Case(
        ADV,
        "each sample once",
        with_images(images=np.zeros((8, 1, 8, 8), np.float32), index=np.zeros(8, np.int64)),
    ),
    "submitted images with a short index": Case(
        ADV, "8 integers", with_images(images=np.zeros((8, 1, 8, 8), np.float32), index=np.arange(3))
    ),
    "absent plugin": Case((*EVAL, "--plugin", "none.py"), "--plugin none.py: no file"),
    "absent plugin module": Case((*EVAL, "--plugin", "no_such_module_here"), "no module of that name"),
    "plugin with an error": Case(
        (*EVAL, "--plugin", "mine.py"), "mine.py, line 2: ZeroDivisionError", with_file("mine.py", "x = 1\nx / 0\n")
    ),
    "plugin with a taken name": Case(
        (*EVAL, "--plugin", "mine.py"),
        "loss 'gkl' is taken by",
        with_file("mine.py", "from robustbench_gkl.losses import LOSSES\nLOSSES.register('gkl')(print)\n"),
    ),
    "corrupted images with a crop": Case(
        ("corruptions", "net.py:build", "--data", "digits-c", "--crop", 4),
        "leave out --resize and --crop",
        with_corruptions,
    ),
    "suite with two models of a name": Case(
        ("suite", "mine.toml"),
        "has the name 'net-build' of another model",
        with_namesakes,
    ),
    "absent recipe file": Case(("train", "none.toml"), "none.toml"),
    "broken recipe file": Case(("train", "mine.toml"), "mine.toml", with_file("mine.toml", "epochs = ")),
    "recipe file with a wrong type": Case(("train", "mine.toml"), "epochs", with_file("mine.toml", 'epochs = "few"')),
    "list of nothing": Case(("list", "optimisers"), "losses"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_input_ends_in_one_line(
    case: Case, gklbench: CommandLine, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    case.prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = gklbench(*case.arguments)
    assert result.code == 2, result.err
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1, result.err
    assert case.says in result.err
    assert set(before) <= set(tmp_path.rglob("*"))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["tiny"], "nothing is left of a run"
    assert set(tmp_path.glob("results/records/*")) <= set(before)


def test_there_are_at_least_thirty_cases() -> None:
    assert len(CASES) >= 30
