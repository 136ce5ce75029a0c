"""Records and verdicts on disk: ``records/ID.json``, ``verdicts/ID.parquet``, and the journal of one under way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from robustbench_gkl.config import one_line
from robustbench_gkl.errors import UserError
from robustbench_gkl.files import writable_folder, write_atomically
from robustbench_gkl.results.record import Record

VERDICT_COLUMNS = ("index", "label", "clean_pred", "broken_by", "adv_pred", "distance")


def verdict_bytes(verdicts: pd.DataFrame) -> bytes:
    """Return ``verdicts`` as parquet."""
    buffer = io.BytesIO()
    verdicts.to_parquet(buffer, index=False)
    return buffer.getvalue()


class Journal:
    """Lines of JSON appended as an evaluation goes on.

    Each is with the operating system before the next step begins, so a kill loses none; they are forced to the disk
    once a second, so a power cut loses no more than that. A line cut short is dropped when the journal is opened again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self._synced = float("-inf")
        whole = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    entry = json.loads(line)
                except ValueError:
                    break
                if not isinstance(entry, dict) or not line.endswith(b"\n"):
                    break
                self.entries.append(entry)
                whole += len(line)
            os.truncate(path, whole)

    def append(self, entry: dict[str, Any]) -> None:
        """Write one entry through to the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, separators=(",", ":")) + "\n")
            file.flush()
            if time.monotonic() - self._synced > 1:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        self.entries.append(entry)

    def delete(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


class ResultStore:
    """The results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record_path(self, record_id: str) -> Path:
        """Return where the record is kept."""
        return self.folder / "records" / f"{record_id}.json"

    def verdicts_path(self, record_id: str) -> Path:
        """Return where the verdicts are kept."""
        return self.folder / "verdicts" / f"{record_id}.parquet"

    def prepare(self) -> None:
        """Make the folders and show that they can be written to.

        Raises:
            UserError: they cannot.
        """
        for name in ("records", "verdicts"):
            writable_folder(self.folder / name, what="the results folder")

    def journal(self, record_id: str) -> Journal:
        """Open the journal of an evaluation that is under way or about to begin."""
        return Journal(self.folder / "verdicts" / f"{record_id}.partial.jsonl")

    def save(self, record: Record, verdicts: bytes) -> None:
        """Write the verdicts (parquet), then the record that vouches for them."""
        write_atomically(self.verdicts_path(record.id), verdicts)
        write_atomically(self.record_path(record.id), record.model_dump_json(indent=1) + "\n")

    def delete(self, record: Record) -> None:
        """Remove a record, then its verdicts."""
        self.record_path(record.id).unlink(missing_ok=True)
        self.verdicts_path(record.id).unlink(missing_ok=True)

    def save_adversarial(self, record_id: str, content: bytes) -> None:
        """Write adversarial images (an npz) where reports look for them."""
        folder = writable_folder(self.folder / "adversarial", what="the results folder")
        write_atomically(folder / f"{record_id}.npz", content)

    def load(self, record_id: str) -> Record | None:
        """Return a record, or None if there is none of that id.

        Raises:
            UserError: the file is broken.
        """
        path = self.record_path(record_id)
        return _read(path) if path.exists() else None

    def records(self) -> Iterator[Record]:
        """Yield all records, by file name.

        Raises:
            UserError: the folder does not exist, or a file is broken.
        """
        if not self.folder.is_dir():
            raise UserError(f"there is no results folder {self.folder}; evaluate a model first or give --results-dir")
        for path in sorted((self.folder / "records").glob("*.json")):
            yield _read(path)

    def verdicts(self, record: Record) -> pd.DataFrame:
        """Return the verdicts of a record.

        Raises:
            UserError: the file is absent or not the one that the record vouches for.
        """
        return pd.read_parquet(io.BytesIO(self._vouched(record)))

    def standing(self, record: Record) -> np.ndarray:
        """Return (n,) bool: which samples of a record stand, in the order of their indices.

        Raises:
            UserError: as :meth:`verdicts`, where the record itself does not say.
        """
        if (known := record.stands()) is not None:
            return known
        # Two columns without pandas: a leaderboard may need this of a thousand records.
        import pyarrow.parquet as pq

        table = pq.read_table(io.BytesIO(self._vouched(record)), columns=["index", "broken_by"], use_threads=False)
        standing: np.ndarray = table["broken_by"].is_null().to_numpy()
        return standing[np.argsort(table["index"].to_numpy())]

    def _vouched(self, record: Record) -> bytes:
        path = self.verdicts_path(record.id)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the verdicts {path}: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != record.verdicts_sha256:
            raise UserError(f"{path} is not the file that its record was written with; evaluate again with --overwrite")
        return content


def _read(path: Path) -> Record:
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise one_line(error, what=f"record {path} is broken") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
