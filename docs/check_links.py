"""Check the links of built pages: those inside lead to a page and an anchor, those outside are well formed.

python docs/check_links.py FOLDER     exits with 1 and a line for each broken link
"""

from __future__ import annotations

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of what a tag links to, and of its anchor."""
        given = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := given.get(key))}
        self.links += [value for key in ("href", "src") if (value := given.get(key))]


@cache
def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _problem(page: Path, link: str) -> str:
    """Return what is wrong with a link of a page; nothing if it is sound."""
    parts = urlsplit(link)
    if parts.scheme in ("http", "https"):
        return "" if "." in parts.netloc and " " not in link else "is not an address"
    if parts.scheme:
        return "" if parts.scheme in ("mailto", "data") else f"has the scheme {parts.scheme}"
    target = page.parent / unquote(parts.path) if parts.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return "leads to no file"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target).anchors:
        return "leads to no such anchor"
    return ""


def main() -> int:
    """Print what is wrong; return the exit code."""
    folder = Path(sys.argv[1])
    pages = sorted(folder.rglob("*.html"))
    links = [(page, link) for page in pages for link in _read(page).links]
    broken = [(page, link, said) for page, link in links if (said := _problem(page, link))]
    for page, link, said in broken:
        print(f"{page.relative_to(folder)}: {link} {said}")
    print(f"{len(links)} links on {len(pages)} pages, {len(broken)} broken")
    return 1 if broken or not links else 0


if __name__ == "__main__":
    sys.exit(main())
