"""Weights files: a model's tensors, and in the header its normalisation constants and its hash.

Torch is imported only where a model is read or written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_gkl.models import Classifier

_HASH = "weights_sha256"
"""The header's key of the hash."""


def save_weights(path: Path, model: Classifier) -> None:
    """Write the state dict of ``model``; the header gets its normalisation constants and :func:`weights_sha256`.

    Raises:
        OSError: the file cannot be written; it names the file.
    """
    from safetensors.torch import save

    constants = model.normalize.constants()
    header = {} if constants is None else {"mean": json.dumps(constants[0]), "std": json.dumps(constants[1])}
    header[_HASH] = weights_sha256(model)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    write_atomically(path, save(tensors, metadata=header))


def load_saved(path: Path, *, arch: str, num_classes: int, input_shape: tuple[int, int, int]) -> Classifier:
    """Return the model of architecture ``arch`` whose weights and normalisation constants are in ``path``, on the CPU.

    Raises:
        UserError: the file is broken, was changed, or holds the weights of something else.
    """
    from robustbench_gkl.models import create_model

    state, header = _load_weights(path)
    model = create_model(
        arch,
        num_classes=num_classes,
        input_shape=input_shape,
        mean=json.loads(header.get("mean", "null")),
        std=json.loads(header.get("std", "null")),
    )
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise UserError(f"{path} does not hold the weights of {arch} that config.json names") from None
    _check_hash(path, header, model)
    return model


def _load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a weights file, on the CPU, and its header."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _broken(path, error) from None


def _check_hash(path: Path, header: dict[str, str], model: nn.Module) -> None:
    """Check that ``model`` is what was saved; files of earlier versions hold no hash."""
    saved = header.get(_HASH)
    if saved is not None and saved != weights_sha256(model):
        raise UserError(f"{path} does not hold the weights whose hash is in its header; restore it or save it anew")


def file_weights_sha256(path: Path) -> str:
    """Return the hash of the model in a weights file, that of :func:`weights_sha256`, without torch.

    It is read from the header; a file without it is hashed from its tensors.

    Raises:
        UserError: the file is broken.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
        return str(header[_HASH]) if _HASH in header else _tensors_sha256(path)
    except (SafetensorError, OSError) as error:
        raise _broken(path, error) from None


def tensors_match_header(path: Path) -> bool:
    """Return whether the hash in a weights file's header, if there is one, is that of its tensors, without torch.

    False too where only the model itself tells, as with buffers that are not in the file.

    Raises:
        UserError: the file is broken.
    """
    return _tensors_sha256(path) == file_weights_sha256(path)


def _tensors_sha256(path: Path) -> str:
    """Return the hash of the tensors in a weights file and of the normalisation in its header.

    Raises:
        UserError: the file is broken.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for name in ("mean", "std"):
            if (values := json.loads(header.get(name, "null"))) is not None:
                tensors[f"normalize.{name}"] = np.array(values, dtype=np.float32).reshape(1, -1, 1, 1)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _broken(path, error) from None
    named = ((name, tensors[name]) for name in sorted(tensors))
    return _digest((name, f"torch.{array.dtype}", array.shape, array.tobytes()) for name, array in named)


def weights_sha256(model: nn.Module) -> str:
    """Return the hash of all parameters and buffers, those outside the state dict (normalisation) included."""
    import torch

    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    named = ((name, tensors[name].detach().cpu().contiguous()) for name in sorted(tensors))
    return _digest(
        (name, str(tensor.dtype), tuple(tensor.shape), tensor.flatten().view(torch.uint8).numpy().tobytes())
        for name, tensor in named
    )


def _digest(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> str:
    """Return the hash of tensors given in the order of their names as name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name, dtype, shape, content in tensors:
        digest.update(f"{name} {dtype} {shape};".encode())
        digest.update(content)
    return digest.hexdigest()


def _broken(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is broken ({error}); restore it or train the run again")
