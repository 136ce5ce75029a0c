"""What a MODEL argument is. Imports no torch."""

from __future__ import annotations

import importlib.util
import re
from difflib import get_close_matches
from pathlib import Path

from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.models.external.hub import HubSource
from robustbench_gkl.models.external.robustbench_zoo import RobustBenchSource
from robustbench_gkl.models.external.source import ExternalSource
from robustbench_gkl.models.external.timm_zoo import TimmSource
from robustbench_gkl.models.external.torchvision_zoo import TorchvisionSource
from robustbench_gkl.models.external.user_code import FileSource, ModuleSource, working_directory_on_path

FORMS = {
    "torchvision": "torchvision:NAME[@WEIGHTS|FILE]",
    "timm": "timm:NAME[@FILE]",
    "robustbench": "robustbench:[DATASET/THREAT/]NAME",
    "hf": "hf:OWNER/REPO[@REVISION]",
    "file": "FILE.py:CALLABLE",
    "module": "package.module:CALLABLE",
}
"""How each kind of model from outside is written."""

_SCHEMES = ("torchvision", "timm", "robustbench", "hf")
_DOTTED = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
_FILE = re.compile(rf"(?P<file>.+\.py):(?P<attribute>{_DOTTED})")
_MODULE = re.compile(rf"(?P<module>{_DOTTED}):(?P<attribute>{_DOTTED})")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_NAME = re.compile(r"[\w.-]+")
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def parse_model(argument: str, *, zoo_dir: Path = Path("models")) -> ExternalSource | None:
    """Return the model from outside that a MODEL argument names, or None for a run's name or folder.

    A folder that exists is a run's whatever its name, and so is whatever holds no colon but that of a Windows drive.

    Args:
        argument: see :data:`FORMS`; relative files are looked for in the working directory.
        zoo_dir: where RobustBench keeps its checkpoints, as ``DATASET/THREAT/NAME.pt``.

    Raises:
        UserError: an unknown kind, a form that its kind does not have, a file or module that is not there.
    """
    if Path(argument).is_dir():
        return None
    if match := _FILE.fullmatch(argument):
        return FileSource(argument, match["attribute"], _existing(Path(match["file"]), argument))
    scheme, colon, rest = argument.partition(":")
    if not colon or _DRIVE.match(argument):
        if argument.endswith(".py") and Path(argument).is_file():
            raise UserError(f"{argument} is a file of code; say what of it is the model: {argument}:CALLABLE")
        return None
    if scheme in ("torchvision", "timm"):
        return _from_package(scheme, rest, argument)
    if scheme == "robustbench":
        return RobustBenchSource(argument, *_zoo_parts(rest, argument), zoo_dir=zoo_dir)
    if scheme == "hf":
        repository, _, revision = rest.partition("@")
        if not _HUB.fullmatch(repository) or rest.endswith("@"):
            raise _malformed("hf", argument)
        return HubSource(argument, repository, revision or None)
    if match := _MODULE.fullmatch(argument):
        return _module(match["module"], match["attribute"], argument)
    return _no_source(scheme, argument)


def _existing(file: Path, argument: str) -> Path:
    if not file.is_file():
        raise UserError(f"{argument}: no file {file} in {Path.cwd()}; check the path")
    return file.absolute()


def _from_package(scheme: str, rest: str, argument: str) -> ExternalSource:
    """Return the model of torchvision or timm; what follows the ``@`` is a file or the name of weights."""
    name, at, weights = rest.partition("@")
    if not _NAME.fullmatch(name) or (at and not weights):
        raise _malformed(scheme, argument)
    file = None
    if weights and (scheme == "timm" or Path(weights).suffix or "/" in weights or Path(weights).is_file()):
        file = Path(weights).absolute()
        if not file.is_file():
            raise UserError(f"{argument}: no checkpoint at {weights} in {Path.cwd()}; check the path")
    if scheme == "timm":
        return TimmSource(argument, name, file)
    return TorchvisionSource(argument, name, None if file else weights or None, file)


def _zoo_parts(rest: str, argument: str) -> tuple[str, str | None, str | None]:
    """Return name, data set and threat of ``[DATASET/[THREAT/]]NAME``."""
    *place, name = rest.split("/")
    if len(place) > 2 or not all(_NAME.fullmatch(part) for part in (*place, name)):
        raise _malformed("robustbench", argument)
    return name, place[0] if place else None, place[1] if len(place) > 1 else None


def _module(module: str, attribute: str, argument: str) -> ExternalSource:
    """Return the model in a module, whose package must be there: it is looked for, and not imported."""
    top = module.partition(".")[0]
    with working_directory_on_path():
        try:
            found = importlib.util.find_spec(top) is not None
        except (ImportError, ValueError):
            found = False
    if not found:
        if get_close_matches(top, _SCHEMES, n=1):
            raise unknown("kind of model", top, _SCHEMES)
        raise UserError(
            f"{argument}: no module {top!r}; install it, or name a file as ./{module.replace('.', '/')}.py:{attribute}"
        )
    return ModuleSource(argument, attribute, module)


def _no_source(scheme: str, argument: str) -> ExternalSource | None:
    """Return None where the argument can be a path, and refuse what looks like a kind that there is not."""
    if near := get_close_matches(scheme, _SCHEMES, n=1):
        raise UserError(f"unknown kind of model {scheme!r}; did you mean {FORMS[near[0]]}?")
    if scheme.endswith(".py"):
        raise _malformed("file", argument)
    return None


def _malformed(kind: str, argument: str) -> UserError:
    return UserError(f"a model of this kind is written {FORMS[kind]}, got {argument!r}")
