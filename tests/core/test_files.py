"""Writes are whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import writable_folder, write_atomically

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("content", [b"new", "new", lambda path: path.write_text("new")])
def test_replaces_the_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.txt"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_text_is_utf_8(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "naïve ≤")
    assert (tmp_path / "file").read_bytes() == "naïve ≤".encode()


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half of")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    script = """
        import os, pathlib, signal, sys
        from robustbench_gkl.core.files import write_atomically

        def killed(self, target):
            os.kill(os.getpid(), signal.SIGKILL)

        pathlib.Path.replace = killed
        write_atomically(pathlib.Path(sys.argv[1]), "new" * 1000)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"


FULL = """
import pathlib, resource, sys
from robustbench_gkl.core.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as good as a disk that is full; Python ignores the signal
content = b"new" * 1000
try:
    write_atomically(pathlib.Path(sys.argv[1]), (lambda path: path.write_bytes(content)) if sys.argv[2:] else content)
except OSError as error:
    print(error.errno, error.strerror, error.filename, sep="\\n")
"""


@pytest.mark.parametrize("more", [[], ["writer"]])
def test_a_full_disk_names_the_file_and_leaves_it_as_it_was(more: list[str], tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    command = [sys.executable, "-c", FULL, str(path), *more]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [str(errno.EFBIG), os.strerror(errno.EFBIG), str(path)]
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_that_is_not_there_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        write_atomically(tmp_path / "none" / "file", "x")
    assert raised.value.filename == str(tmp_path / "none" / "file")


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "atomic", "x")
    (tmp_path / "ordinary").write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_writable_folder(tmp_path: Path) -> None:
    folder = writable_folder(tmp_path / "a" / "b", what="the results folder")
    assert folder.is_dir()
    assert not list(folder.iterdir())
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"the results folder .* must be a folder that can be written to"):
            writable_folder(path, what="the results folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        writable_folder(tmp_path, what="the results folder")
