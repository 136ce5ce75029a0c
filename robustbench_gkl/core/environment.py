"""What a record says about the machine and software that made it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from robustbench_gkl.core.version import __version__

_PACKAGES = ("torch", "torchvision", "pyautoattack", "torchattacks", "numpy")


def git_commit(folder: Path = Path(__file__).parent) -> str | None:
    """Return the commit of the checkout that holds ``folder``, with ``-dirty`` if it was changed; None if none."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None


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
