"""``import gklbench``: the name under which ``robustbench_gkl`` is installed.

Both names are one package: ``gklbench`` is the module ``robustbench_gkl``, and ``gklbench.losses`` is
``robustbench_gkl.losses``. Nothing is imported twice.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

import robustbench_gkl

if TYPE_CHECKING:
    from robustbench_gkl import *
    from robustbench_gkl import __version__ as __version__

_PREFIX = f"{__name__}."


class _SameModule(Loader):
    """Puts the module of ``robustbench_gkl`` into ``sys.modules`` in place of a new one."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the placeholder to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Replace the placeholder, which the import system allows a module to do."""
        sys.modules[module.__name__] = importlib.import_module(_ours(module.__name__))


class _Finder(MetaPathFinder):
    """Finds ``gklbench.NAME``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how ``fullname`` is imported; None where it is not ours, and for the file of ``python -m``."""
        if not fullname.startswith(_PREFIX) or fullname == f"{_PREFIX}__main__":
            return None
        found = importlib.util.find_spec(_ours(fullname))
        return None if found is None else ModuleSpec(fullname, _SameModule(), origin=found.origin)


def _ours(name: str) -> str:
    return f"{robustbench_gkl.__name__}.{name.removeprefix(_PREFIX)}"


sys.meta_path.insert(0, _Finder())
sys.modules[__name__] = robustbench_gkl
