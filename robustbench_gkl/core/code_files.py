"""Which files a user's code consists of, and their hash; nothing is imported to find out."""

from __future__ import annotations

import ast
import hashlib
import site
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import file_sha256

_LISTED = 10
"""How many files an identity lists by name."""


@dataclass(frozen=True)
class CodeFile:
    """A Python file and the folder that its absolute imports start from: that of its outermost package."""

    path: Path
    root: Path

    @staticmethod
    def at(path: Path) -> CodeFile:
        """Return the file at ``path`` with its root."""
        root = path.parent
        while (root / "__init__.py").is_file() and root != root.parent:
            root = root.parent
        return CodeFile(path, root)

    @property
    def dotted(self) -> str:
        """The name that the module has in its package; the stem for a file in none."""
        parts = self.path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def top(self) -> str:
        """The first part of :attr:`dotted`."""
        return self.dotted.partition(".")[0]

    @property
    def installed(self) -> bool:
        """Whether it lies among installed packages, or in the standard library."""
        homes = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
        return str(self.root) in homes or self.root.name in ("site-packages", "dist-packages")

    def family(self) -> list[Path]:
        """Return the file and all under its root that it imports, directly or through others, by path.

        Of an installed package, those of the same package alone. What is imported by a computed name or from
        elsewhere on the path is not found.

        Raises:
            UserError: a file cannot be read.
        """
        found: dict[Path, None] = {}
        waiting = [self.path]
        while waiting:
            path = waiting.pop()
            if path not in found and (not self.installed or self._top_of(path) == self.top):
                found[path] = None
                waiting += self._imported_by(path)
        return sorted(found)

    def tops(self) -> set[str]:
        """Return the names of the packages and modules that :meth:`family` is made of."""
        return {self._top_of(path) for path in self.family()}

    def _top_of(self, path: Path) -> str:
        return path.relative_to(self.root).with_suffix("").parts[0]

    def _imported_by(self, path: Path) -> Iterator[Path]:
        try:
            tree = ast.parse(path.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except (SyntaxError, ValueError):
            return  # said with its line when it is imported
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from self._module_files(self.root, alias.name.split("."))
            elif isinstance(node, ast.ImportFrom):
                base = path.parents[node.level - 1] if node.level else self.root
                parts = node.module.split(".") if node.module else []
                yield from self._module_files(base, parts)
                for alias in node.names:
                    yield from self._module_files(base, [*parts, alias.name])

    @staticmethod
    def _module_files(base: Path, parts: list[str]) -> Iterator[Path]:
        """Yield the files that importing ``parts`` under ``base`` runs: each package's, and the module's own."""
        folder = base
        for part in parts:
            module = folder / f"{part}.py"
            folder = folder / part
            if (folder / "__init__.py").is_file():
                yield folder / "__init__.py"
            elif module.is_file():
                yield module

    def identity(self) -> dict[str, str]:
        """Return ``code_sha256`` and ``code_files``.

        A single file has the hash of its bytes; several have that of the lines ``SHA256  PATH``, sorted by path.

        Raises:
            UserError: a file cannot be read.
        """
        files = self.family()
        hashes = {path.relative_to(self.root).as_posix(): file_sha256(path) for path in files}
        if len(hashes) == 1:
            (digest,) = hashes.values()
        else:
            lines = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
            digest = hashlib.sha256(lines.encode()).hexdigest()
        own = self.path.relative_to(self.root).as_posix()
        listed = ", ".join(hashes) if len(hashes) <= _LISTED else f"{own} and {len(hashes) - 1} others"
        return {"code_sha256": digest, "code_files": listed}
