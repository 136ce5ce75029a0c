"""The directive ``gklbench``: a command that is run when the pages are built, and what it prints.

What a page shows is so what the command says, and a command that fails stops the build.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


class Output(SphinxDirective):
    """Show a command and its output; it runs at the top of the repository."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {"lines": directives.nonnegative_int}

    def run(self) -> list[nodes.Node]:
        """Return the two blocks."""
        command = self.arguments[0]
        done = subprocess.run(
            [sys.executable, "-m", "robustbench_gkl", *shlex.split(command)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "110"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise self.error(f"gklbench {command} ended with {done.returncode}: {done.stderr}")
        lines = [line.rstrip() for line in done.stdout.splitlines()]
        if most := self.options.get("lines"):
            lines = [*lines[:most], "..."] if len(lines) > most else lines
        return [_block(f"gklbench {command}", "bash"), _block("\n".join(lines), "text")]


def _block(text: str, language: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language=language)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("gklbench", Output)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
