"""Models from outside: a user's code, torchvision, timm, RobustBench's zoo, a hub. Torch is imported to load one."""

from robustbench_gkl.models.external.parsing import FORMS, parse_model
from robustbench_gkl.models.external.source import ExternalSource, Facts

__all__ = ["FORMS", "ExternalSource", "Facts", "parse_model"]
