"""What all pages share: templates, and the names of files."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustbench_gkl.core.project import documentation
from robustbench_gkl.core.version import __version__
from robustbench_gkl.report import assets, reproduce
from robustbench_gkl.report.still import still

if TYPE_CHECKING:
    from jinja2 import Environment


_MARKED = re.compile(r"-[0-9a-f]{8}$", re.IGNORECASE)


def page_templates() -> Environment:
    """Return the templates' environment; it escapes whatever a template does not declare safe."""
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(assets.TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False, "separators": (",", ":")}
    env.filters["specs"] = lambda drawn: [figure.spec() for figure in drawn]
    env.filters["still"] = still
    env.filters["command"] = reproduce.shell_text
    env.globals |= {"version": __version__, "logo": assets.logo(), "icon": assets.icon(), "docs": documentation()}
    return env


def page_names(names: Sequence[str]) -> dict[str, str]:
    """Return a file name for each name: its own where that is safe and unlike all others, else a marked one.

    Names that differ in case alone are one file on some systems, so they are marked too, and those that look marked.
    """
    folded = Counter(name.casefold() for name in names)
    files = {}
    for name in names:
        clean = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80].lstrip(".-") or "model"
        marked = f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        own = clean == name and folded[name.casefold()] == 1 and _MARKED.search(name) is None
        files[name] = name if own else marked
    return files
