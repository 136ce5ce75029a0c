"""Certificates in evaluations: killed, continued, shared and beside attacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import CommandLine
from small_net import THREAT, SmallNet, TwoLayers, labelled_images, measured
from torch import nn

from robustbench_gkl import certify, evaluate
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation import Evaluation
from robustbench_gkl.evaluation.context import Context
from robustbench_gkl.evaluation.effort import Effort
from robustbench_gkl.results import ResultStore
from robustbench_gkl.results.journal import Journal

ATTACKS = ("pgd:steps=3", "apgd-ce:steps=10", "square:queries=40")
SEARCHED = Effort(complete=True, calls=300)


def outcome(attacks: Any, *, effort: Effort | None, n: int = 40, eps: str = "6/255", **options: Any) -> Evaluation:
    model = TwoLayers()
    images, labels = labelled_images(n, model=model)
    return measured(model, images, labels, THREAT.with_eps(eps), attacks, effort=effort, batch_size=16, **options)


def test_certificates_spare_attacks_and_change_no_verdict() -> None:
    plain, spared = outcome(ATTACKS, effort=None), outcome(ATTACKS, effort=Effort())
    pd.testing.assert_frame_equal(plain.verdicts(), spared.verdicts()[list(plain.verdicts())])
    assert [attack.robust_acc for attack in plain.attacks] == [attack.robust_acc for attack in spared.attacks]
    proved = np.array([spared.is_certified(position) for position in range(40)])
    assert 0 < proved.sum() < spared.standing.sum()
    calls = [
        sum(stage.forwards for attack in found.attacks[1:] for stage in attack.stages) for found in (plain, spared)
    ]
    assert calls[1] < calls[0]


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("attacks", [("certify",), ATTACKS], ids=["certify", "eval"])
def test_killed_at_any_line_it_goes_on_to_the_same_verdicts(attacks: tuple[str, ...], tmp_path: Path) -> None:
    effort = SEARCHED if attacks == ("certify",) else Effort()
    expected = outcome(attacks, effort=effort).verdicts()
    assert expected["certified_by"].notna().any()
    for lines in (1, 2, 4, 7):
        path = tmp_path / f"{lines}.jsonl"
        journal = Journal(path)
        whole, append = journal.append, 0

        def dies(entry: dict[str, Any], whole: Any = whole, lines: int = lines) -> None:
            nonlocal append
            append += 1
            if append > lines:
                raise _KilledError
            whole(entry)

        journal.append = dies  # type: ignore[method-assign]
        with pytest.raises(_KilledError):
            outcome(attacks, effort=effort, journal=journal)
        pd.testing.assert_frame_equal(outcome(attacks, effort=effort, journal=Journal(path)).verdicts(), expected)


def test_stopped_within_a_search_it_goes_on_to_the_same_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two samples it is asked fewer than 40 times whether time is up."""
    expected = outcome("certify", effort=SEARCHED).verdicts()
    answers = count()
    with monkeypatch.context() as patched:
        patched.setattr(Context, "out_of_time", property(lambda self: next(answers) >= 40))
        stopped = outcome("certify", effort=SEARCHED, journal=Journal(tmp_path / "it.jsonl"))
    assert stopped.partial
    again = outcome("certify", effort=SEARCHED, journal=Journal(tmp_path / "it.jsonl"))
    assert not again.partial
    pd.testing.assert_frame_equal(again.verdicts(), expected)


def test_what_bounds_prove_when_they_are_made_again_counts(tmp_path: Path) -> None:
    """Elsewhere rounding may have left a margin just below what counts."""
    path = tmp_path / "it.jsonl"
    expected = outcome("certify", effort=Effort(), journal=Journal(path)).proved
    assert expected
    lines = [json.loads(line) | {"certified": []} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = outcome("certify", effort=Effort(complete=True, calls=1), journal=Journal(path))
    assert again.proved == expected


def test_without_a_limit_it_ends_where_nothing_is_decided(tmp_path: Path) -> None:
    """A margin of zero is neither proved nor broken where the label comes first; it breaks a label that does not."""
    journal = tmp_path / "it.jsonl"
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).requires_grad_(False).eval()
    values = ([[1.0, 0.0], [0.0, 1.0]], [-0.45, -0.45], [[0.0, 0.0], [1.0, 1.0]], [0.0, 0.0])
    for parameter, value in zip(net.parameters(), values, strict=True):
        parameter.copy_(torch.tensor(value))
    bright, dark = torch.full((1, 1, 1, 2), 0.5), torch.zeros(1, 1, 1, 2)
    images, labels = torch.cat([bright, dark, dark]), torch.tensor([1, 0, 0])
    for _ in range(2):  # and nothing is searched again
        written = journal.read_text() if journal.exists() else None
        found = measured(
            net,
            images,
            labels,
            THREAT.with_eps("0.1"),
            "certify",
            effort=Effort(complete=True),
            journal=Journal(journal),
        )
        assert found.broken_by.tolist() == ["certify", None, None]
        assert found.proved in (0, None)
        assert written in (None, journal.read_text())
        assert not found.partial


