"""Suites whose runs learn from, or start from, runs of the same suite."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import CommandLine
from suite_files import suite_of, write

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.suite.cost import LossPasses, Work, makespan, teacher_calls

TINY = """\
model = "tiny-cnn"
dataset = "digits"
epochs = 1
train_size = 128
probe.steps = 0
"""
TAUGHT = f"""\
[[train]]
{TINY}loss = ["standard", "kd"]
teacher = "teacher"
name = "student-{{loss}}"
[[train]]
{TINY}loss = "standard"
name = "teacher"
seed = 1
optimizer.lr = LR
[[eval]]
attacks = ["none"]
n = 20
"""


def begun(out: str) -> list[str]:
    return [line.split()[-1] for line in out.splitlines() if "begin train" in line]


def test_a_student_comes_after_its_teacher_and_a_loss_without_one_has_none(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, TAUGHT.replace("LR", "0.1"))
    assert [cell.run for cell in suite.trainings] == ["student-standard", "teacher", "student-kd"]
    plain, teacher, student = suite.trainings
    assert (plain.needs, plain.config.teacher) == ((), None)
    assert (student.needs, student.config.teacher) == ((teacher.key,), "teacher")
    slower = suite_of(tmp_path, TAUGHT.replace("LR", "0.05"))
    assert [cell.key for cell in slower.trainings if cell.key in {one.key for one in suite.trainings}] == [plain.key]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'[train]\n{TINY}loss = "kd"\nteacher = "t"\n', "no run 't' in checkpoints"),
        (f'[train]\n{TINY}loss = "kd"\n', "the loss kd reads a teacher, and there is none"),
        (
            f'[train]\n{TINY}loss = "standard"\nteacher = "t"\n',
            "teacher = t has no effect: the loss standard reads none",
        ),
        (f'[train]\n{TINY}loss = "standard"\ninit = "a"\nname = "a"\n', "train: a needs a; let one of these runs"),
        (
            f'[[train]]\n{TINY}loss = "kd"\nteacher = "b"\nname = "a"\n'
            f'[[train]]\n{TINY}loss = "standard"\ninit = "a"\nname = "b"\n',
            "train: a needs b needs a; let one of these runs begin without the next",
        ),
    ],
    ids=["absent", "no teacher", "idle", "itself", "each other"],
)
def test_what_cannot_be_taught_is_said_before_anything_runs(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        suite_of(tmp_path, text)


@pytest.mark.slow
def test_a_changed_teacher_trains_its_student_again(gklbench: CommandLine, here: Path) -> None:
    text = TAUGHT.replace('loss = ["standard", "kd"]', 'loss = "kd"')
    suite = write(here, text.replace("LR", "0.1"))
    assert re.search(r"train student-kd +after teacher", gklbench("suite", suite, "--dry-run").out)
    first = gklbench("suite", suite)
    assert first.code == 0, first.out + first.err
    assert begun(first.out) == ["teacher", "student-kd"]

    shutil.rmtree(here / "checkpoints/teacher")
    again = gklbench("suite", suite)
    assert again.code == 0, again.out + again.err
    assert again.out.count("begin") == 1, "the teacher comes again as it was"

    write(here, text.replace("LR", "0.05"))
    changed = gklbench("suite", suite)
    assert changed.code == 0, changed.out + changed.err
    assert begun(changed.out) == ["teacher", "student-kd"]

    write(here, text.replace("LR", "0.05\nbatchnorm_momentum = 0.5"))  # it has no batch normalisation
    failed = gklbench("suite", suite)
    assert failed.code == 1
    assert begun(failed.out) == ["teacher"]
    assert "not trained: student-kd, for it needs teacher, which failed" in failed.out


def test_a_piece_of_work_waits_for_all_that_it_needs() -> None:
    works = [Work("teacher", 5), Work("init", 3), Work("student", 2, needs=("teacher", "init"))]
    assert makespan(works, 2) == 7
    assert makespan(works, 1) == 10


def test_a_plan_counts_the_teachers_passes_at_its_cost(gklbench: CommandLine, tmp_path: Path) -> None:
    text = TAUGHT.replace("LR", "0.1").replace('"kd"]', '"kd", "adaad"]').replace(TINY, f"{TINY}attack.steps = 3\n", 1)
    teacher = text.rpartition("[[train]]")
    text = f"{teacher[0]}[[train]]{teacher[2].replace('tiny-cnn', 'resnet8', 1)}"
    speeds = ("--calls-per-second", 100, "--calls-per-second", "resnet8=10")
    done = gklbench("plan", write(tmp_path, text), *speeds, "--json", tmp_path / "plan.json")
    assert done.code == 0, done.err
    cells = {cell["cell"]: cell for cell in json.loads((tmp_path / "plan.json").read_text())["cells"]}
    images, held_out = 122, 6
    for run, clean, inner in (("standard", 0, 0), ("kd", 1, 0), ("adaad", 2, 3)):
        cell = cells[f"train student-{run}"]
        passes = images * (clean + 2 * inner) + held_out * (run != "standard")
        assert cell["teacher_calls"] == passes
        assert cell["hours"] == pytest.approx((cell["model_calls"] / 100 + passes / 10) / 3600, abs=1e-4)


def test_the_teacher_of_a_suite_is_none_of_the_students_calls() -> None:
    from robustbench_gkl.config.schema import TrainConfig

    config = TrainConfig(epochs=4)
    assert teacher_calls(config, loss=LossPasses(teacher=1), images=100, held_out=10).total == 0
