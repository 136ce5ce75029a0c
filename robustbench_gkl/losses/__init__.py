"""Training losses. Each file registers one family."""

from robustbench_gkl.losses.base import LOSSES, Logits, Loss, create_loss

__all__ = ["LOSSES", "Logits", "Loss", "create_loss"]