def test_a_longer_budget_decides_more_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "it.jsonl"
    first = outcome("certify", effort=Effort(), journal=Journal(path))
    more = outcome("certify", effort=Effort(complete=True, calls=20_000), journal=Journal(path))
    for position in range(first.n):
        if first.is_certified(position):
            assert more.is_certified(position)
    decided = [sum(map(found.is_certified, range(found.n))) - found.standing.sum() for found in (first, more)]
    assert decided[1] > decided[0]
    assert "certify" in set(more.broken_by)
    again = outcome("certify", effort=Effort(complete=True, calls=10), journal=Journal(path))
    pd.testing.assert_frame_equal(again.verdicts(), more.verdicts())


def test_nothing_proved_and_it_is_off() -> None:
    said: list[str] = []
    found = outcome(("pgd:steps=1", "apgd-ce:steps=2"), effort=Effort(), eps="0.06", on_note=said.append)
    assert found.certified_by is None
    assert len(said) == 1
    assert "certificates are off: bounds prove none of the first" in said[0]


def test_a_record_is_gone_on_with_in_its_own_order(tmp_path: Path) -> None:
    """Samples may be given by falling index."""
    model = TwoLayers()
    images, labels = labelled_images(24, model=model)
    what = (model, images, labels, THREAT)
    order = range(23, -1, -1)
    for complete in (False, True):
        budget: Any = {"complete": complete, "calls": 300 if complete else None, "index": [*order]}
        kept = certify(*what, **budget, name="it", dataset="noise", results_dir=tmp_path)
    pd.testing.assert_frame_equal(kept.verdicts(), certify(*what, **budget).verdicts())


