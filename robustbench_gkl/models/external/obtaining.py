"""The module that a user's code names: an attribute, or what calling it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from robustbench_gkl.core.code_files import CodeFile
from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.core.importing import explained


def obtain(module: ModuleType, attribute: str, code: CodeFile, argument: str) -> Any:
    """Return what ``attribute`` of a module is, called without arguments where it is a class or a function.

    Raises:
        UserError: there is none, it needs arguments, or it raises.
    """
    from torch import nn

    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            choices = [name for name, value in vars(found).items() if _is_a_choice(value, module)]
            raise unknown(f"name in {code.path.name}", part, choices)
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise UserError(
            f"{argument} is a {type(found).__name__}; name a module, a class or a function that returns one"
        )
    if needed := _needed(found):
        raise UserError(
            f"{argument} needs arguments ({', '.join(needed)}); name a function without any that returns the module"
        )
    with explained(code):
        made = found()
    if not isinstance(made, nn.Module):
        hint = "; build the module and load the state dict into it" if isinstance(made, dict) else ""
        raise UserError(f"{argument} must return a torch.nn.Module, got a {type(made).__name__}{hint}")
    return made


def _is_a_choice(value: object, module: ModuleType) -> bool:
    """Return whether a value is a network, or a class or function that is defined in the module."""
    from torch import nn

    return isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", None) == module.__name__)


def _needed(call: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that ``call`` cannot do without."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variable]
