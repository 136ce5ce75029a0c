"""Replacing runs: no kill, failure or second process costs one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.lock import locked
from robustbench_gkl.runs import Run, RunConfig, begun, find_run, settled, writing

REPOSITORY = Path(__file__).parents[2]
FOREIGN = {"notes.txt": b"mine", "last.safetensors.bak": b"mine too", "tensorboard/layout": b"and this"}
OWN = {"state.pt": b"old", "metrics.csv": b"epoch\n1\n", ".state.pt.x7.tmp": b"half", "tensorboard/events.1": b"old"}

REPLACE = """
import os, signal, sys
from pathlib import Path
from robustbench_gkl.runs import Run, begun, writing

steps = int(sys.argv[2])
run = Run(Path(sys.argv[1]))

def killed_before(name):
    take = getattr(Path, name)
    def step(*arguments, **options):
        global steps
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1
        return take(*arguments, **options)
    setattr(Path, name, step)

with writing(run), begun(run, run.config().model_copy(update={"arch": "new"}), overwrite=True) as draft:
    (draft.run.folder / "best.safetensors").write_bytes(b"new")
    for name in ("rename", "unlink", "rmdir"):
        killed_before(name)
    draft.keep()
    steps = -1
"""
"""Replaces a run and is killed after so many steps."""


def config(arch: str) -> RunConfig:
    return RunConfig(
        name="net",
        arch=arch,
        num_classes=2,
        input_shape=(1, 2, 2),
        dataset="digits",
        created="2026-01-01T00:00:00+00:00",
        environment={},
    )


def old_run(folder: Path) -> Run:
    """Write a run with all kinds of files, foreign ones among them."""
    run = Run(folder)
    run.create(config("old"))
    save_file({"x": np.zeros(3)}, run.weights_path("last"))
    (folder / "tensorboard").mkdir()
    for name, content in (FOREIGN | OWN).items():
        (folder / name).write_bytes(content)
    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_kill_between_any_two_steps_loses_nothing(tmp_path: Path) -> None:
    seen = set()
    for steps in range(30):
        folder = tmp_path / str(steps) / "net"
        before = content(old_run(folder).folder)
        command = [sys.executable, "-c", REPLACE, str(folder), str(steps)]
        code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
        assert code in (0, -signal.SIGKILL)

        found = find_run("net", checkpoints_dir=folder.parent)
        arch = found.config().arch
        seen.add(arch)
        expected = before if arch == "old" else {"config.json": b"", "best.safetensors": b"new"}
        now = content(folder)
        assert expected.keys() <= now.keys()
        assert all(now[name] == value for name, value in expected.items() if value)
        with writing(found):
            assert found.config().arch == arch
            there = set(before) if arch == "old" else {"config.json", "best.safetensors", *FOREIGN}
            assert set(content(folder)) == there
            assert all(content(folder)[name] == value for name, value in FOREIGN.items())

        subprocess.run([sys.executable, "-c", REPLACE, str(folder), "-1"], cwd=REPOSITORY, check=True)
        assert set(content(folder)) == {"config.json", "best.safetensors", *FOREIGN}
        assert [path.name for path in folder.parent.iterdir()] == ["net"]
        if code == 0:
            break
    assert code == 0
    assert seen == {"old", "new"}


def test_an_old_run_alone_is_put_back(tmp_path: Path) -> None:
    before = content(old_run(tmp_path / ".net.old").folder)
    assert settled(Run(tmp_path / "net")).exists()
    assert content(tmp_path / "net") == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_what_is_being_replaced_just_now_is_waited_for_only_a_moment(tmp_path: Path) -> None:
    old_run(tmp_path / ".net.old")
    with locked(tmp_path / ".net.lock"), pytest.raises(UserError, match="no run 'net'"):
        find_run("net", checkpoints_dir=tmp_path)
    assert find_run("net", checkpoints_dir=tmp_path).config().arch == "old"


def test_what_is_not_kept_is_discarded(tmp_path: Path) -> None:
    run = old_run(tmp_path / "net")
    before = content(run.folder)
    (tmp_path / ".net.new").mkdir()
    (tmp_path / ".net.new" / "average.safetensors").write_bytes(b"of an attempt that was killed")
    inside: list[str] = []

    def fail() -> None:
        with writing(run), begun(run, config("new"), overwrite=True) as draft:
            inside.extend(path.name for path in draft.run.folder.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert inside == ["config.json"]
    assert content(run.folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


@pytest.mark.parametrize("left", ["config.json", "best.safetensors"])
def test_what_is_left_of_a_run_is_replaced_only_if_asked_for(left: str, tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / ".config.json.x.tmp").touch()
    (tmp_path / left).write_bytes(b"old")
    with writing(run), pytest.raises(UserError, match=f"holds {left} of a run; give --overwrite"):
        begun(run, config("new")).__enter__()
    assert content(tmp_path)[left] == b"old"
    (tmp_path / left).unlink()
    with writing(run), begun(run, config("new")) as draft:
        draft.keep()
    assert run.config().arch == "new"


def test_a_run_appears_when_it_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path / "net")
    with writing(run), begun(run, config("new")):
        assert not run.folder.exists()
    assert list(tmp_path.iterdir()) == []
    with writing(run), begun(run, config("new")) as draft:
        draft.keep()
        assert draft.run == run
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_foreign_file_gives_way_to_no_other(tmp_path: Path) -> None:
    run = old_run(tmp_path / "net")
    with writing(run), begun(run, config("new"), overwrite=True) as draft:
        (draft.run.folder / "notes.txt").write_bytes(b"newer")
        draft.keep()
        draft.keep()
    assert content(run.folder)["notes.txt"] == b"newer"
    assert content(run.folder)["notes.txt.old"] == b"mine"


def test_a_run_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real = old_run(tmp_path / "disk" / "big")
    (tmp_path / "net").symlink_to(real.folder, target_is_directory=True)
    run = Run(tmp_path / "net")
    with writing(run), begun(run, config("new"), overwrite=True) as draft:
        with pytest.raises(UserError, match="run big is being written"), writing(real):
            pass
        draft.keep()
    assert (tmp_path / "net").is_symlink()
    assert (run.config().arch, real.config().arch) == ("new", "new")


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "net")
    says = rf"run net is being written by process {os.getpid()} on \S+ \(.*\) since .*; wait for it or stop it"
    with writing(run), begun(run, config("new"), overwrite=True) as draft:
        draft.keep()
        with pytest.raises(UserError, match=says), writing(run):
            pass
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["net"]
