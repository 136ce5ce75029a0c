"""``torchvision:NAME[@WEIGHTS|FILE]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.external.source import ExternalSource, Facts, checkpoint_hash, legal_name, versions

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.models import Classifier


@dataclass(frozen=True)
class TorchvisionSource(ExternalSource):
    """A classifier of torchvision, with weights that it downloads or a checkpoint file."""

    kind: ClassVar[str] = "torchvision"
    architecture: str
    weights: str | None
    """The name of torchvision's weights; None for its default ones, where there is no file."""
    file: Path | None

    @property
    def name(self) -> str:
        """``torchvision-resnet18-IMAGENET1K_V1``."""
        return legal_name("torchvision", self.architecture, self.file.stem if self.file else self.weights or "")

    def identity(self) -> dict[str, str]:
        """Return kind, argument, torchvision's version and the weights' name or the checkpoint's hash."""
        chosen = checkpoint_hash(self.file) if self.file else {"weights": self._weights().name}
        return self.described() | versions("torchvision") | chosen

    def facts(self) -> Facts:
        """Return what torchvision's weights say; nothing for a file."""
        if self.file:
            self._check_known()
            return Facts()
        weights = self._weights()
        prepared = weights.transforms()
        return Facts(
            dataset="imagenet" if len(weights.meta["categories"]) == 1000 else None,
            num_classes=len(weights.meta["categories"]),
            input_shape=(3, prepared.crop_size[0], prepared.crop_size[0]),
            mean=tuple(prepared.mean),
            std=tuple(prepared.std),
            resize=prepared.resize_size[0],
            crop=prepared.crop_size[0],
            interpolation=prepared.interpolation.value,
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
        """Return the classifier with its weights, see :meth:`ExternalSource.load`."""
        import torchvision

        from robustbench_gkl.models.external.wrapping import in_one_line, package_at_work, wrap
        from robustbench_gkl.models.published import load_published, read_checkpoint

        facts = self.facts()
        facts.check_fits(self.argument, num_classes=num_classes, input_shape=input_shape)
        state = read_checkpoint(self.file) if self.file else None
        with in_one_line(f"{self.argument} cannot be built"), package_at_work():
            net = torchvision.models.get_model(self.architecture, weights=None, num_classes=num_classes)
        if state is None:
            with in_one_line(f"{self.argument}: its weights cannot be downloaded"), package_at_work():
                state = self._weights().get_state_dict(progress=False, check_hash=True)
        if mean is None and std is None:
            mean, std = facts.mean, facts.std
        model = wrap(
            net, what=self.argument, num_classes=num_classes, input_shape=input_shape, mean=mean, std=std, device=device
        )
        load_published(model, state)
        return model

    def _check_known(self) -> None:
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
        if self.architecture not in known:
            raise unknown(
                "classifier of torchvision",
                self.architecture,
                known,
                listing="torchvision.models.list_models(module=torchvision.models) lists them all",
            )

    def _weights(self) -> Any:
        """Return torchvision's enumeration member."""
        import torchvision

        self._check_known()
        choices = torchvision.models.get_model_weights(self.architecture)
        if self.weights in (None, "DEFAULT"):
            return choices.DEFAULT
        names = [choice.name for choice in choices]
        if self.weights not in names:
            raise UserError(f"{unknown(f'weights of {self.architecture}', str(self.weights), names)}, or name a file")
        return choices[self.weights]
