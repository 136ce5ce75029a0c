"""Runs and records as a suite sees them: read from their files in milliseconds, without torch."""

from __future__ import annotations

import csv
import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from robustbench_gkl.config import TrainConfig
from robustbench_gkl.errors import UserError
from robustbench_gkl.settings import WEIGHTS, WeightsName

_TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, which need not exist."""

    path: Path

    @cached_property
    def config(self) -> TrainConfig | None:
        """The settings that the run was started with; None for no run, and for one that was imported."""
        try:
            trained = json.loads((self.path / "config.json").read_bytes())["train"]
            return None if trained is None else TrainConfig.model_validate(trained)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            raise UserError(f"{self.path / 'config.json'} is broken; delete the run or restore it") from None

    @property
    def arch(self) -> str | None:
        """The run's architecture; None if ``config.json`` is not there or does not say."""
        try:
            arch = json.loads((self.path / "config.json").read_bytes()).get("arch")
        except (OSError, ValueError, AttributeError):
            return None
        return None if arch is None else str(arch)

    @property
    def exists(self) -> bool:
        """Whether a run was started or imported here."""
        return (self.path / "config.json").exists()

    @cached_property
    def last_row(self) -> dict[str, float]:
        """The newest row of ``metrics.csv``; empty before the end of the first epoch."""
        try:
            with (self.path / "metrics.csv").open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            return {key: float(value) for key, value in rows[-1].items() if value} if rows else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise UserError(f"{self.path / 'metrics.csv'} is broken; train the run again with --overwrite") from None

    @property
    def epochs_done(self) -> int:
        """How many epochs have ended."""
        return int(self.last_row.get("epoch", 0))

    def weights_path(self, which: WeightsName | None) -> Path | None:
        """Return the file of ``which`` weights, or of the preferred ones; None if there is none."""
        files = [self.path / f"{name}.safetensors" for name in ((which,) if which else WEIGHTS)]
        return next((file for file in files if file.exists()), None)


def weights_sha256(path: Path) -> str:
    """Return the hash of the model in a run's weights file: that of :func:`robustbench_gkl.training.weights_sha256`.

    Raises:
        UserError: the file is broken.
    """
    try:
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header: dict[str, Any] = json.loads(content[8 : 8 + length])
        constants = header.pop("__metadata__", None) or {}
        tensors = {name: _tensor(entry, content[8 + length :]) for name, entry in header.items()}
        for name in ("mean", "std"):
            if (values := json.loads(constants.get(name, "null"))) is not None:
                tensors[f"normalize.{name}"] = _constant(values)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        raise UserError(f"{path} is broken; restore it or train the run again") from None
    digest = hashlib.sha256()
    for name in sorted(tensors):
        described, values = tensors[name]
        digest.update(f"{name} {described};".encode())
        digest.update(values)
    return digest.hexdigest()


def _tensor(entry: dict[str, Any], data: bytes) -> tuple[str, bytes]:
    start, end = entry["data_offsets"]
    return f"torch.{_TORCH_NAMES[entry['dtype']]} {tuple(entry['shape'])}", data[start:end]


def _constant(values: list[float]) -> tuple[str, bytes]:
    return f"torch.float32 {(1, len(values), 1, 1)}", np.array(values, dtype="<f4").tobytes()
