"""Records of one kind in a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import writable_folder, write_atomically

_LOGGER = logging.getLogger("robustbench_gkl")


class _Kept(Protocol):
    @property
    def id(self) -> str: ...

    def text(self) -> str: ...


R = TypeVar("R", bound=_Kept)


class RecordFiles(Generic[R]):
    """The records of one kind, ``FOLDER/ID.json``.

    Args:
        folder: where they are.
        read: from a file's content, and what to call it in messages, to the record.
        strict: refuse a broken file instead of passing it by.
    """

    def __init__(self, folder: Path, read: Callable[[bytes, str], R], *, strict: bool) -> None:
        self.folder, self.strict = folder, strict
        self._read = read

    def path(self, identity: str) -> Path:
        """Return where a record is kept."""
        return self.folder / f"{identity}.json"

    def prepare(self) -> None:
        """Make the folder and show that it can be written to.

        Raises:
            UserError: it cannot.
        """
        writable_folder(self.folder, what="the results folder")

    def save(self, record: R) -> None:
        """Write a record."""
        write_atomically(self.path(record.id), record.text())

    def load(self, identity: str) -> R | None:
        """Return a record, or None if there is none of that id.

        Raises:
            UserError: the file is broken.
        """
        path = self.path(identity)
        return self._load(path) if path.exists() else None

    def all(self, *, of: Collection[str] | None = None) -> Iterator[R]:
        """Yield the records by file name; one that is broken is passed by and named in a warning, unless ``strict``.

        Args:
            of: only records whose ids begin with one of these names; None for all.

        Raises:
            UserError: ``strict``, and a file is broken.
        """
        for path in sorted(self.folder.glob("*.json")):
            if of is not None and path.stem.rpartition("-")[0] not in of:
                continue
            try:
                record = self._load(path)
            except UserError as error:
                if self.strict:
                    raise
                _LOGGER.warning("%s; passed by", error)
                continue
            yield record

    def _load(self, path: Path) -> R:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        return self._read(content, f"record {path}")
