"""Figures of notebooks, shown by a plotly.js that lies beside the pages: they load nothing from elsewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from robustbench_gkl.report.assets import plotly_script

FILE = "plotly.min.js"
_ELSEWHERE = re.compile(
    r"<script[^>]*>\s*import \"https://cdn[^<]*</script>|<script[^>]*src=\"https://cdn[^>]*></script>"
)


def write(app: Sphinx) -> None:
    """Put plotly.js where the pages find it, and have kernels draw figures as HTML."""
    (Path(app.srcdir) / "_generated" / "extra" / FILE).write_text(plotly_script(), encoding="utf-8")
    os.environ["PLOTLY_RENDERER"] = "notebook_connected"


def use_ours(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Load plotly.js once, before the first figure, in place of each figure's scripts from elsewhere."""
    body, figures = _ELSEWHERE.subn("", context.get("body", ""))
    if figures:
        context["body"] = f'<script src="{context["pathto"](FILE, resource=True)}"></script>\n{body}'


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.connect("builder-inited", write)
    app.connect("html-page-context", use_ours)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