@pytest.mark.parametrize(
    "limit", [{"seconds": float("nan")}, {"seconds": 0.0}, {"calls": 0}, {"calls": -1}, {"calls": float("nan")}]
)
def test_a_budget_is_above_0(limit: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be"):
        Effort(complete=True, **limit)


def test_budgets_compare() -> None:
    small, large = Effort(complete=True, calls=10), Effort(complete=True, calls=20)
    assert large.goes_beyond({"seconds": 1.0, "calls": 10})
    assert not small.goes_beyond({"seconds": 1.0, "calls": 10})
    assert not Effort().goes_beyond(None)
    assert small.goes_beyond(None)
    assert Effort(complete=True, seconds=3).goes_beyond({"seconds": 2.0, "calls": 10})
    assert not Effort(complete=True, seconds=3).goes_beyond({"seconds": None, "calls": None})
    assert not Effort(complete=True).goes_beyond({"seconds": None, "calls": None})
    both = Effort(complete=True, seconds=3, calls=10)
    assert not both.goes_beyond({"seconds": 3.1, "calls": 5})
    assert not both.goes_beyond({"seconds": 1.0, "calls": 10})
    assert both.goes_beyond({"seconds": 1.0, "calls": 5})


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("attack", ["certify", "pgd:steps=1"])
def test_a_block_without_gradients_changes_nothing(attack: str, block: Callable[[], Any]) -> None:
    model = TwoLayers()
    images, labels = labelled_images(8, model=model)
    calls: Any = np.int64(300)
    effort = Effort(complete=True, calls=calls) if attack == "certify" else None
    expected = evaluate(model, images, labels, THREAT, attack, effort=effort).verdicts()
    with block():
        pd.testing.assert_frame_equal(
            evaluate(model, images + 0, labels, THREAT, attack, effort=effort).verdicts(), expected
        )


def test_a_model_without_bounds_is_refused() -> None:
    model = nn.Sequential(SmallNet(), nn.Sigmoid())
    images, labels = labelled_images(10, model=model)
    with pytest.raises(UserError, match=r"^unsupported: sigmoid"):
        evaluate(model, images, labels, THREAT, "certify")


class TestCommand:
    def test_a_record_and_its_continuation(self, gklbench: CommandLine, trained: Path, store: ResultStore) -> None:
        where = ("--checkpoints-dir", trained, "--results-dir", store.folder, "--device", "cpu")
        base = ("certify", "tiny", "--n", 96, "--eps", "0.08", *where)
        assert gklbench(*base).code == 0
        (first,) = store.records()
        assert first.certified is not None
        assert first.certified.proved > 0
        assert gklbench(*base, "--complete", "--per-sample", "2000calls").code == 0
        (second,) = store.records()
        assert second.id == first.id
        assert second.certified is not None
        assert second.certified.undecided < first.certified.undecided
        assert store.verdicts(second)["certified_by"].notna().sum() == second.certified.proved
        said = gklbench(*base, "--complete", "--per-sample", "1000calls")
        assert "already evaluated" in said.out
        shown = gklbench("leaderboard", "--results-dir", store.folder)
        assert "certified %" in shown.out
        assert f"{100 * second.certified.proved / 96:.2f}" in shown.out
        assert (
            "its robust accuracy on these 96 samples lies between"
            in gklbench("compare", "tiny", second.id, "--results-dir", store.folder).out
        )

        again = gklbench("reproduce", "tiny", "--dry-run", "--results-dir", store.folder, *where[:2])
        assert "gklbench certify tiny-reproduced" in again.out.replace("\\\n", "")
        assert "--complete --per-sample 2000calls" in again.out

    def test_shards_with_certificates_join(self, gklbench: CommandLine, trained: Path, store: ResultStore) -> None:
        where = ("--checkpoints-dir", trained, "--results-dir", store.folder, "--device", "cpu")
        attacks = ("--attack", "pgd:steps=2", "--attack", "apgd-ce:steps=5")
        base = ("eval", "tiny", "--n", 24, "--eps", "1/255", *attacks, "--certify", *where)
        for shard in ("1/2", "2/2"):
            assert gklbench(*base, "--shard", shard).code == 0
        (identity,) = store.under_way()
        assert gklbench("merge", identity, *where).code == 0
        (joined,) = store.records()
        alone = ResultStore(store.folder.parent / "alone")
        assert gklbench(*base[:-4], "--results-dir", alone.folder, "--device", "cpu").code == 0
        (whole,) = alone.records()
        pd.testing.assert_frame_equal(store.verdicts(joined), alone.verdicts(whole))
        assert joined.certified == whole.certified
        assert whole.certified is not None
        assert whole.certified.proved > 0

    def test_a_record_without_certificates(self, gklbench: CommandLine, trained: Path, store: ResultStore) -> None:
        """It is told that they are not made after the fact."""
        where = ("--checkpoints-dir", trained, "--results-dir", store.folder, "--device", "cpu")
        base = ("eval", "tiny", "--n", 16, "--eps", "1/255", "--attack", "pgd:steps=1", *where)
        assert "certificates" not in gklbench(*base).out
        assert "it has no certificates: gklbench certify" in gklbench(*base, "--certify").out
        assert "it has no certificates" not in gklbench(*base, "--certify", "--overwrite").out
        assert "it has no certificates" not in gklbench(*base, "--certify").out

    def test_shards_of_certificates_join(self, gklbench: CommandLine, trained: Path, store: ResultStore) -> None:
        """A merged record claims the effort that all shards have seen; a longer one goes on from it, in shards too."""
        where = ("--checkpoints-dir", trained, "--results-dir", store.folder, "--device", "cpu")
        base = ("certify", "tiny", "--n", 48, "--eps", "0.08")
        alone = ResultStore(store.folder.parent / "alone-certified")
        for calls, shards in (("300calls", ("1/2", "2/2")), ("2000calls", ("2/2", "1/2"))):
            searched = ("--complete", "--per-sample", calls)
            assert gklbench(*base, *searched, "--shard", shards[0], *where).code == 0
            (identity,) = store.under_way()
            early = gklbench("merge", identity, *where)
            assert early.code == 2
            assert f"shard {shards[1]} is not there" in early.err
            assert gklbench(*base, *searched, "--shard", shards[1], *where).code == 0
            assert gklbench("merge", identity, *where).code == 0
            assert gklbench(*base, *searched, *where[:2], "--results-dir", alone.folder, "--device", "cpu").code == 0
            (joined,), (whole,) = store.records(), alone.records()
            pd.testing.assert_frame_equal(store.verdicts(joined), alone.verdicts(whole))
            assert joined.certified == whole.certified
            assert whole.certified is not None
            assert whole.certified.calls_each == int(calls.removesuffix("calls"))
            assert whole.certified.undecided > 0
            assert [check.verdict for check in whole.checks if check.name == "reverified"] == ["PASS"]

    def test_shards_of_unlike_efforts(self, gklbench: CommandLine, trained: Path, store: ResultStore) -> None:
        """One that was killed is to be finished, or given again with less."""
        where = ("--checkpoints-dir", trained, "--results-dir", store.folder, "--device", "cpu")
        base = ("certify", "tiny", "--n", 48, "--eps", "0.08")
        assert gklbench(*base, "--complete", "--per-sample", "900calls", "--shard", "1/2", *where).code == 0
        assert gklbench(*base, "--shard", "2/2", *where).code == 0
        (path,) = store.folder.glob("verdicts/*.1of2.0.jsonl")
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        assert "1 of 48 samples are missing: shard 1/2 is not finished" in gklbench("merge", *where).err
        assert gklbench(*base, "--shard", "1/2", *where).code == 0
        assert gklbench("merge", *where).code == 0
        (joined,) = store.records()
        assert joined.certified is not None
        assert not joined.certified.complete

    def test_nothing_found_is_taken_away(self, gklbench: CommandLine, trained: Path, store: ResultStore) -> None:
        """Not by a longer search, nor by shards from elsewhere that have searched less; neither are images."""
        base = ("certify", "tiny", "--n", 24, "--eps", "0.08", "--checkpoints-dir", trained, "--device", "cpu")
        keep = ("--save-adversarial", "all", "--results-dir", store.folder)
        for calls in ("30calls", "2000calls"):
            assert gklbench(*base, "--complete", "--per-sample", calls, *keep).code == 0
            (before,) = store.records()
            assert store.adversarial_count(before.id) == before.broken > 0
        verdicts, elsewhere = store.verdicts(before), ResultStore(store.folder.parent / "elsewhere")
        for shard in ("1/2", "2/2"):
            assert gklbench(*base, "--shard", shard, "--results-dir", elsewhere.folder).code == 0
        for path in elsewhere.parts(before.id).values():
            path.rename(store.verdicts_path(before.id).parent / path.name)
        assert gklbench("merge", *keep, *base[-4:]).code == 0
        (after,) = store.records()
        assert after.created > before.created
        assert after.certified == before.certified
        pd.testing.assert_frame_equal(store.verdicts(after), verdicts)
        assert store.adversarial_count(after.id) == after.broken
        assert {check.verdict for check in after.checks if check.name == "reverified"} == {"PASS"}

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("certify", "tiny", "--per-sample", "3s"), "--per-sample limits the search of --complete"),
            (("certify", "tiny", "--complete", "--per-sample", "3x"), "--per-sample must be a time above 0"),
            (
                ("certify", "tiny", "--complete", "--per-sample", 5000 * "9" + "calls"),
                "--per-sample must be a time above 0",
            ),
            (("certify", "tiny", "--complete", "--per-sample", ""), "--per-sample must be a time above 0"),
            (("eval", "tiny", "--eps-grid", "0.1,0.2", "--attack", "certify"), "--eps-grid takes an attack"),
            (("certify", "tiny", "--shard", "1/2", "--save-adversarial", "all"), "give it to gklbench merge"),
            (("eval", "tiny", "--certify", "--engine", "reference"), "--certify goes with none of"),
            (("eval", "tiny", "--certify", "--attack", "autoattack:version=rand"), "at random cannot be certified"),
        ],
    )
    def test_what_cannot_be(
        self, arguments: tuple[str, ...], expected: str, gklbench: CommandLine, trained: Path, tmp_path: Path
    ) -> None:
        said = gklbench(*arguments, "--n", 8, "--checkpoints-dir", trained, "--results-dir", tmp_path / "results")
        assert said.code == 2
        assert expected in said.err
        assert len(said.err.strip().splitlines()) == 1
