"""``gklbench doctor``."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from robustbench_gkl.cli import options, sections

if TYPE_CHECKING:
    from robustbench_gkl.core.requirements import Requirement

_LEAST_FREE = 1 << 30
"""Bytes below which a disk is nearly full."""
_CLASHING = ("torchattacks", "robustbench")
"""Packages that cannot be in one environment: the first overwrites files of the second."""
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True)
class _Finding:
    """What was looked at, how it is, and what to do unless it is ``ok``."""

    verdict: Literal["ok", "warn", "fail"]
    what: str
    figure: str
    advice: str = ""


@sections.command(examples=["gklbench doctor", "gklbench doctor --device cpu --json doctor.json"])
@sections.output("--json", "json_path", type=options.PATH, help="Write the findings as JSON.")
@options.device
@options.data_dir
@options.checkpoints_dir
@options.results_dir
@options.quiet
def command(
    json_path: Path | None, device: str, data_dir: Path, checkpoints_dir: Path, results_dir: Path, quiet: bool
) -> None:
    """Check this installation: packages, devices, folders, and the speed of a training step and of an attack.

    Each line is ok, warn or fail, with what to do. Nothing is changed. Exit code 1 if one of them is fail.
    """
    from robustbench_gkl.core.files import write_wanted
    from robustbench_gkl.core.machine import check_device_name
    from robustbench_gkl.report.terminal import make_console

    check_device_name(device)
    console, found = make_console(quiet=quiet), []
    folders = {"checkpoints": checkpoints_dir, "results": results_dir, "data": data_dir}
    for finding in _findings(folders, device):
        found.append(finding)
        console.print(f"[{_STYLES[finding.verdict]}]{finding.verdict:4}[/] ", end="")
        console.print(f"{finding.what}: {finding.figure}", markup=False)
        if finding.advice:
            console.print(f"     {finding.advice}", markup=False)
    if json_path is not None:
        write_wanted(json_path, json.dumps([asdict(finding) for finding in found], indent=1) + "\n")
        console.print(f"wrote {json_path}", markup=False)
    if failed := [finding.what for finding in found if finding.verdict == "fail"]:
        click.echo(f"Error: {', '.join(failed)} must be put right", err=True)
        click.get_current_context().exit(1)


def _findings(folders: dict[str, Path], device: str) -> Iterator[_Finding]:
    """Yield all findings, those that need torch last."""
    from robustbench_gkl.core.errors import one_line
    from robustbench_gkl.core.hashing import cache_folder

    yield from _packages()
    yield from _conflicts()
    for what, path in folders.items():
        yield _folder(f"folder for {what}", path, needed=what != "data")
    yield _folder("folder for the cache", cache_folder(), needed=False)
    try:
        import torch
        import torchvision  # noqa: F401
    except Exception as error:  # a broken installation raises anything
        advice = "Install torch and torchvision anew, both of one release, and what the message names."
        yield _Finding("fail", "import of torch and torchvision", one_line(error), advice)
        return
    yield _processor(torch.get_num_threads())
    yield from _cuda()
    yield from _speed(device)


def _packages() -> Iterator[_Finding]:
    """Yield the versions of this package, of Python, and of what the package requires."""
    from robustbench_gkl.core.requirements import installed, requirements
    from robustbench_gkl.core.version import __version__

    known = installed("gklbench")
    stale = known != __version__
    yield _Finding(
        "warn" if stale else "ok",
        "gklbench",
        f"{__version__} in {Path(__file__).parents[1]}" + (f", installed as {known}" if stale else ""),
        "Install it anew, so that what it requires is known: pip install ." if stale else "",
    )
    yield _Finding("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    required = requirements("gklbench")
    base = [requirement for requirement in required if not requirement.extra]
    unmet = {str(requirement): problem for requirement in base if (problem := requirement.problem())}
    versions = ", ".join(f"{requirement.name} {installed(requirement.name)}" for requirement in base)
    wrong = ", ".join(f"{wanted} is required: {problem}" for wanted, problem in unmet.items())
    advice = f"pip install {' '.join(repr(wanted) for wanted in unmet)}" if unmet else ""
    yield _Finding("fail" if unmet else "ok", "packages", wrong or versions, advice)
    extras = {requirement.extra for requirement in required} - {"", "dev", "docs"}
    for extra in sorted(extras):
        yield _extra(extra, [requirement for requirement in required if requirement.extra == extra])


def _extra(extra: str, wanted: Sequence[Requirement]) -> _Finding:
    """Return what there is of the packages of an extra; one that is not there is nobody's fault."""
    from robustbench_gkl.core.requirements import installed

    there = {requirement: version for requirement in wanted if (version := installed(requirement.name))}
    if not there:
        return _Finding("ok", f"extra {extra}", f"not installed (pip install 'gklbench[{extra}]')")
    unmet = [f"{requirement} ({problem})" for requirement in wanted if (problem := requirement.problem())]
    figure = ", ".join(f"{requirement.name} {version}" for requirement, version in there.items())
    if unmet:
        advice = f"pip install 'gklbench[{extra}]'"
        return _Finding("warn", f"extra {extra}", f"{figure}; wanted: {', '.join(unmet)}", advice)
    return _Finding("ok", f"extra {extra}", figure)


