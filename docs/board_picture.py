"""Draw the picture of the board: what ``gklbench leaderboard`` prints on a terminal, as SVG.

python docs/board_picture.py [WIDTH]     writes docs/_static/board.svg, from the records in results/examples/digits
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
SHOWN = "gklbench leaderboard"
COMMAND = [sys.executable, "-m", "robustbench_gkl", "leaderboard", "--results-dir", "results/examples/digits"]


def printed(width: int) -> str:
    """Return what the command prints on a terminal of so many columns."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": str(width), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    with subprocess.Popen(COMMAND, cwd=ROOT, env=environment, stdout=slave, stderr=slave) as process:
        os.close(slave)
        parts = []
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:  # Linux says so where the other side is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(master)
    if process.returncode:
        raise SystemExit(b"".join(parts).decode())
    return b"".join(parts).decode().replace("\r\n", "\n")


def main() -> None:
    """Write the picture."""
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    text = Text.from_ansi(printed(width))
    console = Console(record=True, width=width, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(Text(f"$ {SHOWN}", style="bold"))
    console.print(text)
    svg = console.export_svg(title="gklbench", unique_id="board")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # a picture loads nothing from elsewhere
    target = ROOT / "docs" / "_static" / "board.svg"
    target.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
