"""``timm:NAME[@FILE]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.external.source import ExternalSource, Facts, checkpoint_hash, legal_name, versions

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.models import Classifier


def preprocessing(config: Any) -> dict[str, Any]:
    """Return the fields of :class:`Facts` that say how an image is made to fit, from timm's pretrained config."""
    side = config.input_size[1]
    return {
        "input_shape": tuple(config.input_size),
        "resize": math.floor(side / config.crop_pct),
        "crop": side,
        "interpolation": config.interpolation,
    }


@dataclass(frozen=True)
class TimmSource(ExternalSource):
    """A classifier of timm, with the weights that it downloads or a checkpoint file."""

    kind: ClassVar[str] = "timm"
    architecture: str
    file: Path | None

    @property
    def name(self) -> str:
        """``timm-resnet18``."""
        return legal_name("timm", self.architecture, self.file.stem if self.file else "")

    def identity(self) -> dict[str, str]:
        """Return kind, argument, timm's version and the checkpoint's hash."""
        from robustbench_gkl.models.timm_models import import_timm

        import_timm()
        return self.described() | versions("timm") | (checkpoint_hash(self.file) if self.file else {})

    def facts(self) -> Facts:
        """Return what timm's own weights were trained with; without data set and classes for a file."""
        from robustbench_gkl.models.timm_models import pretrained_config

        config = pretrained_config(self.architecture)
        known = Facts(mean=tuple(config.mean), std=tuple(config.std), **preprocessing(config))
        if self.file is not None:
            return known
        dataset = "imagenet" if config.num_classes == 1000 else None
        return replace(known, dataset=dataset, num_classes=config.num_classes)

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
        from robustbench_gkl.models import create_model
        from robustbench_gkl.models.external.wrapping import in_one_line, package_at_work
        from robustbench_gkl.models.published import load_published, read_checkpoint
        from robustbench_gkl.models.timm_models import import_timm

        self.facts().check_fits(self.argument, num_classes=num_classes)
        state = read_checkpoint(self.file) if self.file else None
        model = create_model(
            f"timm:{self.architecture}", num_classes=num_classes, input_shape=input_shape, mean=mean, std=std
        )
        if state is None:
            with in_one_line(f"{self.argument}: its weights cannot be downloaded"), package_at_work():
                state = import_timm().create_model(self.architecture, pretrained=True).state_dict()
        load_published(model, state)
        return model.to(device).eval()
