"""The ``robustbench`` package: whether it is whole, importing it, and its ``load_model`` reading no pickle."""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models.external.wrapping import in_one_line, package_at_work
from robustbench_gkl.models.published import read_plain

if TYPE_CHECKING:
    from torch import nn

_INSTALL = "pip install 'gklbench[robustbench]'"


def changed_files(installed: Distribution) -> list[str]:
    """Return the files of a distribution that are not what its RECORD has the hash of, or are gone."""
    changed = []
    for file in installed.files or []:
        if file.hash is None or file.suffix != ".py":
            continue
        path = Path(str(file.locate()))
        content = path.read_bytes() if path.is_file() else b""
        digest = base64.urlsafe_b64encode(hashlib.new(file.hash.mode, content).digest()).rstrip(b"=").decode()
        if digest != file.hash.value:
            changed.append(str(file))
    return changed


def check_package() -> None:
    """Check that the package is installed as it was published.

    Raises:
        UserError: it is missing, or files of it are those that torchattacks' wheel carries.
    """
    try:
        installed = distribution("robustbench")
    except PackageNotFoundError:
        stale = importlib.util.find_spec("robustbench") is not None
        why = "what is there is the old copy in torchattacks' wheel" if stale else "which is not installed"
        raise UserError(f"robustbench:NAME needs the package robustbench ({why}): {_INSTALL}") from None
    if changed := changed_files(installed):
        raise UserError(
            f"{len(changed)} files of robustbench {installed.version} are not its own ({', '.join(changed[:2])}, ...): "
            "torchattacks' wheel overwrites them; pip uninstall torchattacks, then pip install --force-reinstall "
            f"--no-deps robustbench=={installed.version}"
        )


@cache
def package() -> ModuleType:
    """Return the module ``robustbench.utils``.

    Raises:
        UserError: the package is missing, overwritten, or cannot be imported.
    """
    check_package()
    what = f"robustbench cannot be imported; {_INSTALL} brings what it needs"
    with in_one_line(what), _missing_modules(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it takes from timm and torch is deprecated there
        return importlib.import_module("robustbench.utils")


@contextmanager
def _missing_modules() -> Iterator[None]:
    """Provide the two modules that the package imports under names that PyPI or setuptools no longer have."""
    added = []
    for name, make in (("autoattack", _autoattack), ("pkg_resources", _pkg_resources)):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = make()
            added.append(name)
    try:
        yield
    finally:
        for name in [each for each in sys.modules if each.partition(".")[0] in added]:
            del sys.modules[name]


def _autoattack() -> ModuleType:
    return importlib.import_module("pyautoattack")


def _pkg_resources() -> ModuleType:
    """Return a module with the one function that the package uses."""

    def resource_filename(module: str, path: str) -> str:
        return str(Path(str(sys.modules[module].__file__)).parent / path)

    module = ModuleType("pkg_resources")
    module.resource_filename = resource_filename  # type: ignore[attr-defined]
    return module


@cache
def table() -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Return the package's models by (data set, threat) and name.

    Raises:
        UserError: see :func:`package`.
    """
    return {
        (dataset.value, threat.value): models
        for dataset, threats in package().all_models.items()
        for threat, models in threats.items()
    }


def load_from_zoo(model: str, *, dataset: str, threat: str, folder: Path, files: list[Path]) -> nn.Module:
    """Return what the package's ``load_model`` returns; it reads ``files`` by way of :func:`read_plain`.

    Raises:
        UserError: a checkpoint is not there and cannot be downloaded, cannot be read, or does not fit.
    """
    utils = package()
    absent = [str(path) for path in files if not path.is_file()]
    what = f"robustbench:{dataset}/{threat}/{model} cannot be loaded"
    if absent:
        what = f"no checkpoint at {', '.join(absent)}, and robustbench could not download it; fetch it and put it there"
    with in_one_line(what), _reading_plain_tensors(utils), package_at_work():
        net: nn.Module = utils.load_model(model, model_dir=folder, dataset=dataset, threat_model=threat)
    return net


class _Torch(ModuleType):
    """The module ``torch`` with another ``load``."""

    def __init__(self, torch: ModuleType) -> None:
        super().__init__("torch")
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def load(self, path: str | Path, **_options: Any) -> object:
        """Return the plain content of a checkpoint, on the CPU."""
        return read_plain(Path(path))


@contextmanager
def _reading_plain_tensors(utils: ModuleType) -> Iterator[None]:
    """Let the package's ``torch.load`` be ours in the block."""
    before = utils.torch
    utils.torch = _Torch(before)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        utils.torch = before  # type: ignore[attr-defined]
