"""The folder of a run: configuration, metrics, weights and training state. Nothing is ever unpickled."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from robustbench_gkl.config.names import WEIGHTS, WeightsName
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import writable_folder, write_atomically
from robustbench_gkl.core.plugins import load_again
from robustbench_gkl.core.validation import user_error
from robustbench_gkl.models.weights import file_weights_sha256, load_saved, save_weights
from robustbench_gkl.runs.config import RunConfig
from robustbench_gkl.runs.metrics import csv_text

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from robustbench_gkl.models import Classifier

STATE_VERSION = 2
"""The schema of ``state.pt``."""
_TRIES = 3
"""How often a run is read anew that was replaced while it was read."""


@dataclass(frozen=True)
class Run:
    """The folder of a run, which need not exist."""

    folder: Path

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        named = self.folder.name not in ("", "..")
        return (self.folder if named else self.folder.resolve()).name

    def exists(self) -> bool:
        """Whether a run was started or imported here."""
        return (self.folder / "config.json").exists()

    def create(self, config: RunConfig) -> None:
        """Make the folder and write ``config.json``.

        Raises:
            UserError: the folder cannot be written to.
        """
        writable_folder(self.folder, what="the run's folder")
        write_atomically(self.folder / "config.json", config.model_dump_json(indent=1) + "\n")

    def files(self) -> list[Path]:
        """Return the files that a run consists of, none of the others that may lie in its folder."""
        names = ["config.json", "metrics.csv", "state.pt", *(f"{which}.safetensors" for which in WEIGHTS)]
        patterns = [*names, "tensorboard/events.*"]
        patterns += [f".{name}.*.tmp" for name in names]  # from writes that were killed
        return [path for pattern in patterns for path in sorted(self.folder.glob(pattern))]

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
            raise user_error(error, what=f"{path} is broken") from None

    def load_plugins(self, *, exact: bool = False) -> None:
        """Import the plugins that the run was made with, such as that of its architecture or loss.

        Args:
            exact: refuse another version of one even where the user gave it.

        Raises:
            UserError: one is gone or has changed; ``config.json`` is absent or broken.
        """
        load_again(self.config().plugins, what=f"run {self.name}", exact=exact)

    def trained_with(self) -> TrainConfig | None:
        """Return the settings that the run was started with; None for no run, and for one that was imported.

        Raises:
            UserError: ``config.json`` is broken.
        """
        return self.config().train if self.exists() else None

    def last_row(self) -> dict[str, float]:
        """Return the newest row of ``metrics.csv``, without columns that it lacks; empty before the first epoch's end.

        Raises:
            UserError: the file is broken.
        """
        path = self.folder / "metrics.csv"
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            return {key: float(value) for key, value in rows[-1].items() if value} if rows else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise UserError(f"{path} is broken; train the run again with --overwrite") from None

    def metrics(self) -> pd.DataFrame:
        """Return ``metrics.csv``, a row an epoch.

        Raises:
            UserError: it is not there yet, or is broken.
        """
        import pandas as pd

        path = self.folder / "metrics.csv"
        try:
            return pd.read_csv(path)
        except OSError:
            raise UserError(f"there is no {path} yet; an epoch of its training must end first") from None
        except ValueError:
            raise UserError(f"{path} is broken; train the run again with --overwrite") from None

    def epochs_done(self) -> int:
        """Return how many epochs have ended.

        Raises:
            UserError: ``metrics.csv`` is broken.
        """
        return int(self.last_row().get("epoch", 0))

    def weights_path(self, which: WeightsName) -> Path:
        """Return where ``which`` weights are kept."""
        return self.folder / f"{which}.safetensors"

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

    def weights_sha256(self, which: WeightsName | None = None) -> str:
        """Return the hash of a saved model, that of ``weights_sha256`` of a model, without torch.

        Raises:
            UserError: no such weights, or a broken file.
        """
        return file_weights_sha256(self.weights_path(self.choose(which)))

    def save_weights(self, which: WeightsName, model: Classifier) -> None:
        """Write the weights, with the normalisation constants and the hash in the file's header."""
        save_weights(self.weights_path(which), model)

    def load_model(self, which: WeightsName | None = None, *, device: torch.device | str = "cpu") -> Classifier:
        """Return the model in eval mode.

        Raises:
            UserError: no run, no such weights, or a broken file.
        """
        return self.load_whole(which, device=device)[1]

    def load_whole(
        self, which: WeightsName | None = None, *, device: torch.device | str = "cpu"
    ) -> tuple[RunConfig, Classifier]:
        """Return the configuration and the model in eval mode, both of one run: it may be replaced meanwhile.

        Raises:
            UserError: no run, no such weights, or a broken file.
        """
        for _ in range(_TRIES):
            config = self.config()
            try:
                model = self._load(config, which, device)
            except UserError:
                if self.exists() and self.config() == config:
                    raise
                continue
            if self.config() == config:
                return config, model
        raise UserError(f"run {self.name} is replaced again and again; evaluate it when its training is over")

    def _load(self, config: RunConfig, which: WeightsName | None, device: torch.device | str) -> Classifier:
        load_again(config.plugins, what=f"run {self.name}")
        model = load_saved(
            self.weights_path(self.choose(which)),
            arch=config.arch,
            num_classes=config.num_classes,
            input_shape=config.input_shape,
        )
        return model.to(device).eval()

    def drop_weights(self, which: WeightsName) -> None:
        """Delete weights if there are any."""
        self.weights_path(which).unlink(missing_ok=True)

    def save_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write ``metrics.csv``."""
        write_atomically(self.folder / "metrics.csv", csv_text(rows))

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the training state."""
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / "state.pt", buffer.getvalue())

    def state_bytes(self) -> bytes | None:
        """Return the file of the training state, or None if there is none yet."""
        path = self.folder / "state.pt"
        return path.read_bytes() if path.exists() else None

    def load_state(self, content: bytes | None = None, *, keys: Collection[str] = ()) -> dict[str, Any] | None:
        """Return the training state on the CPU, or None if there is none yet.

        Args:
            content: the bytes of the file; None to read it.
            keys: that it must have.

        Raises:
            UserError: the file is broken, of another version, or lacks one of ``keys``.
        """
        import torch

        content = self.state_bytes() if content is None else content
        if content is None:
            return None
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError):
            raise self.useless_state("is broken") from None
        version = state.get("schema_version") if isinstance(state, dict) else None
        if version != STATE_VERSION:
            has = "no schema version" if version is None else f"schema version {version}"
            raise self.useless_state(f"has {has}, and this gklbench reads {STATE_VERSION}")
        if lacking := sorted(set(keys) - set(state)):
            raise self.useless_state(f"lacks {', '.join(lacking)}")
        return state

    def useless_state(self, problem: str) -> UserError:
        """Return the error for a training state with a ``problem``, such as "is broken"."""
        path = self.folder / "state.pt"
        return UserError(f"{path} {problem}, so the run cannot go on; start it again with --overwrite")
