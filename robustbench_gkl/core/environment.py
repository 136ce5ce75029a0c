"""What a record says about the machine and software that made it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from robustbench_gkl.core.version import __version__

_PACKAGES = ("torch", "torchvision", "pyautoattack", "torchattacks", "numpy", "numba")


def git_commit(file: Path = Path(__file__)) -> str | None:
    """Return the commit of the checkout that tracks ``file``, with ``-dirty`` if it was changed.

    None if no checkout does: a package that was installed somewhere below one is not a part of it.
    """
    if _git("ls-files", "--error-unmatch", "--", file.name, folder=file.parent) is None:
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*", folder=file.parent) or None


def _git(*arguments: str, folder: Path) -> str | None:
    """Return what git prints, or None if it is not there or fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def environment(device: torch.device) -> dict[str, str]:
    """Return versions, device and git commit as text."""
    found = {"gklbench": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    found["device"] = f"{device.type} ({name}, {torch.get_num_threads()} threads of {os.cpu_count()})"
    if commit := git_commit():
        found["git_commit"] = commit
    return found
