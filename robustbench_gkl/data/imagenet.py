"""ImageNet, in the folders in which it is usually kept."""

from __future__ import annotations

from pathlib import Path

from robustbench_gkl.data.base import DATASETS, Dataset
from robustbench_gkl.data.folder import ImageFolder


@DATASETS.register("imagenet:PATH", pattern=r"imagenet:(?P<path>.+)")
def imagenet(*, path: str, data_dir: Path) -> Dataset:
    """Photographs in PATH/train/CLASS/ and PATH/val/CLASS/; those in val are the test images."""
    return ImageFolder(Path(path).expanduser(), test="val")
