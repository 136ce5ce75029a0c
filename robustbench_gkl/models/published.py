"""Read the checkpoints that papers publish, without unpickling anything."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models.base import Classifier

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
_WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_LFS_POINTER = b"version https://git-lfs.github.com/spec"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a published checkpoint by name, on the CPU, in the order of the file.

    A name that ends in ``.safetensors`` is read as such, any other as a file of ``torch.save``. The file holds
    a state dict, or a dict that has one under ``state_dict``, ``model_state_dict``, ``model`` or ``net``.

    Raises:
        UserError: no such file; a web page or a Git LFS pointer in its place; a damaged file; a pickle of more
            than plain tensors, which is never loaded; no state dict inside.
    """
    _refuse_impostor(path)
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    return _find_state_dict(content, path)


def _refuse_impostor(path: Path) -> None:
    """Refuse what is often found where a checkpoint should be, by its name."""
    if not path.exists():
        raise UserError(f"no checkpoint at {path}; check the path")
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected a checkpoint file (.pt, .pth or .safetensors)")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise UserError(f"{path} is empty: the download failed; fetch it again")
    if _WEB_PAGE.match(head):
        raise UserError(
            f"{path} is a web page, not a checkpoint: the download failed (a quota or a login page?); "
            "open the link in a browser and save the file itself"
        )
    if head.startswith(_LFS_POINTER):
        raise UserError(f"{path} is a Git LFS pointer, not the checkpoint itself; fetch it with git lfs pull")


def _damaged(path: Path, reason: object) -> UserError:
    text = " ".join(str(reason).split()).partition(". ")[0].strip() or type(reason).__name__
    return UserError(
        f"{path} is damaged, cut short or no checkpoint ({text}); compare its size or hash with the published "
        "one and fetch it again"
    )


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> object:
    """Read with torch's loader for plain tensors; nothing of the file is executed."""
    try:
        with warnings.catch_warnings():
            # torch warns of other pickle protocols and of TorchScript; what cannot be read raises anyhow.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the decoder
        if "TorchScript" in str(error):
            needs = "a TorchScript program"
        elif not isinstance(error, UnpicklingError):
            raise _damaged(path, error) from error
        elif not _is_whole_pickle(path):
            raise _damaged(path, "no complete pickle") from error
        else:
            blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
            needs = f"the Python object {blocked[1]}" if blocked else "Python objects"
        raise UserError(
            f"{path} holds {needs} and not just tensors, and gklbench never unpickles; where you trust the file, "
            "load it with its own code and save model.state_dict() again with torch.save"
        ) from error


def _is_whole_pickle(path: Path) -> bool:
    """Return whether the pickle is there to its end, without executing any of it."""
    if zipfile.is_zipfile(path):
        return True
    with path.open("rb") as file:
        try:
            first = [argument for _, argument, _ in pickletools.genops(file)]
            if _TORCH_MAGIC in first:  # torch's old format: the magic number, a version, the system, the object
                for _ in range(3):
                    deque(pickletools.genops(file), maxlen=0)
        except ValueError:
            return False
    return True


def _find_state_dict(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        named = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
        if content and len(named) == len(content):
            return {str(name): tensor.detach() for name, tensor in named.items()}
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                return _find_state_dict(content[wrapper], path)
        others = [str(name) for name in content if name not in named]
        came = f"a dict with {_few(others)}" if content else "an empty dict"
    else:
        came = f"a {type(content).__name__}"
    raise UserError(
        f"{path} holds no state dict: expected tensors by name, by themselves or under one of "
        f"{', '.join(_WRAPPERS)}; got {came}; save model.state_dict()"
    )


def load_published(model: Classifier, state: Mapping[str, Tensor]) -> None:
    """Load a published state dict into ``model``, in place; nothing changes where it does not fit.

    The prefixes that wrappers leave on every key (``module.``, ``_orig_mod.``) are stripped, and weights that
    the architecture's published code carries without using (``sub_block1`` of TRADES' wide ResNets) dropped.
    Counts of batches (``num_batches_tracked``), which old checkpoints lack, may be missing; nothing else may.

    Raises:
        UserError: missing or unexpected names, or other shapes; the message counts and samples them.
    """
    weights = _published_names(model, state)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = [name for name in expected if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in expected]
    misshapen = [
        f"{name} of {_times(tensor)} in place of {_times(expected[name])}"
        for name, tensor in weights.items()
        if name in expected and tensor.shape != expected[name]
    ]
    problems = [
        f"{len(names)} {what}: {_few(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise UserError(
            f"the checkpoint does not fit {type(model).__name__}, which has {len(expected)} tensors "
            f"({'; '.join(problems)}); check the architecture, the number of classes and the image shape"
        )
    model.load_state_dict(weights)


def _published_names(model: Classifier, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` under the names that ``model`` uses."""
    weights = dict(state)
    while prefix := next((each for each in _PREFIXES if _all_have(weights, each)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    if model.published_extras:
        weights = {name: w for name, w in weights.items() if not name.startswith(model.published_extras)}
    if not _all_have(weights, model.published_under):
        weights = {model.published_under + name: tensor for name, tensor in weights.items()}
    return weights


def _all_have(names: Mapping[str, Tensor], prefix: str) -> bool:
    return bool(names) and all(name.startswith(prefix) for name in names)


def _times(shape: Tensor | torch.Size) -> str:
    size = shape.shape if isinstance(shape, Tensor) else shape
    return "x".join(map(str, size)) or "scalar"


def _few(names: list[str], *, show: int = 3) -> str:
    return ", ".join(names[:show]) + (", ..." if len(names) > show else "")
