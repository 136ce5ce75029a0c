"""Settings of the documentation: ``make docs`` builds it in an environment of its own."""

import re
import sys
from pathlib import Path

from click import Context
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
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "figures",
    "generated",
    "mathml",
    "output",
]
exclude_patterns = ["_build", "_generated", "_ext"]
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {name: name for name in ("BatchSize", "Precision")}
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

smartquotes = False  # it would make a dash of the two hyphens of options

html_theme = "furo"
html_title = "gklbench"
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
    metadata = read_mapping(Path(__file__).parents[1] / "pyproject.toml")
    address = metadata["project"]["urls"]["Repository"]
    source[0] = source[0].replace("REPOSITORY", address).replace("SLUG", "/".join(address.split("/")[-2:]))


def setup(app: Sphinx) -> None:
    """Connect both."""
    app.connect("sphinx-click-process-options", _plain_defaults)
    app.connect("source-read", _address)
