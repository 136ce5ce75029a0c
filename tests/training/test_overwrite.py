"""A run makes way only for one that has begun, and only one process trains it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from command_line import TINY, CommandLine, process

from robustbench_gkl.runs import Run, weights_sha256
from robustbench_gkl.training import Interrupted, train

LONG = ("train", "digits-gkl", "--name", "tiny", "--device", "cpu", "--quiet", "--set", "attack.steps=300")
"""A run whose first epoch takes many seconds."""


@pytest.fixture
def tiny(trained: Path, here: Path) -> Run:
    """A run, with somebody's notes beside it."""
    shutil.copytree(trained, here / "checkpoints")
    (here / "checkpoints/tiny/notes.txt").write_text("mine")
    return Run(here / "checkpoints/tiny")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def begin(run: Run, *arguments: object) -> subprocess.Popen[str]:
    """Start to train a long run in place of another, in a process of its own; return once it has begun."""
    running = process(*LONG, *arguments, cwd=Path.cwd())
    while not (run.folder.parent / ".tiny.new" / "config.json").exists():
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.02)
    return running


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("--model", "tinycnn"), "did you mean 'tiny-cnn'"),
        (("--set", "augment=flop"), "flop"),
        (("--lr", "1e30"), "the loss became NaN in epoch 1"),
        (("--dataset", "npz:none.npz"), "none.npz"),
        (("--set", "train_size=999999"), "train_size"),
        (("--resume",), "not both"),
    ],
    ids=lambda given: given[-1],
)
def test_a_training_that_fails_leaves_the_old_run(
    wrong: tuple[str, ...], says: str, tiny: Run, gklbench: CommandLine
) -> None:
    before = content(tiny.folder.parent)
    result = gklbench("train", "digits-gkl", "--name", "tiny", "--overwrite", *TINY, *wrong)
    assert result.code == 2, result.err
    assert says in result.err
    assert result.err.count("\n") == 1
    assert content(tiny.folder.parent) == before


def test_a_full_disk_is_named_and_leaves_the_old_run(tiny: Run) -> None:
    before = content(tiny.folder.parent)
    script = """
        import resource, sys
        from robustbench_gkl.cli import run
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        sys.exit(run(sys.argv[1:]))
    """.replace("        ", "")
    command = [sys.executable, "-c", script, "train", "digits-gkl", "--name", "tiny", "--overwrite", *map(str, TINY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: File too large: ")
    assert done.stderr.endswith(".safetensors\n")
    assert content(tiny.folder.parent) == before


def test_a_training_replaces_the_old_run_and_spares_other_files(tiny: Run, gklbench: CommandLine) -> None:
    result = gklbench("train", "digits-gkl", "--name", "tiny", "--overwrite", *TINY, "--epochs", 1)
    assert result.code == 0, result.err
    config = tiny.config()
    assert config.name == "tiny"
    assert config.train is not None
    assert (config.train.loss, tiny.epochs_done()) == ("gkl", 1)
    assert (tiny.folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tiny.folder.parent.iterdir()] == ["tiny"]


@pytest.mark.slow
def test_a_kill_before_anything_is_saved_leaves_the_old_run(tiny: Run, gklbench: CommandLine) -> None:
    before = content(tiny.folder)
    with begin(tiny, "--overwrite") as running:
        running.send_signal(signal.SIGKILL)
    assert content(tiny.folder) == before
    (tiny.folder.parent / ".tiny.new" / "average.safetensors").write_bytes(b"stale")
    assert gklbench("train", "digits-gkl", "--name", "tiny", "--overwrite", *TINY).code == 0
    assert tiny.available() == ["best", "last"]
    assert [path.name for path in tiny.folder.parent.iterdir()] == ["tiny"]


@pytest.mark.slow
def test_ctrl_c_saves_the_new_run_in_place_of_the_old(tiny: Run) -> None:
    with begin(tiny, "--overwrite") as running:
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "--resume goes on from here" in err
    state = tiny.load_state()
    assert state is not None
    assert (state["epoch"], state["step"]) == (0, 1)
    assert set(content(tiny.folder)) == {"config.json", "state.pt", "notes.txt"}
    config = tiny.config().train
    assert config is not None
    with pytest.raises(Interrupted):
        train(config, tiny, device=torch.device("cpu"), resume=True, should_stop=lambda: True)
    state = tiny.load_state()
    assert state is not None
    assert state["step"] == 2


@pytest.mark.slow
def test_a_run_is_written_by_one_process_alone(tiny: Run, gklbench: CommandLine) -> None:
    torch.save(tiny.load_model("last").state_dict(), "net.pt")
    publish = ("import", "net.pt", "--model", "tiny-cnn", "--dataset", "digits", "--name", "tiny", "--overwrite")
    before = content(tiny.folder)
    with begin(tiny, "--overwrite") as running:
        for arguments in ((*LONG, "--overwrite"), ("train", "--name", "tiny", "--resume"), publish):
            result = gklbench(*arguments)
            assert result.code == 2
            assert result.err.count("\n") == 1
            assert f"Error: run tiny is being written by process {running.pid} on " in result.err
            assert "(robustbench_gkl train digits-gkl --name tiny " in result.err
        assert content(tiny.folder) == before
        running.send_signal(signal.SIGKILL)
    assert gklbench(*publish).code == 0
    assert tiny.config().source is not None
    assert tiny.available() == ["last"]
    assert tiny.weights_sha256() == weights_sha256(tiny.load_model())
    assert (tiny.folder / "notes.txt").exists()


def test_an_import_that_fails_leaves_the_old_run(tiny: Run, gklbench: CommandLine) -> None:
    torch.save({"weight": torch.zeros(3)}, "net.pt")
    before = content(tiny.folder.parent)
    arguments = ("--model", "tiny-cnn", "--dataset", "digits", "--name", "tiny", "--overwrite")
    assert gklbench("import", "net.pt", *arguments).code == 2
    assert content(tiny.folder.parent) == before


def test_the_logger_writes_beside_the_new_run(
    tiny: Run, gklbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tensorboard itself may not be installed; its writer makes its folder and file at once."""

    class Writer:
        def __init__(self, folder: str) -> None:
            Path(folder).mkdir(parents=True)
            self.file = Path(folder) / "events.out"

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            with self.file.open("a") as file:
                file.write(f"{step} {tag} {value}\n")

        def close(self) -> None:
            self.file = Path("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    for _ in range(2):
        arguments = ("train", "digits-gkl", "--name", "tiny", "--overwrite", "--logger", "tensorboard", *TINY)
        assert gklbench(*arguments).code == 0
        lines = (tiny.folder / "tensorboard" / "events.out").read_text().splitlines()
        assert [line.split()[0] for line in lines if " loss " in line] == ["1", "2"]
    assert (tiny.folder / "notes.txt").exists()
