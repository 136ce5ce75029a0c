"""The journal of an evaluation under way: its results so far, which no interruption loses."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_gkl.config.names import WeightsName
from robustbench_gkl.core.files import naming


@dataclass(frozen=True)
class About:
    """The first line of each part of a journal: what the evaluation is about, and who makes it.

    Attributes:
        gklbench: the version that writes it; another one may search in another way.
        protocol_sha256: hash of the settings of all stages.
        overwrite: whether it is made again although there was a record.
        run: the folder of the run.
        name: the model's name in the record to be.
        weights: which of the run's weights.
        config: the resolved ``EvalConfig`` as plain data.
        form: the version of the lines that follow.
    """

    gklbench: str
    protocol_sha256: str
    overwrite: bool
    run: str
    name: str
    weights: WeightsName
    config: dict[str, Any]
    form: int = 2

    def entry(self) -> dict[str, Any]:
        """Return the line."""
        return {"evaluation": asdict(self)}

    @classmethod
    def read(cls, values: Any) -> About | None:
        """Return the content of a line; None if an earlier version wrote it."""
        try:
            return cls(**values)
        except TypeError:
            return None

    def goes_on_as(self, other: About) -> bool:
        """Return whether ``other`` may go on with what this one has begun."""
        same = all(getattr(self, key) == getattr(other, key) for key in ("gklbench", "protocol_sha256", "form"))
        return same and (self.overwrite or not other.overwrite)


class Journal:
    """Lines of JSON appended as an evaluation goes on, and the adversarial images beside them.

    Each line is with the operating system before the next step begins, so a kill loses none; they are forced to the
    disk once a second, so a power cut loses no more than that. A line cut short is dropped when the journal is opened
    again.

    Each process appends to a part of its own, and reads those of others.

    Args:
        path: of the own part.
        part: its name.
        others: the paths of other parts by their names; they are left as they are.
    """

    def __init__(self, path: Path, *, part: str = "0", others: Mapping[str, Path] | None = None) -> None:
        self.path, self.part = path, part
        self.others = dict(others or {})
        self.own, whole = _read(path)
        if path.exists():
            os.truncate(path, whole)
        self._foreign = [entry for other in self.others.values() for entry in _read(other)[0]]
        self._synced = float("-inf")
        self._images_wait = False

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The lines of all parts."""
        return self._foreign + self.own

    @property
    def about(self) -> About | None:
        """What the evaluation is about; None if no line has it."""
        found = (About.read(entry["evaluation"]) for entry in self.entries if "evaluation" in entry)
        return next((about for about in found if about is not None), None)

    @property
    def parts(self) -> list[str]:
        """The names of the parts that hold something."""
        return [*self.others, self.part] if self.own else list(self.others)

    def append(self, entry: dict[str, Any]) -> None:
        """Write one entry through to the disk."""
        line = json.dumps(entry, separators=(",", ":")) + "\n"
        if self._images_wait:
            with naming(_images(self.path)), _images(self.path).open("rb+") as file:
                os.fsync(file.fileno())
            self._images_wait = False
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            if time.monotonic() - self._synced > 1:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        self.own.append(entry)

    def append_images(self, positions: Sequence[int], images: np.ndarray) -> None:
        """Keep adversarial images (B, ...) float32 of the samples at ``positions``; the line about them comes after.

        The next line is written only when they are on the disk, so that no power cut leaves it without them.
        """
        path = _images(self.path)
        record = _record(images.shape[1:])
        rows = np.empty(len(positions), dtype=record)
        rows["position"], rows["image"] = positions, images
        with naming(path), path.open("ab") as file:
            if torn := file.tell() % record.itemsize:
                file.truncate(file.tell() - torn)
            file.write(rows.tobytes())
        self._images_wait = True

    def images(self, shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the positions (n,) and images (n, *shape) that each part holds."""
        record = _record(shape)
        for path in map(_images, [*self.others.values(), self.path]):
            if path.exists() and (count := path.stat().st_size // record.itemsize):
                rows = np.memmap(path, dtype=record, mode="r", shape=count)
                yield rows["position"], rows["image"]

    def delete(self) -> None:
        """Remove the files of all parts."""
        for path in (*self.others.values(), self.path):
            delete_part(path)


def about_part(path: Path) -> tuple[bool, About | None]:
    """Return whether a part has lines, and what its evaluation is about; the file is left as it is."""
    entries, _ = _read(path)
    found = (About.read(entry["evaluation"]) for entry in entries if "evaluation" in entry)
    return bool(entries), next((about for about in found if about is not None), None)


def delete_part(path: Path) -> None:
    """Remove a part and its images."""
    _images(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _record(shape: tuple[int, ...]) -> np.dtype[np.void]:
    return np.dtype([("position", "<i8"), ("image", "<f4", shape)])


def _images(path: Path) -> Path:
    return path.with_suffix(".images")


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the entries of a part up to the first that is broken, and how many bytes they take."""
    entries: list[dict[str, Any]] = []
    whole = 0
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    for line in content.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not isinstance(entry, dict) or not line.endswith(b"\n"):
            break
        entries.append(entry)
        whole += len(line)
    return entries, whole
