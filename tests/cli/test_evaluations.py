"""What an evaluation does beside others of the same thing, and what its options promise."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import CommandLine, process
from safetensors.numpy import load_file, save_file
from synthetic_records import without_second_version

from robustbench_gkl.evaluation.journaling import unfit_parts
from robustbench_gkl.results import Record, ResultStore
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import first_record_id, pack_standing, unpack_standing
from robustbench_gkl.results.store import verdict_bytes

EVAL = ("eval", "tiny", "--n", 48, "--attack", "pgd:steps=4", "--device", "cpu")
SLOW = ("eval", "tiny", "--n", 64, "--attack", "pgd:steps=10", "--attack", "square:queries=3000", "--device", "cpu")


@pytest.fixture
def workplace(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trained run in it, which is the current one."""
    shutil.copytree(trained, tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_in(folder: str = "results") -> Record:
    (record,) = ResultStore(Path(folder)).records()
    return record


def left_over(folder: str = "results") -> list[str]:
    """Return the names of journals and locks."""
    return sorted(path.name for path in Path(folder, "verdicts").iterdir() if path.suffix != ".parquet")


def assert_real_images(identity: str) -> None:
    """The saved adversarial images are none of the originals."""
    with np.load(Path("results/adversarial") / f"{identity}.npz") as saved:
        original = saved["original"].astype(np.float32) / 255
        assert len(saved["images"])
        assert np.abs(saved["images"] - original).reshape(len(original), -1).max(1).min() > 0


class TestTwoAtOnce:
    def test_the_second_waits_and_uses_what_is_there(self, workplace: Path) -> None:
        both = [process(*SLOW, "--save-adversarial", 64, cwd=workplace) for _ in range(2)]
        said = [one.communicate(timeout=300) for one in both]
        assert [one.returncode for one in both] == [0, 0], said
        assert sum("already evaluated" in out for out, _ in said) == 1
        assert sum("waiting for process" in out for out, _ in said) <= 1
        assert left_over() == []
        assert_real_images(record_in().id)

    @pytest.mark.slow
    def test_kills_lose_nothing_and_mix_nothing(self, workplace: Path) -> None:
        process(*SLOW, "--results-dir", "whole", cwd=workplace).communicate(timeout=300)
        rng = np.random.default_rng(0)
        for delay in (3.0, *rng.uniform(2.5, 6.0, 2)):
            first, second = (process(*SLOW, cwd=workplace) for _ in range(2))
            try:
                first.wait(timeout=float(delay))
            except Exception:
                first.send_signal(signal.SIGKILL)
            first.communicate()
            out, err = second.communicate(timeout=300)
            assert second.returncode == 0, out + err
            expected, found = record_in("whole"), record_in()
            stores = (ResultStore(Path("whole")), ResultStore(Path("results")))
            verdicts = [store.verdicts(record) for store, record in zip(stores, (expected, found), strict=True)]
            assert verdicts[0].equals(verdicts[1])
            assert found.standing == expected.standing
            assert left_over() == []
            shutil.rmtree("results")

    def test_a_shard_given_twice_is_made_once(self, workplace: Path) -> None:
        both = [process(*SLOW, "--shard", "1/2", cwd=workplace) for _ in range(2)]
        said = [one.communicate(timeout=300) for one in both]
        assert [one.returncode for one in both] == [0, 0], said
        (part,) = [name for name in left_over() if name.endswith(".jsonl")]
        entries = Journal(Path("results/verdicts") / part).own
        positions = [position for entry in entries for position in entry.get("fallen", ())]
        assert len(positions) == len(set(positions))


class TestOverwrite:
    def test_it_begins_anew_and_goes_on_with_itself(self, workplace: Path, gklbench: CommandLine) -> None:
        assert gklbench(*EVAL, "--time-limit", "0.000001s").code == 0
        partial = record_in()
        (path,) = [Path("results/verdicts") / name for name in left_over()]
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        # A plain evaluation goes on with what is there, right or wrong ...
        lie: dict[str, object] = {
            "stage": "pgd-4/pgd",
            "done": [],
            "fallen": [0],
            "adv_pred": [3],
            "distance": [0.0],
            "part": "0",
        }
        lie |= dict.fromkeys(("rejected", "candidates", "unmoved", "nonfinite", "forwards", "backwards", "seconds"), 0)
        path.write_text("".join(json.dumps(entry) + "\n" for entry in (*entries, lie)))
        kept = path.read_text()
        # ... and --overwrite does not.
        assert gklbench(*EVAL, "--overwrite").code == 0
        verdicts = ResultStore(Path("results")).verdicts(record_in())
        assert verdicts["distance"][0] != 0.0
        path.write_text(kept.replace('"overwrite": false', '"overwrite": true'))
        assert gklbench(*EVAL, "--overwrite").code == 0
        assert ResultStore(Path("results")).verdicts(record_in())["distance"][0] == 0.0
        assert record_in().id == partial.id

    def test_what_another_version_has_left_is_not_mixed_in(self, workplace: Path, gklbench: CommandLine) -> None:
        assert gklbench(*EVAL, "--time-limit", "0.000001s").code == 0
        (path,) = [Path("results/verdicts") / name for name in left_over()]
        for change in ('"gklbench":"0.0.1"', '"form":1'):
            key = change.split(":")[0]
            lines = path.read_text().splitlines()
            entry = json.loads(lines[0])
            entry["evaluation"] |= json.loads(f"{{{change}}}")
            assert key.strip('"') in entry["evaluation"]
            path.write_text("\n".join([json.dumps(entry), '{"clean":[[0,9]]}', *lines[1:], ""]))
            result = gklbench(*EVAL, "--time-limit", "0.000001s")
            assert result.code == 0, result.err
            assert "does not fit this one and is dropped" in result.err
            assert '{"clean":[[0,9]]}' not in path.read_text()

    def test_a_broken_record_is_made_again(self, workplace: Path, gklbench: CommandLine) -> None:
        assert gklbench(*EVAL).code == 0
        path = ResultStore(Path("results")).record_path(record_in().id)
        path.write_bytes(path.read_bytes()[:100])
        result = gklbench(*EVAL)
        assert result.code == 0
        assert "it is made again" in result.err
        assert record_in().worst_case_acc >= 0


def one_more_broken(store: ResultStore, record: Record, *, by: str) -> pd.Series[str]:
    """Replace a record by a partial one in which one more sample is broken, by a stage of the first attack.

    Returns:
        What broke each sample; the attacks do not break that one again.
    """
    verdicts = store.verdicts(record)
    row = int(np.flatnonzero(verdicts["broken_by"].isna())[0])
    verdicts.loc[row, "broken_by"], verdicts.loc[row, "adv_pred"], verdicts.loc[row, "distance"] = by, 0, 0.05
    content = verdict_bytes(verdicts)
    attacks = []
    for attack in record.attacks:
        standing = unpack_standing(attack.standing, len(verdicts))
        standing[row] = False
        accuracy = 100 * float(standing.mean())
        attacks.append(attack.model_copy(update={"standing": pack_standing(standing), "robust_acc": accuracy}))
    changes = {"standing": attacks[-1].standing, "worst_case_acc": attacks[-1].robust_acc, "attacks": tuple(attacks)}
    changes |= {"partial": True, "verdicts_sha256": hashlib.sha256(content).hexdigest()}
    store.save(record.model_copy(update=changes).sealed(), content)
    return verdicts["broken_by"]


class TestEvidence:
    def test_a_partial_record_s_evidence_is_kept_when_its_journal_is_gone(
        self, workplace: Path, gklbench: CommandLine
    ) -> None:
        assert gklbench(*EVAL, "--attack", "square:queries=50").code == 0
        whole = record_in()
        store = ResultStore(Path("results"))
        broken = store.verdicts(whole)["broken_by"]
        assert broken.isin(["pgd-4"]).any()
        store.evaluations.save(whole.model_copy(update={"partial": True}).sealed())
        result = gklbench(*EVAL, "--attack", "square:queries=50", "--time-limit", "0.000001s")
        assert result.code == 0, result.err
        again = record_in()
        assert again.partial
        assert again.worst_case_acc == whole.worst_case_acc
        assert store.verdicts(again)["broken_by"].equals(broken)
        assert gklbench(*EVAL, "--attack", "square:queries=50").code == 0
        assert store.verdicts(record_in())["broken_by"].equals(broken)

    @pytest.mark.parametrize("how", ["shards", "killed"])
    def test_it_is_kept_by_shards_and_after_a_kill(self, workplace: Path, gklbench: CommandLine, how: str) -> None:
        command = ("eval", "tiny", "--n", 48, "--attack", "autoattack:version=quick", "--attack", "pgd:steps=4")
        assert gklbench(*command).code == 0
        whole = record_in()
        store = ResultStore(Path("results"))
        assert store.verdicts(whole)["broken_by"].isin(["apgd-ce"]).any()
        broken = one_more_broken(store, whole, by="apgd-ce")
        if how == "shards":
            for number in (1, 2):
                assert gklbench(*command, "--shard", f"{number}/2", "--time-limit", "0.000001s").code == 0
                assert gklbench(*command, "--shard", f"{number}/2").code == 0
            assert gklbench("merge").code == 0
        else:
            assert gklbench(*command, "--time-limit", "0.000001s").code == 0
            (path,) = [Path("results/verdicts") / name for name in left_over()]
            lines = path.read_text().splitlines()
            path.write_text("\n".join(lines[:2]) + "\n")
            assert gklbench(*command).code == 0
        again = record_in()
        assert not again.partial
        assert store.verdicts(again)["broken_by"].equals(broken)

    def test_a_complete_record_is_not_replaced_by_a_partial_one(self, workplace: Path, gklbench: CommandLine) -> None:
        assert gklbench(*EVAL).code == 0
        whole = record_in()
        result = gklbench(*EVAL, "--overwrite", "--time-limit", "0.000001s", "--save-adversarial", 4)
        assert result.code == 0
        assert not Path("results/adversarial").exists()
        assert "It replaces no complete record" in result.out
        assert record_in() == whole
        assert gklbench(*EVAL, "--overwrite").code == 0
        assert record_in().created > whole.created
        assert left_over() == []

    def test_images_that_were_not_kept_are_not_promised(self, workplace: Path, gklbench: CommandLine) -> None:
        assert gklbench(*EVAL).code == 0
        result = gklbench(*EVAL, "--save-adversarial", 4)
        assert result.code == 2
        assert "give --overwrite to make them again" in result.err
        assert gklbench(*EVAL, "--save-adversarial", 4, "--overwrite").code == 0
        assert gklbench(*EVAL, "--save-adversarial", 4).code == 0


class TestParts:
    def shards(self, gklbench: CommandLine) -> str:
        for number in (1, 2):
            assert gklbench(*EVAL, "--shard", f"{number}/2").code == 0
        return left_over()[0].partition(".partial")[0]

    def test_parts_of_other_versions_are_not_joined(self, workplace: Path, gklbench: CommandLine) -> None:
        identity = self.shards(gklbench)
        path = Path("results/verdicts") / f"{identity}.partial.2of2.0.jsonl"
        whole = path.read_text()
        for change in ({"gklbench": "0.0.9"}, {"form": 7}, {"protocol_sha256": "x"}):
            first, *rest = whole.splitlines()
            entry = json.loads(first)
            entry["evaluation"] |= change
            path.write_text("\n".join([json.dumps(entry), *rest, ""]))
            result = gklbench("merge", identity)
            assert result.code == 2
            assert "were left by another version" in result.err
        path.write_text(whole)
        assert gklbench("merge", identity).code == 0

    def test_two_merges_at_once(self, workplace: Path, gklbench: CommandLine) -> None:
        identity = self.shards(gklbench)
        both = [process("merge", identity, cwd=workplace) for _ in range(2)]
        said = [one.communicate(timeout=120) for one in both]
        codes = sorted(one.returncode for one in both)
        assert codes == [0, 0] or (codes == [0, 2] and any("there are no parts" in err for _, err in said)), said
        assert record_in().id == identity

    def test_a_part_of_another_process_is_only_looked_at(self, workplace: Path, gklbench: CommandLine) -> None:
        identity = self.shards(gklbench)
        store = ResultStore(Path("results"))
        torn, fresh = (Path(f"results/verdicts/{identity}.partial.{number}of4.0.jsonl") for number in (3, 4))
        lines = store.parts(identity)["1of2.0"].read_text()
        torn.write_text(lines + '{"half')
        fresh.touch()
        this = store.joined_journal(identity).about
        assert this is not None
        assert unfit_parts(identity, this, store) == []
        assert torn.read_text() == lines + '{"half'
        assert fresh.exists()


def test_an_attack_that_proposes_nothing_fails_its_check(workplace: Path, gklbench: CommandLine) -> None:
    attack = "torchattacks.PGD:steps=0,random_start=false"
    result = gklbench("eval", "tiny", "--attack", attack, "--n", 16, "--norm", "linf", "--eps", "0.1")
    assert result.code == 0, result.err
    (check,) = [check for check in record_in().checks if check.name == "candidates-in-ball"]
    assert check.verdict == "FAIL"
    assert "proposed nothing but the originals" in check.figure
    assert "candidates-in-ball" in gklbench("leaderboard").out


class TestFailUnder:
    def test_what_is_not_ranked_does_not_pass(self, workplace: Path, gklbench: CommandLine) -> None:
        result = gklbench(*EVAL, "--time-limit", "0.000001s", "--fail-under", 1)
        assert result.code == 1
        assert result.err.startswith("Error: the record is partial")
        assert gklbench(*EVAL, "--fail-under", 1).code == 0
        assert gklbench(*EVAL, "--fail-under", 100).code == 1
        config = json.loads(Path("checkpoints/tiny/config.json").read_text())
        Path("checkpoints/dead").mkdir()
        Path("checkpoints/dead/config.json").write_text(json.dumps(config | {"name": "dead"}))
        weights = load_file("checkpoints/tiny/last.safetensors")
        save_file({key: 0 * value for key, value in weights.items()}, "checkpoints/dead/last.safetensors")
        result = gklbench("eval", "dead", *EVAL[2:], "--fail-under", 1)
        assert result.code == 1
        assert "checks FAIL (" in result.err


class TestClean:
    def test_clean_accuracy_alone(self, workplace: Path, gklbench: CommandLine) -> None:
        result = gklbench("eval", "tiny", "--attack", "none", "--n", 48)
        assert result.code == 0, result.err
        record = record_in()
        assert str(record.threat) == "clean"
        assert record.worst_case_acc == record.clean_acc
        assert [attack.spec for attack in record.attacks] == ["none"]
        assert record.attacks[0].stages == ()
        assert "tiny" in gklbench("leaderboard").out
        assert gklbench("reproduce", "tiny", "--dry-run").out.count("--attack none") == 1

    @pytest.mark.parametrize("more", [("--eps", "0.1"), ("--norm", "l2"), ("--attack", "fgsm")])
    def test_what_would_have_no_effect_is_refused(
        self, workplace: Path, gklbench: CommandLine, more: tuple[str, str]
    ) -> None:
        result = gklbench("eval", "tiny", "--attack", "none", "--n", 8, *more)
        assert result.code == 2
        assert result.err.count("\n") == 1


class TestNames:
    def test_a_run_s_own_folder_has_its_name(
        self, workplace: Path, gklbench: CommandLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(workplace / "checkpoints/tiny")
        assert gklbench("eval", ".", *EVAL[2:], "--results-dir", workplace / "results").code == 0
        assert record_in(str(workplace / "results")).model.name == "tiny"

    def test_another_name(self, workplace: Path, gklbench: CommandLine) -> None:
        assert gklbench(*EVAL, "--name", "other").code == 0
        record = record_in()
        assert record.model.name == "other"
        assert record.id.startswith("other-")
        assert gklbench(*EVAL, "--name", "../x").code == 2
        assert gklbench(*EVAL, "--name", "x" * 224).code == 2
        assert gklbench(*EVAL, "--name", "x" * 200).code == 0


class TestReproduce:
    def test_an_imported_model_is_evaluated_under_another_name(self, workplace: Path, gklbench: CommandLine) -> None:
        model = load_file("checkpoints/tiny/last.safetensors")
        torch.save({key: torch.from_numpy(value) for key, value in model.items()}, "net.pt")
        assert gklbench("import", "net.pt", "--model", "tiny-cnn", "--dataset", "digits", "--name", "theirs").code == 0
        assert gklbench("eval", "theirs", *EVAL[2:], "--eps", "0.1").code == 0
        before = record_in()
        result = gklbench("reproduce", "theirs")
        assert result.code == 0, result.err
        assert ResultStore(Path("results")).load(before.id) == before
        names = {record.model.name for record in ResultStore(Path("results")).records()}
        assert names == {"theirs", "theirs-reproduced"}
        assert f"theirs-reproduced: {before.worst_case_acc:.2f} %, before {before.worst_case_acc:.2f} %" in result.out

        assert gklbench("eval", "theirs", *EVAL[2:], "--eps", "0.1", "--name", "paper").code == 0
        said = gklbench("reproduce", "paper", "--dry-run")
        assert said.code == 0, said.err
        assert "$ gklbench eval theirs" in said.out
        assert "--name paper-reproduced" in said.out

    def test_an_attack_that_is_not_there_stops_nothing_else(self, workplace: Path, gklbench: CommandLine) -> None:
        assert gklbench(*EVAL).code == 0
        record = record_in()
        assert record.config is not None
        config = record.config.model_copy(update={"attacks": ("gone:steps=3",)})
        other = record.model_copy(update={"id": "tiny-000000000000", "config": config})
        ResultStore(Path("results")).evaluations.save(other.sealed())
        text = 'models = ["tiny"]\n[[eval]]\nattacks = ["pgd:steps=4"]\nn = 48\n'
        Path("suite.toml").write_text(text)
        result = gklbench("suite", "suite.toml", "--dry-run")
        assert result.code == 0, result.err
        assert "1 cells: 1 done" in result.out
        result = gklbench("reproduce", "tiny-000000000000", "--dry-run")
        assert result.code == 2
        assert "cannot be made again: unknown attack 'gone'" in result.err

    def test_all_attacks_of_a_partial_record_are_asked_for(self, workplace: Path, gklbench: CommandLine) -> None:
        assert gklbench(*EVAL, "--attack", "apgd:objective=margin", "--time-limit", "0.000001s").code == 0
        said = gklbench("reproduce", "tiny", "--dry-run").out
        assert "--attack pgd:steps=4" in said
        assert "--attack apgd-margin" in said

    def test_a_record_of_version_1_whose_attack_is_not_known(self, workplace: Path, gklbench: CommandLine) -> None:
        assert gklbench(*EVAL).code == 0
        path = ResultStore(Path("results")).record_path(record_in().id)
        values = without_second_version(json.loads(path.read_text()))
        values["protocol"][0]["stages"][0]["attack"] = "gone"
        path.write_text(json.dumps(values))
        result = gklbench("reproduce", "tiny", "--dry-run")
        assert result.code == 2
        assert "is of version 1, which does not tell all options of pgd-4" in result.err


def test_an_equal_evaluation_of_version_1_counts_as_done(workplace: Path, gklbench: CommandLine) -> None:
    assert gklbench(*EVAL).code == 0
    record = record_in()
    values = without_second_version(json.loads(record.text()))
    values["id"] = first_record_id(
        name="tiny",
        weights_sha256=record.model.weights_sha256,
        data_sha256=record.data.sha256,
        threat="linf 0.1",
        protocol=record.protocol,
        engine="native",
        seed=0,
    )
    store = ResultStore(Path("results"))
    store.delete(record)
    Path(f"results/records/{values['id']}.json").write_text(json.dumps(values))
    shutil.rmtree("results/verdicts")
    assert "already evaluated" in gklbench(*EVAL).out
    assert gklbench(*EVAL, "--overwrite").code == 0
    assert record_in().schema_version == 2
