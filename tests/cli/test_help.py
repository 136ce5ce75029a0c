"""What the command line says of itself: help in sections with examples, the way to a first row, and completion."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import get_completion_class
from command_line import CommandLine

from robustbench_gkl.cli import COMMANDS, COMPLETE, group, shells  # noqa: F401
from robustbench_gkl.cli.sections import SECTIONS, Command, Option


def command(name: str) -> Command:
    found = group.get_command(click.Context(group), name)
    assert isinstance(found, Command)
    return found


def test_without_a_command_the_way_to_a_first_row_is_shown(gklbench: CommandLine) -> None:
    result = gklbench()
    assert (result.code, result.err) == (0, "")
    lines = [shlex.split(line) for line in result.out.splitlines() if line.startswith("  gklbench ")]
    assert [words[1] for words in lines] == ["train", "eval", "leaderboard"]
    for words in lines:
        command(words[1]).make_context(words[1], words[2:])
    assert "Documentation: " in result.out


def test_commands_stand_in_groups(gklbench: CommandLine) -> None:
    text = gklbench("--help").out
    places = [text.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    for title in ("Train", "Evaluate", "Read", "Suites", "Set up"):
        assert f"\n{title}:\n" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_options_stand_in_sections_and_examples_can_be_typed(name: str, gklbench: CommandLine) -> None:
    found, text = command(name), gklbench(name, "--help").out
    options = [parameter for parameter in found.params if isinstance(parameter, Option)]
    titles = [title for title in SECTIONS if f"\n{title}:\n" in text]
    assert {option.section for option in options} | {SECTIONS[-1]} == set(titles)
    places = [text.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    assert all(max(option.opts, key=len) in text for option in options)
    assert found.examples
    for line in found.examples:
        assert line in text
        words = shlex.split(line.partition(">")[0].replace("$(", " ").replace(")", " ").replace('"', ""))
        words = words[words.index("robustbench_gkl" if words[0] == "torchrun" else "gklbench") + 1 :]
        if words[0] == "completion":
            words = words[:2]
        command(words[0]).make_context(words[0], words[1:])


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails from here on
from robustbench_gkl.cli import run
sys.exit(run())
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("gklbench co", ["corruptions", "compare", "completion"]),
        ("gklbench eval tiny --sea", ["--search-precision"]),
        ("gklbench eval ti", ["tiny"]),
        ("gklbench eval tiny --attack apgd-d", ["apgd-dlr"]),
        ("gklbench train digits-g", ["digits-gkl"]),
        ("gklbench train --loss tra", ["trades"]),
        ("gklbench suite dig", ["digits"]),
        ("gklbench evil ti", []),
    ],
)
def test_a_shell_completes_without_torch(line: str, offered: list[str], trained: Path) -> None:
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=trained.parent,
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parents[2]), "_GKLBENCH_COMPLETE": "bash_complete"}
        | {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [word.partition(",")[2] for word in done.stdout.split()]
    assert found == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_one(shell: str, gklbench: CommandLine, tmp_path: Path) -> None:
    result = gklbench("completion", shell)
    assert result.code == 0
    assert "_GKLBENCH_COMPLETE=" in result.out
    assert "Usage" not in result.out
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(result.out)
        subprocess.run([shell, "-n", "script"], cwd=tmp_path, check=True)
    assert ("compinit" in result.out) == (shell == "zsh")
    assert ("split -m 1" in result.out) == (shell == "fish")  # the help of a completion may have commas


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_a_zsh_that_has_loaded_no_completion_takes_the_script(gklbench: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(gklbench("completion", "zsh").out)
    told = [shutil.which("zsh") or "", "-f", "-c", "source ./script; print $_comps[gklbench]"]
    environment = os.environ | {"ZDOTDIR": str(tmp_path)}
    done = subprocess.run(told, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("_gklbench_completion\n", "")


@pytest.mark.parametrize(
    ("shell", "words", "at", "offered"),
    [
        ("bash", "gklbench\ntrain\n--loss\n=\ntra", "4", "plain,trades"),  # it replaces the last word alone
        ("bash", "gklbench\ntrain\n--set\nlr\n=\n3\n--loss\ntra", "7", "plain,trades"),
        ("bash", "gklbench\neval\n--attack\npgd\n:\nsteps\n=\n20\n--sea", "8", "plain,--search-precision"),
        ("zsh", "gklbench train --loss=tra", "2", "plain\n--loss=trades\n_"),
        ("fish", "gklbench train --loss=tra", "--loss=tra", "plain,--loss=trades"),
        ("fish", "gklbench comple", "comple", f"plain,completion\t{COMMANDS['completion']}"),
    ],
)
def test_a_value_after_an_equals_sign_is_completed(
    shell: str, words: str, at: str, offered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", at)
    completion = get_completion_class(shell)
    assert completion is not None
    assert completion(group, {}, "gklbench", COMPLETE).complete() == offered
