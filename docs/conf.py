"""Settings of the documentation: ``make docs`` builds it in an environment of its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

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
autodoc_type_aliases = {name: name for name in ("Arrays", "BatchSize", "Precision", "Threat", "Shape", "Split")}
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

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


def setup(app):
    """Put the repository's address, which ``pyproject.toml`` alone has, where pages say REPOSITORY or SLUG."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    metadata = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    address = metadata["project"]["urls"]["Repository"]
    slug = "/".join(address.split("/")[-2:])

    def fill(app, name, source):
        source[0] = source[0].replace("REPOSITORY", address).replace("SLUG", slug)

    app.connect("source-read", fill)
