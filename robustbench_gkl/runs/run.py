"""Runs on disk: configuration, weights and training state. Nothing is ever unpickled beyond plain tensors."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from robustbench_gkl.config import TrainConfig, one_line
from robustbench_gkl.errors import UserError
from robustbench_gkl.files import writable_folder, write_atomically
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.settings import WEIGHTS
from robustbench_gkl.settings import WeightsName as WeightsName


class RunConfig(BaseModel):
    """``config.json``: what is needed to build the model and to train it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: str
    arch: str
    num_classes: int
    input_shape: tuple[int, int, int]
    dataset: str
    train: TrainConfig | None = None
    """None for imported models."""
    source: dict[str, str] | None = None
    """Where an imported model came from."""
    created: str
    environment: dict[str, str]


def now() -> str:
    """Return the time in UTC, ISO 8601 to the microsecond."""
    return datetime.now(timezone.utc).isoformat()


@dataclass(frozen=True)
class Run:
    """The folder of a run."""

    folder: Path

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.folder.name

    def weights_path(self, which: WeightsName) -> Path:
        """Return where ``which`` weights are kept."""
        return self.folder / f"{which}.safetensors"

    def exists(self) -> bool:
        """Whether a run has been started here."""
        return (self.folder / "config.json").exists()

    def create(self, config: RunConfig) -> None:
        """Make the folder and write ``config.json``.

        Raises:
            UserError: the folder cannot be written to.
        """
        writable_folder(self.folder, what="the run's folder")
        write_atomically(self.folder / "config.json", config.model_dump_json(indent=1) + "\n")

    def delete(self) -> None:
        """Delete what a run consists of, and nothing else that may lie in its folder."""
        for pattern in ("config.json", "*.safetensors", "state.pt", "metrics.csv", "tensorboard/events.*"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def config(self) -> RunConfig:
        """Return the run's configuration.

        Raises:
            UserError: absent or broken.
        """
        path = self.folder / "config.json"
        try:
            return RunConfig.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except ValidationError as error:
            raise one_line(error, what=f"{path} is broken") from None

    def save_weights(self, which: WeightsName, model: Classifier) -> None:
        """Write the weights, with the normalisation constants in the file's header."""
        constants = model.normalize.constants()
        header = {} if constants is None else {"mean": json.dumps(constants[0]), "std": json.dumps(constants[1])}
        tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        write_atomically(self.weights_path(which), lambda path: save_file(tensors, path, metadata=header))

    def available(self) -> list[WeightsName]:
        """Return which weights there are, the preferred first."""
        return [which for which in WEIGHTS if self.weights_path(which).exists()]

    def choose(self, which: WeightsName | None) -> WeightsName:
        """Return ``which``, or the preferred weights if it is None.

        Raises:
            UserError: they do not exist.
        """
        found = self.available()
        if not found:
            raise UserError(f"run {self.name} has no weights yet in {self.folder}; train it with --resume")
        if which is not None and which not in found:
            raise UserError(f"run {self.name} has no {which} weights; it has {', '.join(found)}")
        return which or found[0]

    def load_model(self, which: WeightsName | None = None, *, device: torch.device | str = "cpu") -> Classifier:
        """Return the model in eval mode.

        Raises:
            UserError: no run, no such weights, or a broken file.
        """
        config = self.config()
        path = self.weights_path(self.choose(which))
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is broken ({error}); restore it or train the run again") from None
        model = create_model(
            config.arch,
            num_classes=config.num_classes,
            input_shape=config.input_shape,
            mean=json.loads(header.get("mean", "null")),
            std=json.loads(header.get("std", "null")),
        )
        try:
            model.load_state_dict(state)
        except RuntimeError:
            raise UserError(f"{path} does not hold the weights of {config.arch} that config.json names") from None
        return model.to(device).eval()

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the training state."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / "state.pt", buffer.getvalue())

    def state_bytes(self) -> bytes | None:
        """Return the file of the training state, or None if there is none yet."""
        path = self.folder / "state.pt"
        return path.read_bytes() if path.exists() else None

    def load_state(self, content: bytes | None = None) -> dict[str, Any] | None:
        """Return the training state on the CPU, or None if there is none yet.

        Args:
            content: the bytes of the file; None to read it.

        Raises:
            UserError: the file is broken.
        """
        content = self.state_bytes() if content is None else content
        if content is None:
            return None
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError):
            path = self.folder / "state.pt"
            raise UserError(f"{path} is broken, so the run cannot go on; start it again with --overwrite") from None
        return state


def find_run(name: str, *, checkpoints_dir: Path = Path("checkpoints")) -> Run:
    """Return the run called ``name``, or the one in the folder ``name``.

    Raises:
        UserError: there is none; the message lists the runs there are.
    """
    for folder in (checkpoints_dir / name, Path(name)):
        if Run(folder).exists():
            return Run(folder)
    known = sorted(path.parent.name for path in checkpoints_dir.glob("*/config.json"))
    listed = ", ".join(known[:10]) + (" ..." if len(known) > 10 else "")
    raise UserError(f"no run {name!r} in {checkpoints_dir} (runs there: {listed or 'none'}); train or import it first")


def load_model(
    run: str | Path,
    *,
    weights: WeightsName | None = None,
    checkpoints_dir: str | Path = "checkpoints",
    device: torch.device | str = "cpu",
) -> Classifier:
    """Load a trained or imported model.

    Args:
        run: the run's name or folder.
        weights: ``best``, ``last`` or ``average``; None for the average if there is one, else best, else last.
        checkpoints_dir: where runs are kept.
        device: where to put it.

    Returns:
        The model in eval mode: images (B, C, H, W) float32 in [0, 1] in, logits (B, K) out.

    Raises:
        UserError: no such run or weights, or a broken file.
    """
    return find_run(str(run), checkpoints_dir=Path(checkpoints_dir)).load_model(weights, device=device)


def weights_sha256(model: nn.Module) -> str:
    """Return the hash of all parameters and buffers, those outside the state dict (normalisation) included."""
    digest = hashlib.sha256()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
