"""Runs with a teacher or initial weights, by command."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import CommandLine, process

from robustbench_gkl.data import load_dataset, train_validation_split
from robustbench_gkl.models import create_model
from robustbench_gkl.runs import Run
from robustbench_gkl.runs.config import Origin

SHORT = (
    *("--model", "tiny-cnn", "--dataset", "digits", "--epochs", 2, "--batch-size", 32, "--device", "cpu"),
    *("--set", "train_size=128", "--set", "probe.steps=0"),
)
DISTIL = ("--loss", "gkl-kd", *SHORT)

NET = """
import torch
from torch import nn


def grey():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def four_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
"""


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoints folder with the run ``tiny``, beside a file of networks in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    shutil.copytree(trained / "tiny", tmp_path / "checkpoints/tiny")
    return tmp_path / "checkpoints"


def distil(gklbench: CommandLine, *arguments: object) -> None:
    """Train the run ``student``."""
    assert gklbench("train", *DISTIL, *arguments, "--name", "student", "--quiet").code == 0


def origin_of(run: Run, role: str) -> Origin:
    origin: Origin | None = getattr(run.config(), role)
    assert origin is not None
    return origin


def test_the_teachers_hash_is_in_the_run_and_in_its_records(folder: Path, gklbench: CommandLine) -> None:
    distil(gklbench, "--teacher", "tiny")
    for name in ("tiny", "student"):
        assert gklbench("eval", name, "--attack", "none", "--n", 20, "--quiet").code == 0
    records = [json.loads(path.read_text()) for path in Path("results/records").glob("*.json")]
    teacher, student = sorted(records, key=lambda record: bool(record["teacher"]))
    assert (teacher["teacher"], teacher["model"]["teacher_sha256"]) == (None, None)
    assert (student["teacher"], student["model"]["train_config"]["teacher"]) == ("tiny", "tiny")
    assert student["model"]["teacher_sha256"] == teacher["model"]["model_sha256"]
    assert origin_of(Run(folder / "student"), "teacher").model_sha256 == teacher["model"]["model_sha256"]
    state = Run(folder / "student").load_state()
    assert state is not None
    assert state["model"].keys() == Run(folder / "tiny").load_model().state_dict().keys()
    assert gklbench("leaderboard", "--csv", "board.csv", "--quiet").code == 0
    board = pd.read_csv("board.csv", keep_default_na=False).set_index("model")
    assert list(board.columns)[list(board.columns).index("eval_seconds") :][:3] == ["eval_seconds", "tier", "teacher"]
    assert dict(board["teacher"]) == {"tiny": "", "student": "tiny"}


def test_the_agreement_is_how_often_both_say_the_same(folder: Path, gklbench: CommandLine) -> None:
    distil(
        gklbench,
        "--teacher",
        "tiny",
        "--epochs",
        6,
        "--set",
        "validation_fraction=0.4",
        "--set",
        "loss_options.warmup=0",
    )
    images = load_dataset("digits").load("train").take(torch.arange(128))
    _, held_out = train_validation_split(128, 0.4)
    points = images.images[held_out].float() / 255
    teacher, student = Run(folder / "tiny").load_model(), Run(folder / "student").load_model("last")
    with torch.no_grad():
        agreeing = (student(points).argmax(1) == teacher(points).argmax(1)).float().mean()
    row = Run(folder / "student").last_row()
    assert row["val_agreement"] == pytest.approx(100 * float(agreeing), abs=1e-3)
    assert 0 < row["val_agreement"] < 100
    assert 0 < row["train_agreement"] < 100


def test_a_network_of_the_users_teaches(folder: Path, gklbench: CommandLine) -> None:
    distil(gklbench, "--teacher", "net.py:grey")
    assert origin_of(Run(folder / "student"), "teacher").name == "net-grey"


def test_a_changed_teacher_is_refused_on_resume(folder: Path, gklbench: CommandLine) -> None:
    distil(gklbench, "--teacher", "tiny")
    teacher = Run(folder / "tiny").load_model()
    torch.nn.init.zeros_(next(teacher.parameters()))
    for which in Run(folder / "tiny").available():
        Run(folder / "tiny").save_weights(which, teacher)
    done = gklbench("train", "--name", "student", "--resume", "--quiet")
    assert done.code == 2
    assert "student was started with another teacher: tiny has changed since; put back what it was" in done.err


def test_a_teacher_that_was_moved_is_named_anew_on_resume(folder: Path, gklbench: CommandLine) -> None:
    distil(gklbench, "--teacher", "tiny")
    (folder / "tiny").rename(folder.parent / "moved")
    resumed = ("train", "--name", "student", "--resume", "--quiet")
    assert "no run 'tiny'" in gklbench(*resumed).err
    assert gklbench(*resumed, "--teacher", folder.parent / "moved").code == 0
    other = gklbench(*resumed, "--teacher", "net.py:grey")
    assert other.code == 2
    assert "student was started with another teacher: net.py:grey is not what tiny was; put back" in other.err


def test_settings_are_written_before_there_is_a_teacher(folder: Path, gklbench: CommandLine) -> None:
    arguments = ("train", *DISTIL, "--teacher", "later", "--init", "later", "--export", "student.toml")
    done = gklbench(*arguments)
    assert done.code == 0, done.err
    assert 'teacher = "later"' in Path("student.toml").read_text()


def test_no_run_replaces_its_own_teacher(folder: Path, gklbench: CommandLine) -> None:
    before = Run(folder / "tiny").weights_sha256()
    for teacher in ("tiny", folder / "tiny"):
        done = gklbench("train", *DISTIL, "--teacher", teacher, "--name", "tiny", "--overwrite", "--quiet")
        assert done.code == 2
        assert "run tiny would replace its own teacher; give it another --name" in done.err
    assert Run(folder / "tiny").weights_sha256() == before


def test_a_run_starts_from_given_weights(folder: Path, gklbench: CommandLine) -> None:
    still = (
        *("--loss", "standard", *SHORT, "--set", "optimizer.lr=1e-30", "--set", "averaging.per=step"),
        *("--init", "tiny", "--name", "again"),
    )
    assert gklbench("train", *still, "--quiet").code == 0
    preferred = Run(folder / "tiny").load_model().state_dict()
    for found in (Run(folder / "again").load_model("last"), Run(folder / "again").load_model("average")):
        for key, value in found.named_parameters():
            torch.testing.assert_close(value.detach(), preferred[key], rtol=1e-6, atol=1e-20)
    assert origin_of(Run(folder / "again"), "init").name == "tiny"
    other = gklbench("train", "--name", "again", "--resume", "--init", "net.py:grey", "--quiet")
    assert "run again was started with other settings: init = tiny, here net.py:grey" in other.err
    shutil.rmtree(folder / "tiny")
    done = gklbench("train", "--name", "again", "--resume", "--set", "epochs=2", "--quiet")
    assert done.code == 0, "what a run has begun from need not be there any more"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the loss gkl-kd reads a teacher, and there is none; give --teacher MODEL"),
        (["--loss", "trades", "--teacher", "tiny"], "teacher = tiny has no effect: the loss trades reads no teacher"),
        (["--teacher", "net.py:four_classes"], "net.py:four_classes must return logits of 2x10"),
        (
            ["--teacher", "colour"],
            "run colour takes 3x8x8 images of 10 classes, but digits has 1x8x8",
        ),
        (["--teacher", "tiny", "--init", "colour"], "run colour takes 3x8x8 images"),
        (["--teacher", "tiny", "--init", "net.py:grey"], "init = net.py:grey: it does not fit TinyCNN"),
        (["--teacher", "tiny", "--init", "tiny", "--set", "mean=[0.5]", "--set", "std=[0.5]"], "normalises images by"),
    ],
    ids=[
        "no teacher",
        "idle teacher",
        "classes",
        "images",
        "init of other images",
        "init of another net",
        "normalisation",
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    arguments: list[str], expected: str, folder: Path, gklbench: CommandLine
) -> None:
    source = (
        Run(folder / "tiny").config().model_copy(update={"name": "colour", "input_shape": (3, 8, 8), "train": None})
    )
    Run(folder / "colour").create(source)
    colour = create_model("tiny-cnn", num_classes=10, input_shape=(3, 8, 8))
    Run(folder / "colour").save_weights("last", colour)
    done = gklbench("train", *DISTIL, *arguments, "--name", "student", "--quiet")
    assert done.code == 2
    assert expected in done.err
    assert done.err.count("\n") == 1
    assert not (folder / "student").exists()
    assert not list(folder.glob(".student.new"))


@pytest.mark.slow
def test_a_killed_student_of_a_real_teacher_ends_in_the_same_weights(shared: Path, tmp_path: Path) -> None:
    """The second epoch weighs with the class prior of the whole first one, in whose midst the run is killed."""
    data = f"npz:{shared / 'data/cifar10-jpeg-12k.npz'}"
    student = (
        *("train", "--loss", "gkl-kd", "--teacher", "teacher", "--model", "resnet8", "--dataset", data, "--lr", 0.01),
        *("--epochs", 2, "--batch-size", 16, "--set", "train_size=160", "--set", "validation_fraction=0"),
        *("--set", "loss_options.warmup=0", "--device", "cpu", "--save-every", 0),
    )
    teacher = ("import", shared / "models/cifar10_resnet20.th", "--model", "cifar-resnet20", "--name", "teacher")
    assert done(*teacher, "--dataset", data, here=tmp_path) == 0
    assert done(*student, "--name", "whole", here=tmp_path) == 0
    whole, killed = (Run(tmp_path / "checkpoints" / name) for name in ("whole", "killed"))
    victim = process(*student, "--name", "killed", cwd=tmp_path)
    while steps_of(killed) < 5 and victim.poll() is None:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=60)
    assert victim.returncode == -signal.SIGKILL
    assert done(*student, "--name", "killed", "--resume", here=tmp_path) == 0
    first, second = whole.load_state(), killed.load_state()
    assert first is not None
    assert second is not None
    assert sorted(first["loss"]) == ["prior.observed", "prior.rows"]
    for part in ("model", "loss"):
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())
    assert whole.weights_sha256() == killed.weights_sha256()


def done(*arguments: object, here: Path) -> int:
    """Return the exit code of a command in a process of its own."""
    ended = process(*arguments, cwd=here)
    ended.communicate(timeout=300)
    return ended.returncode


def steps_of(run: Run) -> int:
    """Return how many steps, of 10 an epoch, are in a run's saved state."""
    state = run.load_state() if run.exists() else None
    return 0 if state is None else 10 * int(state["epoch"]) + int(state["step"])
