"""Writing files so that a kill or a full disk never leaves half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from robustbench_gkl.core.errors import UserError


def write_atomically(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write ``content`` to ``path``: into a temporary file beside it, synced to disk, then renamed over it.

    Args:
        path: its folder must exist.
        content: bytes, text (UTF-8), or a function that writes to the path it is given.

    Raises:
        OSError: it cannot be written, as on a full disk; it names ``path``, which is as it was.
    """
    with naming(path):
        _write(path, content)


def write_wanted(path: Path, text: str) -> None:
    """Write a file that the user asked for, see :func:`write_atomically`; its folder is made if need be.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError in the block that names no file, as that of a full disk, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not Path(error.filename).name.startswith(f".{path.name}."):
            raise  # of another file
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def _write(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the renames and new names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def writable_folder(path: Path, *, what: str) -> Path:
    """Make ``path`` if need be and show that files can be written there, before any work is done.

    Raises:
        UserError: it is no folder or cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{what} {path} must be a folder that can be written to: {error.strerror}") from None
    return path
