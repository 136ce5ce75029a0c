"""Architectures. Each file registers one family; parameter names follow the published checkpoints."""

from robustbench_gkl.models.base import MODELS, Classifier, create_model

__all__ = ["MODELS", "Classifier", "create_model"]
