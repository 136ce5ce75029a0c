"""Training losses. Each file registers one family."""

from robustbench_gkl.losses.base import LOSSES, Loss, create_loss

__all__ = ["LOSSES", "Loss", "create_loss"]
