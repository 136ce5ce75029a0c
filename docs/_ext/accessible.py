"""What readers without a mouse or a screen lack in Sphinx's pages: levels of headings, and focus on what scrolls."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def _mend(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    for key in ("body", "furo_navigation_tree"):
        if html := context.get(key):
            html = html.replace('role="heading">', 'role="heading" aria-level="2">')
            context[key] = html.replace("<pre>", '<pre tabindex="0">').replace("<pre style", '<pre tabindex="0" style')


def setup(app: Sphinx) -> dict[str, bool]:
    """Change pages after the theme has."""
    app.connect("html-page-context", _mend, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
