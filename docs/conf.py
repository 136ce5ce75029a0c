"""Settings of the documentation: ``make docs`` builds it in an environment of its own."""

import re
import sys
from html import escape
from pathlib import Path
from typing import Any

from click import Context
from docutils import nodes
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from robustbench_gkl.config.files import read_mapping
from robustbench_gkl.core.version import __version__

project = "gklbench"
(Path(__file__).parent / "_generated" / "extra").mkdir(parents=True, exist_ok=True)  # looked at before it is filled

author = "the gklbench authors"
project_copyright = author
release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "accessible",
    "figures",
    "generated",
    "mathml",
    "notebooks",
    "output",
]
exclude_patterns = ["_build", "_generated", "_ext"]
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {name: name for name in ("BatchSize", "Precision")}
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

smartquotes = False  # it would make a dash of the two hyphens of options

ADDRESSES = read_mapping(Path(__file__).parents[1] / "pyproject.toml")["project"]["urls"]
"""Where the project is published."""

html_theme = "furo"
html_title = "gklbench"
html_baseurl = ADDRESSES["Documentation"] + "/"
html_logo = html_favicon = "../robustbench_gkl/report/templates/logo.svg"
html_static_path = ["_static"]
html_extra_path = ["_generated/extra"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1d4f91", "color-brand-content": "#1d4f91"},
    "dark_css_variables": {"color-brand-primary": "#8ab4f0", "color-brand-content": "#8ab4f0"},
}


def _plain_defaults(app: Sphinx, context: Context, lines: list[str]) -> None:
    """Show the path of a default, not the object that holds it."""
    lines[:] = [re.sub(r"PosixPath\('(.*?)'\)", r"\1", line) for line in lines]


def _address(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the repository's address, which ``pyproject.toml`` alone has, where pages say REPOSITORY or SLUG."""
    address = ADDRESSES["Repository"]
    source[0] = source[0].replace("REPOSITORY", address).replace("SLUG", "/".join(address.split("/")[-2:]))


def _preview(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Say in a page's head how a link to it is previewed (Open Graph)."""
    paragraph = next(doctree.findall(nodes.paragraph), None) if doctree is not None else None
    about = " ".join(paragraph.astext().split()) if paragraph is not None else ""
    tags = {
        "og:type": "website",
        "og:site_name": project,
        "og:title": re.sub("<.*?>", "", context.get("title") or project),
        "og:url": f"{html_baseurl}{page}.html",
        "og:image": f"{html_baseurl}_static/card.png",
        "og:image:alt": "The logo of gklbench: an image, the ball around it and a decision boundary",
        "og:description": about[:200],
    }
    lines = [f'<meta property="{name}" content="{escape(text)}">' for name, text in tags.items() if text]
    context["metatags"] = "\n".join(
        [context.get("metatags", ""), *lines, '<meta name="twitter:card" content="summary_large_image">']
    )


def setup(app: Sphinx) -> None:
    """Connect all of these."""
    app.connect("html-page-context", _preview)
    app.connect("sphinx-click-process-options", _plain_defaults)
    app.connect("source-read", _address)
