"""The base of all architectures: the [0, 1] input, the normalisation layer and the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.registry import Registry, check_keywords
from robustbench_gkl.core.shapes import Shape


class Normalize(nn.Module):
    """Shift and scale each channel: ``(x - mean) / std``; nothing at all where ``mean`` is None.

    The constants are no part of the state dict, whose keys stay those of the published checkpoints: they are
    written into the header of the weights file (see :mod:`robustbench_gkl.runs`).
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None, *, channels: int) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise UserError("mean and std are given together or not at all")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) not in (1, channels):
                raise UserError(f"{name} needs 1 or {channels} values, one per channel; got {len(values)}")
        if std is not None and not all(value > 0 for value in std):
            raise UserError(f"std must be above 0 in each channel, got {', '.join(map(str, std))}")
        for name, values in (("mean", mean), ("std", std)):
            constant = None
            if values is not None:
                constant = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``images`` (B, C, H, W), normalised."""
        if self.mean is None or self.std is None:
            return images
        return (images - self.mean).div_(self.std)  # in place: one image batch less to write and read

    def constants(self) -> tuple[list[float], list[float]] | None:
        """Return (mean, std), one value or one per channel, or None for the identity."""
        if self.mean is None or self.std is None:
            return None
        return self.mean.flatten().tolist(), self.std.flatten().tolist()


class Classifier(nn.Module):
    """An image classifier: float32 images in [0, 1] of ``input_shape`` in, logits out.

    Subclasses define the layers under their published names and :meth:`forward_normalized`.

    Args:
        num_classes: length of the logits.
        input_shape: (channels, height, width).
        mean, std: normalisation constants, one or one per channel, in the [0, 1] scale; None for none.
    """

    published_extras: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the keys that published checkpoints carry without ever using them."""
    foldable: ClassVar[bool] = False
    """Whether the training attack may evaluate a twin that is traced once, with batch normalisation folded into
    convolutions: the eval-mode logits are a function of the images and of the modules' parameters and buffers alone.
    A class declares it for itself; a subclass, which may compute otherwise, does not inherit it."""
    published_under: ClassVar[str] = ""
    """Prefix under which this class keeps what published checkpoints hold at the top."""

    def __init__(
        self,
        *,
        num_classes: int,
        input_shape: Shape,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.input_shape = input_shape
        self.normalize = Normalize(mean, std, channels=input_shape[0])

    def __repr__(self) -> str:
        size, count = "x".join(map(str, self.input_shape)), sum(values.numel() for values in self.parameters())
        return (
            f"{type(self).__name__}({size} to {self.num_classes} classes, {count:,} parameters; print shows its layers)"
        )

    def __str__(self) -> str:
        return nn.Module.__repr__(self)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, C, H, W) in [0, 1]."""
        return self.forward_normalized(self.normalize(images))


class WrappedClassifier(Classifier):
    """A network by others behind the [0, 1] input.

    Args:
        net: the network, which takes normalised images and returns logits.
        num_classes, input_shape, mean, std: see :class:`Classifier`.
    """

    published_under: ClassVar[str] = "net."

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int,
        input_shape: Shape,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        self.net = net

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.net(images)
        return logits


ModelFactory = Callable[..., Classifier]


def _check(name: str, factory: ModelFactory) -> None:
    check_keywords("model", name, factory, ("num_classes", "input_shape", "mean", "std"))


MODELS: Registry[ModelFactory] = Registry("model", "robustbench_gkl.models", check=_check)


def create_model(
    name: str,
    *,
    num_classes: int,
    input_shape: Shape | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """Build an architecture with fresh weights.

    Args:
        name: a registered name such as ``"preact-resnet18"`` or ``"wrn-34-10"``.
        num_classes: at least 2.
        input_shape: (channels, height, width); None for the one that the architecture was published with.
        mean, std: normalisation inside the model; None for what the architecture was published with.

    Raises:
        UserError: unknown name; a depth, width or input shape that the architecture cannot have.
    """
    factory, parameters = MODELS.resolve(name)
    if num_classes < 2:
        raise UserError(f"a classifier needs at least 2 classes, got {num_classes}")
    if input_shape is not None and min(input_shape) < 1:
        raise UserError(f"input_shape is (channels, height, width), each at least 1; got {input_shape}")
    shape = {} if input_shape is None else {"input_shape": input_shape}
    return factory(**parameters, num_classes=num_classes, mean=mean, std=std, **shape)
