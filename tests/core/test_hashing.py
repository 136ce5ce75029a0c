"""Hashes of large files are kept, and never those of other content."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustbench_gkl.core.hashing import cache_folder, cached_sha256


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder() / "sha256"


def file_of(folder: Path, content: bytes = b"a" * 100) -> Path:
    """Return a file that has been left alone for long enough."""
    path = folder / "file"
    path.write_bytes(content)
    time.sleep(2.1)
    return path


def test_the_hash_of_a_large_file_is_kept(tmp_path: Path, cache: Path) -> None:
    path = file_of(tmp_path)
    assert cached_sha256(path, large=101) == hashlib.sha256(b"a" * 100).hexdigest()
    assert not cache.exists(), "a small one is not kept"
    assert cached_sha256(path, large=100) == hashlib.sha256(b"a" * 100).hexdigest()
    (kept,) = cache.iterdir()
    kept.write_text(kept.read_text().replace(hashlib.sha256(b"a" * 100).hexdigest(), "from the cache"))
    assert cached_sha256(path, large=100) == "from the cache"


def test_an_edit_in_place_is_never_missed(tmp_path: Path, cache: Path) -> None:
    path = file_of(tmp_path)
    cached_sha256(path, large=1)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert cached_sha256(path, large=1) == hashlib.sha256(b"b" + b"a" * 99).hexdigest()


def test_a_file_that_was_just_written_is_not_trusted(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"new")
    assert cached_sha256(path, large=1) == hashlib.sha256(b"new").hexdigest()
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "{", '{"file": 3}', "[]", '{"sha256": "x"}'])
def test_a_broken_or_unwritable_cache_costs_only_time(content: str, tmp_path: Path, cache: Path) -> None:
    path = file_of(tmp_path)
    expected = hashlib.sha256(b"a" * 100).hexdigest()
    cached_sha256(path, large=1)
    (kept,) = cache.iterdir()
    kept.write_text(content)
    assert cached_sha256(path, large=1) == expected
    kept.unlink()
    cache.rmdir()
    cache.write_text("in the way")
    assert cached_sha256(path, large=1) == expected


def test_two_processes_do_not_get_into_each_others_way(tmp_path: Path, cache: Path) -> None:
    path = file_of(tmp_path)
    script = (
        "import sys; from pathlib import Path; from robustbench_gkl.core.hashing import cached_sha256\n"
        "print({cached_sha256(Path(sys.argv[1]), large=1) for _ in range(200)})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    both = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.communicate()[0].strip() == str({hashlib.sha256(b"a" * 100).hexdigest()})
    assert len(list(cache.iterdir())) == 1
