"""The spec of submitted adversarial images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from robustbench_gkl.attacks.specs.base import ATTACKS, AttackSpec, Ball
from robustbench_gkl.core.calls import Calls
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import file_sha256

SUFFIXES = (".npz", ".safetensors")


@ATTACKS.register("images")
@dataclass(frozen=True)
class SubmittedImages(AttackSpec):
    """Stored adversarial images, verified like any candidate; whoever made them, and however.

    Args:
        file: an .npz or .safetensors file with ``images`` (M, C, H, W) float32 in [0, 1] and ``index`` (M,), the
            samples' indices in the split; without ``index`` the first M.
        sha256: hash of the file, by which the attack is known; None to compute it.
    """

    name: ClassVar[str] = "images"
    family: ClassVar[str] = "images"
    gradients: ClassVar[bool | None] = None
    positional: ClassVar[str] = "file"
    runner: ClassVar[str] = "robustbench_gkl.attacks.images:propose"

    file: str = field(compare=False)
    sha256: str | None = None

    def __post_init__(self) -> None:
        path = Path(self.file).expanduser()
        if path.suffix not in SUFFIXES or set(self.file) & set(",="):
            raise UserError(f"images:FILE needs a {' or '.join(SUFFIXES)} file without , or = in it, got {self.file!r}")
        if self.sha256 is None:
            object.__setattr__(self, "sha256", self._digest(path))

    def _digest(self, path: Path) -> str:
        try:
            return file_sha256(path)
        except OSError as error:
            raise UserError(f"images:{self.file} cannot be read ({error.strerror}); check the path") from None

    def path(self) -> Path:
        """Return the file, which must be the one that was meant.

        Raises:
            UserError: it is gone or has changed.
        """
        path = Path(self.file).expanduser()
        if (found := self._digest(path)) != self.sha256:
            raise UserError(f"{path} has changed: its hash was {str(self.sha256)[:8]} and is {found[:8]}")
        return path

    @property
    def label(self) -> str:
        """``images-`` and the beginning of the hash."""
        return f"{self.name}-{str(self.sha256)[:8]}"

    @property
    def brief(self) -> str:
        """``images:FILE``."""
        return f"{self.name}:{self.file}"

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return the hash of the file, wherever it lies."""
        return {"attack": self.name, "implementation": self.implementation, "sha256": self.sha256}

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return nothing: the images are there already."""
        return Calls()

    def reference(self, threat: Ball) -> AttackSpec:
        """Return itself."""
        return self
