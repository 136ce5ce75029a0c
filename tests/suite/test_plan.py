"""What a suite costs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from command_line import CommandLine
from suite_files import EVAL, QUICK, write

from robustbench_gkl.config.recipes import published_figures


def test_the_plan_of_the_published_basics(gklbench: CommandLine, tmp_path: Path) -> None:
    outputs = ["--json", tmp_path / "plan.json", "--csv", tmp_path / "plan.csv", "--results-dir", tmp_path]
    result = gklbench("plan", "published-basics", "--gpus", 8, "--calls-per-second", "wrn-34-10=5000", *outputs)
    assert result.code == 0, result.err
    assert "wrn-34-10: 5,000 model calls/s, assumed" in result.out
    plan = json.loads((tmp_path / "plan.json").read_text())
    cells = {cell["cell"].split(" autoattack")[0]: cell for cell in plan["cells"]}
    training = cells["train gkl-cifar10-wrn34-10-seed0"]
    images = 200 * 382 * 128
    assert training["images"] == images
    # Each image: five steps, a clean pass, two images updated on, and from epoch 10 on the perturbation as well.
    probes = 200 * 1000
    assert training["forwards"] == images * 8 + 191 * 382 * 128 * 2 + 12 * probes
    assert training["backwards"] == images * 5 + 10 * probes
    assert training["updates"] == images * 2 + 191 * 382 * 128 * 2
    figures = published_figures("gkl-cifar10-wrn34-10")
    assert figures is not None
    assert figures.clean is not None
    assert figures.autoattack is not None
    evaluation = cells["eval gkl-cifar10-wrn34-10-seed0"]
    standing = 200 + 1800 + 2700 + 5001  # APGD, targeted APGD, targeted FAB and Square
    each = standing * figures.autoattack / 100 + 200 * (figures.clean - figures.autoattack) / 100
    assert evaluation["model_calls"] == pytest.approx(10_000 * each)
    assert evaluation["hours"] == pytest.approx(10_000 * each / 5000 / 3600, rel=1e-3)
    longest = max(training["hours"] + evaluation["hours"], plan["hours"])
    assert plan["hours"] == pytest.approx(longest, rel=1e-3)
    assert plan["device_hours"] == pytest.approx(sum(cell["hours"] for cell in plan["cells"]), rel=1e-3)
    with (tmp_path / "plan.csv").open(newline="") as file:
        assert [row["cell"] for row in csv.DictReader(file)] == [cell["cell"] for cell in plan["cells"]]


def test_the_share_of_standing_samples(gklbench: CommandLine, tmp_path: Path) -> None:
    suite = write(tmp_path, f"[train]\n{QUICK}{EVAL}")

    def calls(*options: object) -> tuple[int, str]:
        common = ["--calls-per-second", 1000, "--results-dir", tmp_path, "--json", tmp_path / "plan.json"]
        assert gklbench("plan", suite, *common, *options).code == 0
        cell = json.loads((tmp_path / "plan.json").read_text())["cells"][1]
        return cell["model_calls"], cell["basis"]

    assert calls() == (8 * (3 + 2), "worst case: all stand")
    assert calls("--robust-acc", 0)[0] == 8 * (3 + 2)  # those that fall are counted with the first attack
    assert calls("--set", 'eval.attacks=["pgd:steps=2", "square:queries=9"]', "--robust-acc", 50) == (
        8 * (3 + 2) + 4 * 10,
        "50 % standing, given",
    )


def test_the_speed_is_timed_where_none_is_given(gklbench: CommandLine, tmp_path: Path) -> None:
    suite = write(tmp_path, f"[train]\n{QUICK}")
    result = gklbench("plan", suite, "--device", "cpu")
    assert result.code == 0, result.err
    assert "timed on cpu in batches of 64" in result.out


@pytest.mark.parametrize("speed", ["0", "fast", "tiny-cnn=-1", "nan"])
def test_a_speed_must_be_a_number(speed: str, gklbench: CommandLine, tmp_path: Path) -> None:
    result = gklbench("plan", write(tmp_path, f"[train]\n{QUICK}"), "--calls-per-second", speed)
    assert result.code == 2
    assert "--calls-per-second needs a number above 0" in result.err


def test_a_teacher_that_cannot_be_timed_is_given_a_speed(gklbench: CommandLine, tmp_path: Path) -> None:
    suite, teacher = (
        write(tmp_path, '[train]\nrecipe = "adaad-cifar10-resnet18"\n'),
        "robustbench:Zhang2019Theoretically",
    )
    speeds = ["--calls-per-second", "resnet18=1000"]
    result = gklbench("plan", suite, *speeds)
    assert result.code == 2
    assert f"the speed of {teacher} cannot be timed here; give --calls-per-second {teacher}=N" in result.err
    result = gklbench("plan", suite, *speeds, "--calls-per-second", f"{teacher}=500", "--json", tmp_path / "plan.json")
    assert result.code == 0, result.err
    (cell,) = json.loads((tmp_path / "plan.json").read_text())["cells"]
    images = 300 * (50_000 // 128) * 128
    attack, updates, taught = 10 * (1 + 1), 2 * 3, 2 + 10 * (1 + 1)
    assert (cell["model_calls"], cell["teacher_calls"]) == (images * (attack + updates), images * taught)
    assert cell["hours"] == pytest.approx(images * ((attack + updates) / 1000 + taught / 500) / 3600, rel=1e-3)


def test_what_cannot_be_counted_is_said(gklbench: CommandLine, tmp_path: Path) -> None:
    suite = write(tmp_path, f"[train]\n{QUICK}{EVAL}".replace("pgd:steps=2", "torchattacks.MIFGSM"))
    result = gklbench("plan", suite, "--calls-per-second", 1, "--results-dir", tmp_path)
    assert result.code == 2
    assert "evaluate a few images first" in result.err
