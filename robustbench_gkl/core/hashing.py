"""Hashes of large files, kept from one command to the next."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from robustbench_gkl.core.files import file_sha256, write_atomically

LARGE = 64 << 20
"""Bytes from which on the hash of a file is kept."""
_SETTLED = 2.0
"""Seconds that a file must have been left alone before its hash is kept: time stamps are no finer than a file system's
clock, so an edit right after another may leave them as they are."""


def cache_folder() -> Path:
    """Return the user's folder for what can be made again: in ``XDG_CACHE_HOME``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gklbench"


def cached_sha256(path: Path, *, large: int = LARGE) -> str:
    """Return the hash of a file's bytes; that of a large file is computed once, as long as the file stays the same.

    A file is the same if it has the same path, device, inode, size, time of its last write and time of its last change
    of any kind, which no program can set back. There is a small file for each hash, replaced as a whole, so processes
    do not get into each other's way; where none can be written, the hash is computed every time.

    Args:
        path: the file.
        large: bytes from which on a hash is kept.
    """
    before = _identity(path)
    if before["size"] < large:
        return file_sha256(path)
    kept = cache_folder() / "sha256" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"
    try:
        known = json.loads(kept.read_bytes())
        if known["file"] == before:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    settled = time.time() - max(before["mtime_ns"], before["ctime_ns"]) / 1e9 > _SETTLED
    found = file_sha256(path)
    if settled and _identity(path) == before:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, json.dumps({"path": str(path.resolve()), "file": before, "sha256": found}) + "\n")
        except OSError:
            pass
    return found


def _identity(path: Path) -> dict[str, int]:
    found = path.stat()
    return {
        "device": found.st_dev,
        "inode": found.st_ino,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }
