"""The published facts of data sets: the shape of their images, their classes and their sizes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from robustbench_gkl.core.shapes import Shape

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
BLOCK = 50
"""Images that are hashed together, so that two sets show which images they share."""

_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_TEN = "airplane automobile bird cat deer dog frog horse ship truck"
_HUNDRED = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set before it is loaded.

    Attributes:
        shape: (channels, height, width) of each image.
        classes: the class names, in label order.
        train: the number of training images.
        test: the number of test images.
    """

    shape: Shape
    classes: tuple[str, ...]
    train: int
    test: int

    def size(self, split: Split) -> int:
        """Return the number of images in a split."""
        return self.test if split == "test" else self.train


FACTS = {
    "digits": DatasetFacts((1, 8, 8), tuple("0123456789"), 1_437, 360),
    "mnist": DatasetFacts((1, 28, 28), tuple("0123456789"), 60_000, 10_000),
    "fashion-mnist": DatasetFacts((1, 28, 28), tuple(_FASHION.split(",")), 60_000, 10_000),
    "svhn": DatasetFacts((3, 32, 32), tuple("0123456789"), 73_257, 26_032),
    "cifar10": DatasetFacts((3, 32, 32), tuple(_TEN.split()), 50_000, 10_000),
    "cifar100": DatasetFacts((3, 32, 32), tuple(_HUNDRED.split()), 50_000, 10_000),
}
"""The data sets that are the same everywhere, by name."""