def _conflicts() -> Iterator[_Finding]:
    """Yield what any installed package requires and does not get, extras aside."""
    from robustbench_gkl.core.requirements import installed, requirements

    names = sorted({found.name for found in distributions() if found.name} - {"gklbench"})
    unmet = [
        f"{name} requires {requirement}: {problem}"
        for name in names
        for requirement in requirements(name)
        if not requirement.extra and (problem := requirement.problem())
    ]
    if all(map(installed, _CLASHING)):
        unmet.append(f"{' and '.join(_CLASHING)}: the first has overwritten files of the second")
    if unmet:
        advice = "Put packages that clash into environments of their own; pip install what is missing."
        yield _Finding("warn", "conflicts", "; ".join(unmet), advice)
    else:
        yield _Finding("ok", "conflicts", f"none among {len(names)} packages")


def _folder(what: str, path: Path, *, needed: bool) -> _Finding:
    """Return whether files can be written to a folder, or to where it will be made, and how much space is left."""
    try:
        wanted = there = path.expanduser().absolute()
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:  # also of a folder above that cannot be looked into, or of a working folder that is gone
        advice = "Make it a folder that you can write to, or give another one."
        return _Finding("fail" if needed else "warn", what, f"{path}: {error.strerror}", advice)
    will_be = "" if there == wanted else ", not there yet"
    figure = f"{path}{will_be}, {free / 2**30:,.1f} GiB free"
    if free < _LEAST_FREE:
        return _Finding("warn", what, figure, "Make room on this disk: a run that cannot be written stops.")
    return _Finding("ok", what, figure)


def _processor(threads: int) -> _Finding:
    from robustbench_gkl.core.machine import processor, usable_cores

    cores = usable_cores()
    figure = f"{processor()}, {threads} threads of torch on {cores} cores"
    if threads > cores:
        return _Finding("warn", "cpu", figure, f"Threads wait for each other: set OMP_NUM_THREADS={cores} or less.")
    if os.environ.get("OMP_NUM_THREADS") is None and threads > 1:
        figure += " (for the smallest networks OMP_NUM_THREADS=1 is faster)"
    return _Finding("ok", "cpu", figure)


def _cuda() -> Iterator[_Finding]:
    """Yield the CUDA devices with their memory."""
    import torch

    from robustbench_gkl.core.errors import one_line

    count = torch.cuda.device_count()
    if not count and shutil.which("nvidia-smi") is not None:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs alone"
        advice = "Install a build of torch for CUDA, and a driver that is new enough for it."
        yield _Finding("warn", "cuda", f"the machine has nvidia-smi, and torch, {build}, sees no device", advice)
    elif not count:
        yield _Finding("ok", "cuda", "no devices")
    for index in range(count):
        try:
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
        except RuntimeError as error:
            yield _Finding("fail", f"cuda:{index}", one_line(error), "See nvidia-smi, or give --device cpu.")
            continue
        figure = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        busy = free < total / 2
        advice = "Another process holds most of its memory: see nvidia-smi." if busy else ""
        yield _Finding("warn" if busy else "ok", f"cuda:{index}", figure, advice)


def _speed(device: str) -> Iterator[_Finding]:
    """Yield how long a step of training and a pass of an attack take on a small network."""
    from robustbench_gkl.config.schema import TrainConfig
    from robustbench_gkl.core.device import resolve_device
    from robustbench_gkl.core.errors import UserError, one_line
    from robustbench_gkl.training.timing import time_passes

    config, what = TrainConfig(model="tiny-cnn", dataset="digits"), f"speed on {device}"
    try:
        on = resolve_device(device)
        what = f"speed on {on}"
        took = time_passes(config, on)
    except (RuntimeError, UserError) as error:
        told = str(error) if isinstance(error, UserError) else one_line(error)
        yield _Finding("fail", what, told, "Try --device cpu; if that works, see the driver.")
        return
    step, attack = (f"{1000 * seconds * took.batch_size:.1f} ms" for seconds in (took.update, took.attack))
    figure = f"a training step forwards and backwards {step}, a step of an attack {attack}"
    yield _Finding("ok", what, f"{figure} (tiny-cnn, {took.batch_size} digits)")
