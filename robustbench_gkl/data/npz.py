"""Images from arrays in an .npz file."""

from __future__ import annotations

from pathlib import Path

import torch

from robustbench_gkl.data.base import DATASETS, Dataset, ImageSet
from robustbench_gkl.data.facts import Split
from robustbench_gkl.data.npz_arrays import NpzArrays


class NpzFile(NpzArrays):
    """The images of an .npz file."""

    def load(self, split: Split) -> ImageSet:
        """Return the images of ``x_SPLIT`` with the labels of ``y_SPLIT``.

        Raises:
            UserError: as :meth:`NpzArrays.arrays`.
        """
        pixels, labels = self.arrays(split)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return ImageSet(images.clone(memory_format=torch.contiguous_format), torch.from_numpy(labels), self.classes)


@DATASETS.register("npz:PATH", pattern=r"npz:(?P<path>.+)")
def npz_file(*, path: str, data_dir: Path) -> Dataset:
    """Arrays x_train y_train x_test y_test (uint8 NHWC or NHW) in an .npz file."""
    return NpzFile(Path(path).expanduser())
