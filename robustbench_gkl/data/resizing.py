"""Images brought to another size before a model sees them."""

from __future__ import annotations

from torch import Tensor

from robustbench_gkl.core.errors import UserError


def resized_size(size: tuple[int, int], *, resize: int | None, crop: int | None) -> tuple[int, int]:
    """Return the (height, width) of an image of ``size`` after :func:`resize_images`.

    Raises:
        UserError: the crop is larger than the image.
    """
    height, width = size
    if resize is not None:
        shorter = min(size)
        height, width = (resize if side == shorter else int(resize * side / shorter) for side in size)
    if crop is None:
        return height, width
    if crop > min(height, width):
        raise UserError(f"--crop {crop} is larger than the images, which are {height}x{width}; resize them first")
    return crop, crop


def resize_images(images: Tensor, *, resize: int | None, crop: int | None) -> Tensor:
    """Return images (B, C, H, W) uint8 with the shorter side of ``resize`` pixels, and the centre of ``crop``."""
    from torchvision.transforms.v2 import functional as F

    height, width = resized_size((images.shape[2], images.shape[3]), resize=resize, crop=None)
    if resize is not None:
        images = F.resize_image(images, [height, width], antialias=True)
    if crop is not None:
        resized_size((height, width), resize=None, crop=crop)
        images = F.center_crop_image(images, [crop, crop])
    return images
