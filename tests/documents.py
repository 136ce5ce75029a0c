"""The pages that people read (README and ``docs/``), and the blocks of code in them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "docs").rglob("*.ipynb")))
    if not {"_build", "_generated"} & set(path.parts)
}
_FENCE = re.compile(
    r"^```(?:\{code-block\} )?(\w+)\n((?:^:[\w-]+:[^\n]*\n)*)(.*?)^```$", flags=re.MULTILINE | re.DOTALL
)
_RUNNABLE = ("bash", "python", "toml", "json", "yaml")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: such as ``bash``.
        text: its lines.
        file: what the reader saves it as; empty for one that is typed in.
        elsewhere: it needs what a test has not, a network or a cluster, so that it is read and not run.
    """

    language: str
    text: str
    file: str
    elsewhere: bool

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell's or a workflow's lines, with lines that go on joined and comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        split = [shlex.split(line.strip().removeprefix("- run: "), comments=True) for line in lines]
        return [words for words in split if words and (self.language == "bash" or words[0] == "gklbench")]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page that a reader can run or save, in order; of a notebook its cells of code."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        yield from (
            Block("python", "".join(cell["source"]), "", False) for cell in cells if cell["cell_type"] == "code"
        )
        return
    for language, options, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language in _RUNNABLE:
            given = dict(re.findall(r"^:([\w-]+):\s*(.*)$", options, flags=re.MULTILINE))
            yield Block(language, text.lstrip("\n"), given.get("caption", ""), given.get("class") == "elsewhere")
