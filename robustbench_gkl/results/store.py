"""Records and verdicts on disk: ``records/ID.json``, ``verdicts/ID.parquet``, and the journal of one under way."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ValidationError

from robustbench_gkl.config import one_line
from robustbench_gkl.errors import UserError
from robustbench_gkl.files import writable_folder, write_atomically
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import Record

_PART = re.compile(r"(\.(?P<part>[0-9]+(of[0-9]+\.[0-9]+)?))?\.jsonl")
"""How the name of a part ends: a rank, or a shard and a rank; nothing in those that older versions began."""
VERDICT_COLUMNS = ("index", "label", "clean_pred", "broken_by", "adv_pred", "distance")


def verdict_bytes(verdicts: pd.DataFrame) -> bytes:
    """Return ``verdicts`` as parquet."""
    buffer = io.BytesIO()
    verdicts.to_parquet(buffer, index=False)
    return buffer.getvalue()


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

    def journal(self, record_id: str, part: str = "0", *, shared: bool = True) -> Journal:
        """Open the journal of an evaluation that is under way or about to begin.

        Args:
            record_id: of the record that it will become.
            part: which part this process appends to.
            shared: look at the other parts too.
        """
        others = self.parts(record_id) if shared else {}
        others.pop(part, None)
        return Journal(self._part(record_id, part), part=part, others=others)

    def joined_journal(self, record_id: str) -> Journal:
        """Open all parts for reading: those who write to them may still be at work."""
        return Journal(self._part(record_id, "joined"), part="joined", others=self.parts(record_id))

    def parts(self, record_id: str) -> dict[str, Path]:
        """Return the parts of a journal that are there, by their names in order."""
        prefix = f"{record_id}.partial"
        found = sorted((self.folder / "verdicts").glob(f"{prefix}*.jsonl"))
        named = ((_PART.fullmatch(path.name.removeprefix(prefix)), path) for path in found)
        return {match["part"] or "": path for match, path in named if match is not None}

    def under_way(self) -> list[str]:
        """Return the ids of the records that have parts which say what they are about, in order."""
        found = (self.folder / "verdicts").glob("*.partial*.jsonl")
        named = (path.name.rpartition(".partial") for path in found)
        names = sorted({name for name, _, rest in named if _PART.fullmatch(rest)})
        return [name for name in names if self.joined_journal(name).about is not None]

    def _part(self, record_id: str, part: str) -> Path:
        return self.folder / "verdicts" / f"{record_id}.partial.{part}.jsonl"

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
