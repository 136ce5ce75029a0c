"""``hf:OWNER/REPO[@REVISION]``: a run's ``config.json`` and weights in a repository of the Hugging Face hub."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.core.exact import ExactNumber, Norm
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.core.validation import user_error
from robustbench_gkl.models.external.source import ExternalSource, Facts, checkpoint_hash, legal_name, versions

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.models import Classifier

_PREFERRED = ("average", "best", "last")
"""As among the weights of a run."""


class _Threat(BaseModel):
    norm: Norm
    eps: ExactNumber


class _Train(BaseModel):
    threat: _Threat | None = None


class _Config(BaseModel):
    """What of a run's ``config.json`` the model needs; a hub's files may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    arch: str
    num_classes: int
    input_shape: tuple[int, int, int]
    dataset: str | None = None
    train: _Train | None = None


@dataclass(frozen=True)
class HubSource(ExternalSource):
    """A run on the hub, downloaded or taken from the hub's cache."""

    kind: ClassVar[str] = "hf"
    repository: str
    revision: str | None

    @property
    def name(self) -> str:
        """``hf-OWNER-REPO``."""
        return legal_name("hf", self.repository, self.revision or "")

    def identity(self) -> dict[str, str]:
        """Return kind, argument, the commit, huggingface_hub's version and the hash of the weights file."""
        commit = {"commit": self.folder.name}
        return self.described() | commit | versions("huggingface_hub") | checkpoint_hash(self._weights())

    def facts(self) -> Facts:
        """Return what ``config.json`` says; the threat is the one that the run was trained for."""
        config = self._config()
        threat = config.train.threat if config.train else None
        return Facts(
            dataset=config.dataset,
            norm=threat.norm if threat else None,
            eps=threat.eps if threat else None,
            num_classes=config.num_classes,
            input_shape=config.input_shape,
        )

    def load(
        self,
        *,
        num_classes: int,
        input_shape: Shape,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> Classifier:
        """Return the run's model, see :meth:`ExternalSource.load`."""
        from robustbench_gkl.models.weights import load_saved

        self.refuse_normalisation(mean, std)
        config = self._config()
        self.facts().check_fits(self.argument, num_classes=num_classes)
        if config.input_shape != tuple(input_shape):
            takes, has = ("x".join(map(str, shape)) for shape in (config.input_shape, input_shape))
            raise UserError(f"{self.argument} takes images of {takes}, and the data set has {has}")
        model = load_saved(
            self._weights(), arch=config.arch, num_classes=config.num_classes, input_shape=config.input_shape
        )
        return model.to(device).eval()

    @cached_property
    def folder(self) -> Path:
        """The snapshot with the files, named by its commit; what is in the hub's cache is found offline too.

        Raises:
            UserError: huggingface_hub is missing; no such repository or revision, or no way to it.
        """
        hub = _import_hub()
        patterns = ["config.json", "*.safetensors"]
        try:
            found: str = hub.snapshot_download(self.repository, revision=self.revision, allow_patterns=patterns)
        except hub.errors.HFValidationError as error:
            raise UserError(f"{self.argument} names no repository ({one_line(error)})") from None
        except Exception as error:  # what a download can fail with is httpx's, the file system's and the hub's
            raise UserError(
                f"{self.argument} is neither in the hub's cache nor to be had from the hub "
                f"({one_line(error)}); check the name, the revision and the connection"
            ) from None
        return Path(found)

    def _config(self) -> _Config:
        path = self.folder / "config.json"
        try:
            return _Config.model_validate_json(path.read_bytes())
        except OSError:
            raise UserError(f"{self.argument} has no config.json; upload a run's folder") from None
        except ValidationError as error:
            raise user_error(error, what=f"{self.argument}: its config.json is none of a run") from None

    def _weights(self) -> Path:
        """Return the weights file: those that a run prefers, else the only one."""
        found = {path.stem: path for path in sorted(self.folder.glob("*.safetensors"))}
        for which in _PREFERRED:
            if which in found:
                return found[which]
        if len(found) == 1:
            return next(iter(found.values()))
        raise UserError(
            f"{self.argument} needs one of {', '.join(f'{which}.safetensors' for which in _PREFERRED)}, "
            f"has {', '.join(found) or 'none'}; upload a run's folder (a pickle is never read: gklbench import makes "
            "a run of a checkpoint)"
        )


def _import_hub() -> ModuleType:
    try:
        importlib.import_module("huggingface_hub.errors")
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError("hf:OWNER/REPO needs the hub extra: pip install 'gklbench[hub]'") from error
