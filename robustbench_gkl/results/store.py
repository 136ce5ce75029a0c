"""Records and verdicts on disk: ``records/ID.json``, ``verdicts/ID.parquet``, and the journal of one under way."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import writable_folder, write_atomically
from robustbench_gkl.core.lock import locked
from robustbench_gkl.results.corruptions import corruption_files
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import Record
from robustbench_gkl.results.record_files import RecordFiles

if TYPE_CHECKING:
    import pandas as pd

_PART = re.compile(r"(\.(?P<part>[0-9]+(of[0-9]+\.[0-9]+)?))?\.jsonl")
"""How the name of a part ends: a rank, or a shard and a rank; nothing in those that older versions began."""
_LOGGER = logging.getLogger("robustbench_gkl")
VERDICT_COLUMNS = ("index", "label", "clean_pred", "broken_by", "adv_pred", "distance")
CERTIFIED = "certified_by"
"""The column after these, where samples were certified: what proved a sample."""


def verdict_bytes(verdicts: pd.DataFrame) -> bytes:
    """Return ``verdicts`` as parquet."""
    buffer = io.BytesIO()
    verdicts.to_parquet(buffer, index=False)
    return buffer.getvalue()


class ResultStore:
    """The results folder: evaluations with their verdicts and journals, and evaluations on corrupted images.

    Args:
        folder: the results folder.
        strict: refuse broken records instead of passing them by with a warning.
    """

    def __init__(self, folder: Path, *, strict: bool = False) -> None:
        self.folder, self.strict = folder, strict
        self.evaluations = RecordFiles(
            folder / "records", lambda content, what: Record.read(content, what=what), strict=strict
        )
        self.corruptions = corruption_files(folder, strict=strict)

    def record_path(self, record_id: str) -> Path:
        """Return where the record is kept."""
        return self.evaluations.path(record_id)

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

    def locked(
        self, record_id: str, *, shared: bool = False, part: str | None = None, wait: Callable[[str], None]
    ) -> AbstractContextManager[int]:
        """Return the lock of an evaluation's journal, or of one of its parts, as a context.

        Args:
            record_id: of the record that it will become.
            shared: hold it beside the other shards of the evaluation.
            part: the part to lock; None for the whole.
            wait: called with a line, at once and then once a minute, while other processes hold it.
        """
        name = f"{record_id}.partial.lock" if part is None else f"{record_id}.partial.{part}.lock"
        return locked(self.folder / "verdicts" / name, shared=shared, wait=wait)

    def journal(self, record_id: str, part: str = "0", *, shared: bool = True) -> Journal:
        """Open the journal of an evaluation that is under way or about to begin.

        A part of an earlier version may have no name; it is opened by the name "".

        Args:
            record_id: of the record that it will become.
            part: which part this process appends to.
            shared: read the other parts too.
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
        """Return the ids of the records that have parts which can be joined, in order: not those of a grid of radii."""
        found = (self.folder / "verdicts").glob("*.partial*.jsonl")
        named = (path.name.rpartition(".partial") for path in found)
        names = sorted({name for name, _, rest in named if _PART.fullmatch(rest)})
        about_each = {name: self.joined_journal(name).about for name in names}
        return [name for name, about in about_each.items() if about is not None and not about.config.get("eps_grid")]

    def _part(self, record_id: str, part: str) -> Path:
        return self.folder / "verdicts" / ".".join(filter(None, (record_id, "partial", part, "jsonl")))

    def save(self, record: Record, verdicts: bytes) -> None:
        """Write the verdicts (parquet), then the record, which holds their hash."""
        write_atomically(self.verdicts_path(record.id), verdicts)
        self.evaluations.save(record)

    def delete(self, record: Record) -> None:
        """Remove a record, then its verdicts."""
        self.record_path(record.id).unlink(missing_ok=True)
        self.verdicts_path(record.id).unlink(missing_ok=True)

    def save_adversarial(self, record_id: str, content: bytes) -> None:
        """Write adversarial images (an npz) where reports look for them."""
        writable_folder(self.folder / "adversarial", what="the results folder")
        write_atomically(self.adversarial_path(record_id), content)

    def adversarial_path(self, record_id: str) -> Path:
        """Return where the adversarial images of a record are kept."""
        return self.folder / "adversarial" / f"{record_id}.npz"

    def adversarial(self, record_id: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the indices (n,) and adversarial images (n, C, H, W) that are kept; None if no file can be read."""
        kept = self._kept(record_id, "index", "images")
        return None if kept is None else (kept[0], kept[1])

    def adversarial_count(self, record_id: str) -> int | None:
        """Return of how many samples adversarial images are kept; None if there is no readable file of them."""
        kept = self._kept(record_id, "index")
        return None if kept is None else len(kept[0])

    def _kept(self, record_id: str, *names: str) -> list[np.ndarray] | None:
        try:
            with np.load(self.adversarial_path(record_id), allow_pickle=False) as kept:
                return [kept[name] for name in names]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def load(self, record_id: str) -> Record | None:
        """Return a record, or None if there is none of that id.

        Raises:
            UserError: the file is broken.
        """
        return self.evaluations.load(record_id)

    def records(self, *, of: Collection[str] | None = None) -> Iterator[Record]:
        """Yield all records, by file name; those of the models ``of`` if given.

        Raises:
            UserError: the folder does not exist; a file is broken and the store is strict.
        """
        if not self.folder.is_dir():
            raise UserError(f"there is no results folder {self.folder}; evaluate a model first or give --results-dir")
        return self.evaluations.all(of=of)

    def verdicts(self, record: Record) -> pd.DataFrame:
        """Return the verdicts of a record.

        Raises:
            UserError: the file is absent or not the one whose hash the record holds.
        """
        import pandas as pd

        return pd.read_parquet(io.BytesIO(self._checked_verdicts(record)))

    def standing(self, record: Record) -> np.ndarray:
        """Return (n,) bool: which samples of a record stand, in the order of their indices.

        Raises:
            UserError: as :meth:`verdicts`, where the record itself does not say.
        """
        if (known := record.stands()) is not None:
            return known
        # Two columns without pandas: a leaderboard may need this of a thousand records.
        import pyarrow.parquet as pq

        table = pq.read_table(
            io.BytesIO(self._checked_verdicts(record)), columns=["index", "broken_by"], use_threads=False
        )
        standing: np.ndarray = table["broken_by"].is_null().to_numpy()
        n = record.data.n
        if len(standing) != n or int(standing.sum()) != round(record.worst_case_acc * n / 100):
            raise UserError(
                f"{self.verdicts_path(record.id)} has {int(standing.sum())} of {len(standing)} samples standing, its "
                f"record {record.worst_case_acc:.2f} % of {n}; evaluate again with --overwrite"
            )
        return standing[np.argsort(table["index"].to_numpy())]

    def readable(self, records: Iterable[Record]) -> list[Record]:
        """Return the records whose standing samples are known; the others are passed by and named in a warning.

        Raises:
            UserError: there is one, and the store is strict.
        """
        known = []
        for record in records:
            try:
                self.standing(record)
            except UserError as error:
                if self.strict:
                    raise
                _LOGGER.warning("record %s: %s; passed by", record.id, error)
                continue
            known.append(record)
        return known

    def _checked_verdicts(self, record: Record) -> bytes:
        path = self.verdicts_path(record.id)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the verdicts {path}: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != record.verdicts_sha256:
            raise UserError(f"{path} is not the file that its record was written with; evaluate again with --overwrite")
        return content
