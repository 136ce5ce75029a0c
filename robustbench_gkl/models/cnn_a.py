"""The small CIFAR-10 network of the verification literature."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier


@MODELS.register("cnn-a")
class CNNA(Classifier):
    """Two 4x4 convolutions of stride 2, a linear layer of 100 and the last one: "CNN-A" (arXiv 2008.02695).

    Its layers carry the numbers they have in the published ``nn.Sequential``: 0, 2, 5 and 7 hold weights.

    Raises:
        UserError: images below 4x4 leave nothing after the convolutions.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        input_shape: Shape = (3, 32, 32),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        channels, height, width = input_shape
        if min(height, width) < 4:
            raise UserError(f"cnn-a needs images of at least 4x4, got {height}x{width}; tiny-cnn takes any size")
        layers = (
            nn.Conv2d(channels, 16, kernel_size=4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), 100),
            nn.ReLU(inplace=True),
            nn.Linear(100, num_classes),
        )
        self._order = [str(position) for position in range(len(layers))]
        for name, layer in zip(self._order, layers, strict=True):
            self.add_module(name, layer)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = images
        for name in self._order:
            features = getattr(self, name)(features)
        return features
