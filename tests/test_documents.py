"""Every command and snippet in the README and in ``docs/`` works, on smaller settings where it would take long."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from command_line import TINY, CommandLine, Result, process, torchrun
from documents import PAGES, ROOT, Block, blocks

from robustbench_gkl.cli import group, run
from robustbench_gkl.config.idle import CLEAN_LOSSES
from robustbench_gkl.models import create_model

SMALLER = {
    "train": ["--epochs", "1", "--set", "train_size=128", "--set", "probe.steps=1"],
    "eval": ["--n", "2"],
    "certify": ["--n", "2"],
    "check": ["--n", "16"],
    "parity": ["--n", "2"],
    "suite": [
        *("--set", "train.epochs=1", "--set", "train.train_size=128", "--set", "train.seed=0"),
        *("--set", "train.attack.steps=1", "--set", "train.probe.steps=1"),
        *("--set", 'eval.attacks=["fgsm"]', "--set", "eval.n=4", "--set", "eval.eps=0.1"),
    ],
}
AS_THEY_ARE = ("--resume", "--export", "--dry-run")
FAR = "0.5"
"""A radius at which AutoAttack has little to do, since all but every image falls to its first steps."""
TWO = '__import__("torch").arange(2)'
"""The images that a snippet evaluates; what the page itself does not import stays absent."""
ANY_VERDICT = ("check", "compare")
"""Commands that exit with 1 for what they find: a net trained for one epoch may well fail its check-up."""
USES = {page: list(blocks(path)) for page, path in PAGES.items() if any(True for _ in blocks(path))}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: what ``make demo`` leaves, a run ``gkl``, and a checkpoint by other people."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(ROOT / "results" / "examples", "results/examples")
        shutil.copytree("results/examples/digits", "results", dirs_exist_ok=True)  # as make demo leaves it
        shutil.copytree(ROOT / "examples", "examples")
        assert run(["train", "digits-gkl", "--name", "gkl", "--quiet", *map(str, TINY)]) == 0
        assert run(["eval", "gkl", "--attack", "pgd:steps=20", "--n", "4", "--quiet"]) == 0
        net = create_model("tiny-cnn", num_classes=10, input_shape=(1, 8, 8))
        torch.save(net.state_dict(), "published.pt")
    return folder


@pytest.mark.parametrize("page", sorted(USES))
def test_a_page_works(
    page: str, gklbench: CommandLine, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")  # for the workers of suites
    namespace: dict[str, object] = {"__name__": "page"}
    commands = [command for block in USES[page] for command in block.commands]
    if any("--plugin" in command for command in commands):
        gklbench = _apart  # what a plugin registers must not outlive the page
    for block in USES[page]:
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python" and not block.file:
            _execute(block, page, namespace)
        for command in block.commands if block.language in ("bash", "yaml") else ():
            (_read if block.elsewhere else _run)(command, gklbench)


def _apart(*arguments: object) -> Result:
    """Call the command line in a process of its own."""
    with process(*arguments, cwd=Path()) as started:
        out, err = started.communicate(timeout=300)
    return Result(started.returncode, out, err)


def _run(command: list[str], gklbench: CommandLine) -> None:
    """Run a command, on smaller settings."""
    program, *arguments = command
    if program == "gklbench":
        result = gklbench(*_smaller(arguments))
        allowed = (0, 1) if arguments[0] in ANY_VERDICT else (0,)
    elif program == "torchrun":
        _, _, rest = " ".join(arguments).partition("robustbench_gkl ")
        with torchrun("-m", "--", "robustbench_gkl", *_smaller(rest.split()), cwd=Path()) as ranks:
            result = Result(0, *ranks.communicate(timeout=300))
        result, allowed = Result(ranks.returncode, result.out, result.err), (0,)
    elif program == "python":
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        result, allowed = Result(done.returncode, done.stdout, done.stderr), (0,)
    else:
        ELSEWHERE[program](arguments)
        return
    assert result.code in allowed, (command, result.out[-2000:], result.err[-2000:])


def _smaller(arguments: list[str]) -> list[str]:
    smaller = [] if set(AS_THEY_ARE) & set(arguments) else SMALLER.get(arguments[0], [])
    if smaller and arguments[0] == "train" and not CLEAN_LOSSES & set(arguments):
        smaller = [*smaller, "--set", "attack.steps=1"]
    if "autoattack" in arguments and arguments[0] == "eval":
        smaller = [*smaller, "--eps", FAR]
    # An empty floor: what is guarded is a net of one epoch here.
    return [re.sub(r"^\d+$", "0", word) if before == "--fail-under" else word
            for before, word in zip(["", *arguments], arguments, strict=False)] + smaller  # fmt: skip


def _read(command: list[str], gklbench: CommandLine) -> None:
    """Read a command that cannot be run here: its options are there and have values that they take."""
    if command[0] not in ("gklbench", "torchrun"):
        ELSEWHERE[command[0]](command[1:])
        return
    words = command[command.index("robustbench_gkl" if command[0] == "torchrun" else "gklbench") + 1 :]
    with click.Context(group) as context:
        found = group.get_command(context, words[0])
        assert found is not None, words
        found.make_context(words[0], words[1:], parent=context)


def _execute(block: Block, page: str, namespace: dict[str, object]) -> None:
    """Run a snippet of Python, on two images and at a radius at which both fall."""
    code = block.text.replace('.load("test")', f'.load("test").take({TWO})')
    code = re.sub(r'(\("[Ll]inf", )"[\d./]+"', rf'\1"{FAR}"', code)
    code = re.sub(r'"epochs": \d+', '"epochs": 1, "train_size": 128', code)
    if "evaluate(" in code:
        assert TWO in code or "test" in namespace, f"{page}: a snippet that evaluates on all images"
    exec(compile(code.replace("print(", "_ = ("), page, "exec"), namespace)


def _target(arguments: list[str]) -> None:
    """``make`` is what continuous integration runs."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target = arguments[0]
    called = (ROOT / ".ci" / "run").read_text(encoding="utf-8") + re.findall(r"^test:.*$", makefile, re.MULTILINE)[0]
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert re.search(rf"\b{target}\b", called), f"continuous integration does not run make {target}"


def _extras(arguments: list[str]) -> None:
    """``pip install`` names extras that there are."""
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extras in re.findall(r"\[(.*?)\]", " ".join(arguments)):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", metadata, re.MULTILINE), extra


def _nothing(arguments: list[str]) -> None:
    """Nothing can be checked."""


ELSEWHERE: dict[str, Callable[[list[str]], Any]] = {
    "make": _target,
    "pip": _extras,
    "git": _nothing,
    "cd": _nothing,
    ".": _nothing,
}
"""Programs that are not run here, and what is checked of their arguments; no page may name another."""


def test_the_pages_show_much() -> None:
    commands = [command for page in USES.values() for block in page for command in block.commands]
    assert len(commands) >= 60
    shown = {command[1] for command in commands if command[0] == "gklbench" and len(command) > 1}
    assert set(group.list_commands(click.Context(group))) <= shown


def test_a_broken_command_is_found(gklbench: CommandLine) -> None:
    with pytest.raises(AssertionError):
        _run(["gklbench", "eval", "absent", "--attack", "fgsm"], gklbench)
    with pytest.raises(click.NoSuchOption):
        _read(["gklbench", "eval", "hf:a/b", "--atack", "fgsm"], gklbench)
    with pytest.raises(KeyError):
        _run(["wget", "x"], gklbench)
