"""The scripts and styles that the pages run on, taken from installed packages so that no page needs a network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from robustbench_gkl.core.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"

_EXTRA = ("plotly", "itables")


def require_extra(what: str = "HTML pages", packages: Sequence[str] = _EXTRA) -> None:
    """Show that ``packages`` of the ``report`` extra, which ``what`` needs, are installed.

    Raises:
        UserError: they are not; the message has the command that installs them.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"{what} need {', '.join(missing)}; install with: pip install 'gklbench[report]'")


def style() -> str:
    """Return our style sheet."""
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


def logo() -> str:
    """Return our logo: an image, the ball around it, and the decision boundary that does not cut it."""
    return (TEMPLATES / "logo.svg").read_text(encoding="utf-8").strip()


def icon() -> str:
    """Return the logo as a data URI."""
    return f"data:image/svg+xml;base64,{b64encode(logo().encode()).decode()}"


def script() -> str:
    """Return our script: theme, tables, charts and copy buttons."""
    return (TEMPLATES / "report.js").read_text(encoding="utf-8")


def tables_script() -> str:
    """Return a classic script that makes ``window.tablesReady`` a promise of itables' bundle of DataTables.

    The bundle is an ES module, and browsers refuse to load modules from ``file://``; a data URI they accept.
    """
    bundle = (files("itables") / "html" / "dt_bundle.js").read_bytes()
    return f'window.tablesReady = import("data:text/javascript;base64,{b64encode(bundle).decode()}");\n'


def plotly_script() -> str:
    """Return plotly.js."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
