"""The model that a command is about: where it comes from, and what a record keeps of it.

Torch is imported only where a model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustbench_gkl.config.names import WeightsName
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.resizing import UNCHANGED, Fit
from robustbench_gkl.results.record import ModelInfo, Preprocessing, model_sha256
from robustbench_gkl.runs import Origin

if TYPE_CHECKING:
    from robustbench_gkl.models import Classifier


def check_fits(model: Classifier, label: str, *, shape: Shape, classes: int, dataset: str = "the data set") -> None:
    """Check that a model is made for images of ``shape`` (channels, height, width) and for so many classes.

    Args:
        model: it.
        label: the words for it in an error.
        shape, classes: of the data set.
        dataset: its name.

    Raises:
        UserError: it is made for others.
    """
    if (shape, classes) != (model.input_shape, model.num_classes):
        raise UserError(
            f"{label} takes {_size(model.input_shape)} images of {model.num_classes} classes, but {dataset} has "
            f"{_size(shape)} images of {classes} classes"
        )


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape))


@dataclass(frozen=True)
class Subject:
    """A model, loaded, with what a record keeps of it.

    Attributes:
        model: in eval mode, on its device.
        arch: its architecture, with options.
        weights_sha256: hash of its parameters and buffers, normalisation included.
        run: the name of the run that it is; None for a model from elsewhere.
        weights: which of the run's weights.
        train: what it was trained with; None for a model trained elsewhere.
        code_sha256: hash of the code that builds a model from elsewhere.
        source: where a model from elsewhere comes from.
        teacher, init: the models that it learned from and started from, where it did.
        fit: how images are brought to size before the model.
    """

    model: Classifier
    arch: str
    weights_sha256: str
    run: str | None = None
    weights: WeightsName | None = None
    train: TrainConfig | None = None
    code_sha256: str | None = None
    source: dict[str, Any] | None = None
    teacher: Origin | None = None
    init: Origin | None = None
    fit: Fit = UNCHANGED

    @property
    def preprocessing(self) -> Preprocessing:
        """What happens to a [0, 1] image before the first layer."""
        mean, std = self.model.normalize.constants() or (None, None)
        return Preprocessing(
            mean=mean,
            std=std,
            resize=self.fit.resize,
            crop=self.fit.crop,
            interpolation=None if self.fit.resize is None else self.fit.interpolation,
        )

    def info(self, name: str) -> ModelInfo:
        """Return what a record says of the model under ``name``."""
        return ModelInfo(
            name=name,
            arch=self.arch,
            loss=None if self.train is None else self.train.loss,
            params=sum(parameter.numel() for parameter in self.model.parameters()),
            run=None if name == self.run else self.run,
            weights=self.weights,
            weights_sha256=self.weights_sha256,
            preprocessing=self.preprocessing,
            code_sha256=self.code_sha256,
            source=self.source,
            model_sha256=self.model_sha256,
            train_config=None if self.train is None else self.train.model_dump(mode="json"),
            teacher_sha256=None if self.teacher is None else self.teacher.model_sha256,
            init_sha256=None if self.init is None else self.init.model_sha256,
        )

    @property
    def model_sha256(self) -> str:
        """The model's identity: hash of its weights and its function."""
        return model_sha256(
            weights_sha256=self.weights_sha256,
            arch=self.arch,
            preprocessing=self.preprocessing,
            code_sha256=self.code_sha256,
        )
