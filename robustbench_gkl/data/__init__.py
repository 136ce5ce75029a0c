"""Data sets. Each file registers one source; all give uint8 images and integer labels."""

from robustbench_gkl.data.base import (
    DATASETS,
    Dataset,
    ImageSet,
    load_dataset,
    to_unit,
    train_validation_split,
)

__all__ = ["DATASETS", "Dataset", "ImageSet", "load_dataset", "to_unit", "train_validation_split"]
