"""Results on disk: whole, vouched for, and with one line for what is broken."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_records import make_record, outcome, verdict_frame

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.results.journal import About, Journal
from robustbench_gkl.results.store import ResultStore, verdict_bytes

REPOSITORY = Path(__file__).parents[2]


class TestStore:
    def test_what_is_saved_is_loaded(self, store: ResultStore) -> None:
        broken_by = outcome(stands=3, broken=2, wrong=1)
        record = make_record(store, broken_by)
        assert store.load(record.id) == record
        assert list(store.records()) == [record]
        pd.testing.assert_frame_equal(store.verdicts(record), verdict_frame(broken_by))
        assert store.standing(record).tolist() == [True] * 3 + [False] * 3

    def test_standing_is_in_the_order_of_the_indices(self, store: ResultStore) -> None:
        record = make_record(store, outcome(stands=1, broken=2))
        content = verdict_bytes(verdict_frame(outcome(stands=1, broken=2)).iloc[::-1])
        record = record.model_copy(update={"verdicts_sha256": hashlib.sha256(content).hexdigest()})
        store.save(record, content)
        assert store.standing(record).tolist() == [True, False, False]

    def test_nothing_there(self, store: ResultStore) -> None:
        with pytest.raises(UserError, match="no results folder"):
            list(store.records())
        store.folder.mkdir()
        assert list(store.records()) == []
        assert store.load("none") is None

    def test_records_come_by_file_name(self, store: ResultStore) -> None:
        for model in ("c", "a", "b"):
            make_record(store, outcome(stands=1), model=model)
        assert [record.model.name for record in store.records()] == ["a", "b", "c"]

    @pytest.mark.parametrize("cut", [0, 1, 500, -3])
    def test_a_truncated_record_is_one_line(self, store: ResultStore, cut: int) -> None:
        record = make_record(store, outcome(stands=3))
        path = store.record_path(record.id)
        path.write_bytes(path.read_bytes()[:cut])
        self.assert_broken(store, "EOF while parsing")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"{}", "lacks what a record has"),
            (b"[]", "holds no table"),
            (b"\x89PNG\r\n\x1a\n\x00\x00", "expected value at line 1 column 1"),
            (b"<!DOCTYPE html>" * 100, "expected value at line 1 column 1"),
            (b"[" * 200_000, "recursion"),
            (b'{"worst_case_acc": Infinity}', "expected value at line 1 column 20"),
        ],
    )
    def test_what_is_no_record_is_one_line(self, store: ResultStore, content: bytes, says: str) -> None:
        record = make_record(store, outcome(stands=3))
        store.record_path(record.id).write_bytes(content)
        self.assert_broken(store, says)

    def test_a_record_of_another_version_is_one_line(self, store: ResultStore) -> None:
        record = make_record(store, outcome(stands=3))
        path = store.record_path(record.id)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
        self.assert_broken(store, "has schema version 99, newer than 2; update gklbench")

    def test_a_record_that_was_changed_is_one_line(self, store: ResultStore) -> None:
        record = make_record(store, outcome(stands=3))
        path = store.record_path(record.id)
        path.write_text(path.read_text().replace('"clean_acc": 100.0', '"clean_acc": 99.0'))
        self.assert_broken(store, "was changed after it was written")

    def assert_broken(self, store: ResultStore, says: str) -> None:
        """The others are read, and the broken one is named; a strict store refuses it."""
        whole = make_record(store, outcome(stands=2), model="whole")
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("robustbench_gkl").addHandler(handler)
        assert list(store.records()) == [whole]
        logging.getLogger("robustbench_gkl").removeHandler(handler)
        (message,) = lines
        assert re.search(rf"record .*model-\w+\.json .*({says})", message)
        assert "\n" not in message
        assert len(message) < 500
        with pytest.raises(UserError, match=says):
            list(ResultStore(store.folder, strict=True).records())

    def test_verdicts_must_be_those_of_the_record(self, store: ResultStore) -> None:
        record = make_record(store, outcome(stands=3, broken=1))
        path = store.verdicts_path(record.id)
        path.write_bytes(verdict_bytes(verdict_frame(outcome(stands=4))))
        for read in (store.verdicts, store.standing):
            with pytest.raises(UserError, match="not the file that its record was written with"):
                read(record)
        path.write_bytes(b"")
        with pytest.raises(UserError, match="not the file that its record was written with"):
            store.verdicts(record)
        path.unlink()
        with pytest.raises(UserError, match=r"cannot read the verdicts .* No such file"):
            store.standing(record)

    def test_a_folder_that_cannot_be_written_to(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=r"the results folder .* can be written to"):
            ResultStore(tmp_path / "file").prepare()

    def test_a_kill_while_saving_leaves_the_old_record(self, store: ResultStore) -> None:
        """The verdicts are new, the record that would vouch for them is not: no mixture passes for a result."""
        old = make_record(store, outcome(stands=1, broken=3), created="2026-01-01T00:00:00+00:00")
        script = """
            import os, pathlib, signal, sys
            sys.path.insert(0, "tests")
            from synthetic_records import make_record, outcome
            from robustbench_gkl.results.store import ResultStore

            rename = pathlib.Path.replace

            def killed(self, target):
                if str(target).endswith(".json"):
                    os.kill(os.getpid(), signal.SIGKILL)
                return rename(self, target)

            pathlib.Path.replace = killed
            make_record(ResultStore(pathlib.Path(sys.argv[1])), outcome(stands=4))
        """
        command = [sys.executable, "-c", textwrap.dedent(script), str(store.folder)]
        done = subprocess.run(command, cwd=REPOSITORY, timeout=120, check=False)
        assert done.returncode == -signal.SIGKILL
        assert list(store.records()) == [old]
        with pytest.raises(UserError, match="not the file that its record was written with"):
            store.verdicts(old)


class TestJournal:
    ENTRIES = ({"stage": "pgd", "fallen": [1, 2]}, {"stage": "pgd", "fallen": []}, {"stage": "fab", "fallen": [7]})

    def filled(self, tmp_path: Path) -> Path:
        journal = Journal(tmp_path / "x.jsonl")
        assert journal.entries == []
        for entry in self.ENTRIES:
            journal.append(entry)
        return journal.path

    def test_entries_are_there_again(self, tmp_path: Path) -> None:
        path = self.filled(tmp_path)
        again = Journal(path)
        assert again.entries == list(self.ENTRIES)
        again.append({"stage": "square"})
        assert Journal(path).entries == [*self.ENTRIES, {"stage": "square"}]

    def test_a_torn_last_line_is_dropped(self, tmp_path: Path) -> None:
        """Wherever it was cut, also just before its newline."""
        path = self.filled(tmp_path)
        whole = path.read_bytes()
        start = whole.rindex(b"\n", 0, -1) + 1
        for cut in range(start, len(whole)):
            path.write_bytes(whole[:cut])
            journal = Journal(path)
            assert journal.entries == list(self.ENTRIES[:2])
            journal.append(self.ENTRIES[2])
            assert path.read_bytes() == whole

    def test_nothing_after_a_broken_line_counts(self, tmp_path: Path) -> None:
        path = self.filled(tmp_path)
        first, second, third = path.read_bytes().splitlines(keepends=True)
        for broken in (b"\x00\x00\x00\n", b"7\n", b"null\n", second[:5] + b"\n"):
            path.write_bytes(first + broken + third)
            assert Journal(path).entries == [self.ENTRIES[0]]
            assert path.read_bytes() == first

    def test_delete(self, tmp_path: Path) -> None:
        journal = Journal(self.filled(tmp_path))
        journal.delete()
        journal.delete()
        assert not journal.path.exists()

    @pytest.mark.parametrize("what", ["line", "images"])
    def test_a_full_disk_names_the_file(self, tmp_path: Path, what: str) -> None:
        journal = Journal(tmp_path / "x.jsonl")
        (tmp_path / ("x.jsonl" if what == "line" else "x.images")).symlink_to("/dev/full")
        image = np.zeros((1, 1, 2, 2), dtype=np.float32)
        with pytest.raises(OSError, match="No space left") as caught:
            journal.append({"a": 1}) if what == "line" else journal.append_images([0], image)
        assert Path(caught.value.filename).name == ("x.jsonl" if what == "line" else "x.images")

    def test_images_are_on_the_disk_before_their_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[str] = []
        original = os.fsync

        def note(descriptor: int) -> None:
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            assert (tmp_path / "x.jsonl").exists() == (synced != ["x.images"])
            original(descriptor)

        monkeypatch.setattr(os, "fsync", note)
        journal = Journal(tmp_path / "x.jsonl")
        journal.append_images([0], np.zeros((1, 1, 2, 2), dtype=np.float32))
        journal.append({"fallen": [0]})
        assert synced == ["x.images", "x.jsonl"]

    def test_each_entry_is_synced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[bytes] = []
        path = tmp_path / "x.jsonl"
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.read_bytes()))
        Journal(path).append({"a": 1})
        assert synced == [b'{"a":1}\n']


def about(number: int, **config: Any) -> About:
    return About("1", "hash", overwrite=False, model={"model": "x"}, name=str(number), config=config)


class TestParts:
    def begun(self, tmp_path: Path) -> ResultStore:
        store = ResultStore(tmp_path)
        store.prepare()
        for number, part in enumerate(("0", "1", "2of3.0")):
            store.journal("net-1", part).append(about(number).entry())
        store.journal("net-10", "0").append(about(10).entry())
        store.journal("grid-2", "0").append(about(0, eps_grid=["0", "0.1"]).entry())
        store.journal("grid-1").append({"stages": []})
        return store

    def test_each_process_sees_all_and_appends_to_its_own(self, tmp_path: Path) -> None:
        store = self.begun(tmp_path)
        (tmp_path / "verdicts/net-1.partial.jsonl").write_text('{"old": 1}\n')
        assert list(store.parts("net-1")) == ["0", "1", "2of3.0", ""]
        journal = store.journal("net-1", "1")
        assert [entry["evaluation"]["name"] for entry in journal.own] == ["1"]
        assert len(journal.entries) == 4
        assert store.journal("net-1", "3", shared=False).entries == []
        assert store.under_way() == ["net-1", "net-10"]

    def test_a_part_that_another_process_is_writing_to_is_left_alone(self, tmp_path: Path) -> None:
        store = self.begun(tmp_path)
        path = store.parts("net-1")["0"]
        with path.open("a") as file:
            file.write('{"half')
        content = path.read_bytes()
        assert len(store.joined_journal("net-1").entries) == 3
        assert len(store.journal("net-1", "1").entries) == 3
        assert store.under_way() == ["net-1", "net-10"]
        assert path.read_bytes() == content
        assert len(store.journal("net-1", "0").entries) == 3
        assert path.read_bytes() != content

    def test_images_are_there_again_but_for_a_torn_one(self, tmp_path: Path) -> None:
        store = self.begun(tmp_path)
        images = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
        store.journal("net-1", "1").append_images([7, 3], images)
        path = tmp_path / "verdicts/net-1.partial.1.images"
        path.write_bytes(path.read_bytes()[:-5])
        store.journal("net-1", "1").append_images([5], images[1:])
        store.journal("net-1", "0").append_images([9], images[:1])
        found = {
            int(position): image.tolist()
            for positions, rows in store.joined_journal("net-1").images((3, 2, 2))
            for position, image in zip(positions, rows, strict=True)
        }
        assert found == {7: images[0].tolist(), 5: images[1].tolist(), 9: images[0].tolist()}

    def test_all_parts_are_removed_together(self, tmp_path: Path) -> None:
        store = self.begun(tmp_path)
        store.journal("net-1", "1").append_images([1], np.zeros((1, 1, 1, 1), dtype=np.float32))
        store.joined_journal("net-1").delete()
        assert {path.name for path in (tmp_path / "verdicts").iterdir()} == {
            "net-10.partial.0.jsonl",
            "grid-1.partial.0.jsonl",
            "grid-2.partial.0.jsonl",
        }
