"""What every model from outside answers: a name, an identity, facts, and the model itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import Norm
from robustbench_gkl.core.files import file_sha256
from robustbench_gkl.core.shapes import Shape

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.models import Classifier

_LONGEST_NAME = 100


@dataclass(frozen=True)
class Facts:
    """What a model was made for; None where it is not known."""

    dataset: str | None = None
    norm: Norm | None = None
    eps: Fraction | None = None
    """Radius in the [0, 1] image scale."""
    num_classes: int | None = None
    input_shape: Shape | None = None
    """(channels, height, width) after ``resize`` and ``crop``."""
    mean: tuple[float, ...] | None = None
    """Normalisation that is applied in front of the model; None too where the model normalises itself."""
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    """Length of the shorter side, or (height, width), that an image is resized to first."""
    crop: int | None = None
    """Side of the square that is then cut from the centre."""
    interpolation: str | None = None
    """``bilinear``, ``bicubic``, ...: how it is resized."""

    def check_fits(self, argument: str, *, num_classes: int, input_shape: Shape | None = None) -> None:
        """Check that the model has as many classes as the data set, and where asked as many channels, if known.

        Channels are checked by number, as a normalisation of three would broadcast over grey images.

        Raises:
            UserError: it has not.
        """
        if self.num_classes is not None and self.num_classes != num_classes:
            raise UserError(
                f"{argument} tells {self.num_classes} classes apart, and the data set has {num_classes}; choose "
                "another data set or other weights"
            )
        if self.input_shape is not None and input_shape is not None and self.input_shape[0] != input_shape[0]:
            raise UserError(
                f"{argument} takes images of {self.input_shape[0]} channels, and the data set has {input_shape[0]}"
            )


@dataclass(frozen=True)
class ExternalSource(ABC):
    """A model from outside, named by a MODEL argument ``KIND:ARGUMENT``."""

    argument: str
    """The MODEL argument as it was given."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """A legal run's name for the model."""

    @property
    def arch(self) -> str:
        """What stands for the architecture in a record: the argument, without the folder of a file of code."""
        return self.argument.rpartition("/")[2] if self.kind == "file" else self.argument

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Return what a record keeps: ``kind``, ``argument``, hashes of code and checkpoint, versions.

        A checkpoint that :meth:`load` downloads has a hash only afterwards.

        Raises:
            UserError: a file is gone, or a package is missing.
        """

    def facts(self) -> Facts:
        """Return what the model was made for.

        Raises:
            UserError: the package is missing or has no such model.
        """
        return Facts()

    def within(self, *, dataset: str | None = None, norm: str | None = None) -> ExternalSource:
        """Return the source, narrowed to a data set and a norm where its argument leaves them open.

        Raises:
            UserError: the model exists for neither.
        """
        return self

    @abstractmethod
    def load(
        self,
        *,
        num_classes: int,
        input_shape: Shape,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> Classifier:
        """Return the model in eval mode: images (B, C, H, W) float32 in [0, 1] in, logits (B, K) out.

        Args:
            num_classes: K, which the model must have.
            input_shape: (channels, height, width) of the images.
            mean, std: normalisation in front of the model, one or one per channel; None for that of :meth:`facts`.
            device: where to put it.

        Raises:
            UserError: it cannot be built, its checkpoint cannot be read, or it does not return (B, K) logits.
        """

    def described(self) -> dict[str, str]:
        """Return the part of :meth:`identity` that all sources have."""
        return {"kind": self.kind, "argument": self.argument}

    def refuse_normalisation(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Refuse constants where the model has its own.

        Raises:
            UserError: some are given.
        """
        if mean is not None or std is not None:
            raise UserError(f"{self.argument} normalises its images itself; leave out the mean and std")


def legal_name(*parts: str) -> str:
    """Return ``parts``, joined by hyphens, as a run can be named."""
    text = "-".join(part for part in parts if part)
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text).lstrip(".-")[
        :_LONGEST_NAME
    ]


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages."""
    return {package: version(package) for package in packages}


def checkpoint_hash(file: Path) -> dict[str, str]:
    """Return the hash of a checkpoint file as an identity holds it.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return {"checkpoint": file.name, "checkpoint_sha256": file_sha256(file)}
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {file}: {error.strerror}") from None
