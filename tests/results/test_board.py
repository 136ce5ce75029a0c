"""Boards: evidence, identity, tiers and ranks, with the defects that each rule mends."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import CommandLine
from synthetic_records import BrokenBy, attack_of, make_record, outcome

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.board import Ranking, entries_of
from robustbench_gkl.results.record import Record, pack_standing

Add = Callable[..., Record]
GRID = (Fraction(1, 20), Fraction(1, 10))


@pytest.fixture
def add(store: ResultStore) -> Add:
    """Add the record of a model of which so many of 100 samples stand; the dates rise."""
    day = iter(range(1, 1000))

    def add_record(model: str, stands: int = 50, broken_by: BrokenBy | None = None, **options: Any) -> Record:
        options = {"created": f"2026-01-01T{next(day):06}"} | options
        return make_record(store, broken_by or outcome(stands=stands, broken=100 - stands), model=model, **options)

    return add_record


def rows(store: ResultStore, **options: Any) -> dict[str, tuple[Any, ...]]:
    """Return rank, tier and robust accuracy by model."""
    frame = leaderboard(store.folder, **options)
    ranks = [None if pd.isna(rank) else int(rank) for rank in frame["rank"]]
    found = zip(frame["model"], zip(ranks, frame["tier"], frame["worst_case_acc"], strict=True), strict=True)
    return dict(found)


def rewritten(store: ResultStore, record: Record, **changes: Any) -> Record:
    """Replace a record by one that differs."""
    new = record.model_copy(update=changes).sealed()
    store.record_path(record.id).write_text(new.text())
    return new


class TestEvidence:
    def test_the_worst_case_is_pointwise(self, store: ResultStore, add: Add) -> None:
        """Each attack leaves half; together they leave a quarter."""
        add("a", broken_by=[None, None, "pgd-20", "pgd-20"])
        add("a", broken_by=[None, "autoattack", None, "autoattack"], attacks=("autoattack",))
        (row,) = leaderboard(store.folder).to_dict("records")
        assert (row["pgd-20"], row["autoattack"], row["worst_case_acc"]) == (50.0, 50.0, 25.0)
        assert row["eval_seconds"] == 3.0

    def test_a_weak_attack_does_not_make_the_worst_model_first(self, store: ResultStore, add: Add) -> None:
        for model, stands in (("a", 80), ("b", 60), ("c", 20)):
            add(model, stands, attacks=("autoattack",))
        before = rows(store)
        add("c", 90, attacks=("fgsm",))
        assert rows(store) == before
        assert before["c"] == (3, "autoattack", 20.0)

    def test_a_partial_record_takes_no_rank(self, store: ResultStore, add: Add) -> None:
        for model, stands in (("a", 80), ("b", 60)):
            add(model, stands, attacks=("autoattack",))
        add("a", 70, partial=True)
        assert rows(store) == {"a": (1, "autoattack", 70.0), "b": (2, "autoattack", 60.0)}

    def test_a_later_seed_does_not_replace_an_earlier_one(self, store: ResultStore, add: Add) -> None:
        add("a", 40, seed=0)
        add("a", 55, seed=1)
        assert rows(store) == {"a": (1, "gradient", 40.0)}

    def test_engines_seeds_and_radius_grids_are_all_evidence(self, store: ResultStore, add: Add) -> None:
        broken = [[None] * 6 + ["pgd-20"] * k + [None] * (4 - k) for k in range(4)]
        add("a", broken_by=broken[0])
        add("a", broken_by=broken[1], engine="reference")
        add("a", broken_by=broken[2], seed=5, partial=True)
        record = add("a", broken_by=broken[3], seed=6)
        assert record.config is not None
        rewritten(store, record, config=record.config.model_copy(update={"eps_grid": GRID}))
        assert rows(store) == {"a": (1, "gradient", 70.0)}

    def test_a_failing_attack_check_breaks_samples_and_completes_nothing(self, store: ResultStore, add: Add) -> None:
        add("a", 60)
        add("a", 50, attacks=("autoattack",), verdict="FAIL", scope="attack", check="candidates-in-ball")
        assert rows(store) == {"a": (1, "gradient", 50.0)}
        (row,) = leaderboard(store.folder).to_dict("records")
        assert row["checks"] == "PASS"  # those that the rank rests on
        assert "autoattack" not in row

    @pytest.mark.parametrize("difference", [{"weights": "retrained"}, {"eps": "0.2"}, {"samples": "others"}])
    def test_other_models_threats_and_samples_stay_apart(
        self, store: ResultStore, add: Add, difference: dict[str, Any]
    ) -> None:
        add("a", 50)
        add("a", 40, attacks=("autoattack",), **difference)
        assert sorted(leaderboard(store.folder, all_models=True)["worst_case_acc"]) == [40.0, 50.0]

    @pytest.mark.parametrize("content", [b"other", None])
    def test_a_record_without_its_verdicts_blocks_no_other(
        self, store: ResultStore, add: Add, content: bytes | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        add("a", 60)
        broken = add("b")
        store.verdicts_path(broken.id).unlink()
        if content is not None:
            store.verdicts_path(broken.id).write_bytes(content)
        assert rows(store) == {"a": (1, "gradient", 60.0)}
        assert broken.id in caplog.text
        with pytest.raises(UserError, match=r"not the file that its record was|cannot read the verdicts"):
            leaderboard(store.folder, strict=True)

    def test_verdicts_of_another_number_of_samples_are_no_evidence(self, store: ResultStore, add: Add) -> None:
        add("a", 60)
        record = add("a", 50, seed=1)
        data = record.data.model_copy(update={"n": 90, "index_ranges": ((0, 90),)})
        rewritten(store, record, data=data)
        assert rows(store) == {"a": (1, "gradient", 60.0)}


class TestIdentity:
    def test_two_names_of_one_model_are_one_row_under_the_first(self, store: ResultStore, add: Add) -> None:
        add("second", 40, weights_sha256="w", attacks=("autoattack",), created="2026-02-02")
        add("first", 60, weights_sha256="w", created="2026-02-01")
        assert rows(store) == {"first": (1, "autoattack", 40.0)}

    def test_superseded_models_are_hidden_unless_asked_for(self, store: ResultStore, add: Add) -> None:
        add("a", 80, weights="old", attacks=("autoattack",))
        add("b", 50, attacks=("autoattack",))
        add("a", 30, weights="new", eps="8/255")
        board = leaderboard(store.folder, eps="0.1")
        assert board["model"].tolist() == ["b"]
        assert board["rank"].tolist() == [1]
        shown = leaderboard(store.folder, eps="0.1", all_models=True)
        assert list(zip(shown["model"], shown["rank"], strict=True)) == [("a", 1), ("b", 2)]

    def test_a_model_that_has_a_current_name_is_current_and_listed_by_it(self, store: ResultStore, add: Add) -> None:
        add("a", 80, weights_sha256="w")
        add("kept", 80, weights_sha256="w", seed=1)
        add("a", 30, weights_sha256="new")
        assert rows(store) == {"kept": (1, "gradient", 80.0), "a": (2, "gradient", 30.0)}

    def test_best_and_last_weights_do_not_supersede_each_other(self, store: ResultStore, add: Add) -> None:
        add("a", 80, weights_sha256="v", which="best")
        add("a", 30, weights_sha256="w", which="last")
        frame = leaderboard(store.folder)
        assert frame["weights"].tolist() == ["best", "last"]
        assert frame["model"].tolist() == ["a", "a"]

    def test_a_model_is_as_old_as_its_first_record(self, store: ResultStore, add: Add) -> None:
        add("a", 60, weights="old")
        add("a", 30, weights="new")
        add("a", 70, weights="old", attacks=("fgsm",))
        assert rows(store)["a"][2] == 30.0

    def test_a_retrained_model_supersedes_all_weights_of_the_one_before(self, store: ResultStore, add: Add) -> None:
        add("a", 90, weights="old", which="best")
        add("a", 50, weights="new", which="last", train_seed=1)
        assert rows(store)["a"][2] == 50.0
        assert len(leaderboard(store.folder)) == 1

    @pytest.mark.parametrize("python_first", [False, True])
    def test_python_and_the_command_do_not_supersede_each_other(
        self, store: ResultStore, add: Add, python_first: bool
    ) -> None:
        """The same weights under one name: the weaker evaluation hides no row."""

        def by_command() -> None:
            add("a", 40, weights_sha256="w", attacks=("autoattack",))

        def by_python() -> None:
            record = add("a", 80, weights_sha256="w", seed=1)
            model = record.model.model_copy(
                update={"source": {"kind": "python"}, "model_sha256": "other", "weights": None, "train_config": None}
            )
            rewritten(store, record, model=model)

        for evaluate in (by_python, by_command) if python_first else (by_command, by_python):
            evaluate()
        board = leaderboard(store.folder)
        assert list(zip(board["model"], board["tier"], board["worst_case_acc"], strict=True)) == [
            ("a", "autoattack", 40.0),
            ("a", "gradient", 80.0),
        ]
        add("a", 30, weights_sha256="new")
        assert leaderboard(store.folder)["worst_case_acc"].tolist() == [30.0]

    def test_what_a_model_is_does_not_change(self, store: ResultStore, add: Add) -> None:
        add("a", 60, attacks=("autoattack",), check="deterministic")
        add("a", 70, verdict="FAIL", scope="attack", check="deterministic")
        assert rows(store) == {"a": (1, "autoattack", 60.0)}


class TestTiers:
    @pytest.mark.parametrize(
        ("attacks", "tier"),
        [
            (("autoattack",), "autoattack"),
            (("autoattack:version=plus",), "autoattack"),
            (("pgd-20", "autoattack"), "autoattack"),
            (("autoattack", "fgsm"), "autoattack"),
            (("autoattack:version=quick",), "targeted"),
            (("apgd-t",), "targeted"),
            (("fab-t", "square"), "targeted"),
            (("autoattack:version=rand",), "gradient"),
            (("pgd-10",), "gradient"),
            (("apgd-ce",), "gradient"),
            (("fab",), "gradient"),
            (("pgd-9",), "other"),
            (("fgsm",), "other"),
            (("square",), "other"),
        ],
    )
    def test_by_the_strongest_completed_attack(
        self, store: ResultStore, add: Add, attacks: tuple[str, ...], tier: str
    ) -> None:
        add("a", attacks=attacks)
        assert rows(store) == {"a": (1, tier, 50.0)}

    def test_a_record_lifts_its_model_and_no_other(self, store: ResultStore, add: Add) -> None:
        for model, stands in (("a", 80), ("b", 60)):
            add(model, stands)
        add("b", 55, attacks=("apgd-t",))
        assert list(rows(store).items()) == [("b", (1, "targeted", 55.0)), ("a", (1, "gradient", 80.0))]

    def test_tiers_are_listed_from_the_strongest_and_what_has_no_rank_last(self, store: ResultStore, add: Add) -> None:
        add("weak", 99, attacks=("fgsm",))
        add("partial", 99, attacks=("autoattack",), partial=True)
        add("pgd", 90)
        add("targeted", 50, attacks=("apgd-t",))
        add("broken", 99, attacks=("autoattack",), verdict="FAIL", check="eval-mode")
        add("full", 10, attacks=("autoattack",))
        frame = leaderboard(store.folder)
        assert frame["model"].tolist() == ["full", "targeted", "pgd", "weak", "broken", "partial"]
        assert frame["tier"].tolist() == ["autoattack", "targeted", "gradient", "other", "", ""]
        assert frame["rank"].fillna(0).tolist() == [1, 1, 1, 1, 0, 0]
        lacks = ["checks fail: eval-mode", "a complete attack (autoattack stopped early)"]
        assert frame["lacks"].tolist() == ["", "", "", "", *lacks]

    def test_clean_accuracy_is_a_board_like_any_other(self, store: ResultStore, add: Add) -> None:
        add("a", broken_by=outcome(stands=80, wrong=20), attacks=("none",), eps="0")
        add("b", broken_by=outcome(stands=95, wrong=5), attacks=("none",), eps="0", norm="l2")
        add("b", 10)
        frame = leaderboard(store.folder, eps="0")
        assert frame["model"].tolist() == ["b", "a"]
        assert set(frame["tier"]) == set(frame["threat"]) == {"clean"}
        assert frame["rank"].tolist() == [1, 2]
        assert list(frame)[8] == "worst_case_acc"  # no column for no attack

    def test_a_model_that_fails_its_checks_anywhere_on_the_data_has_no_rank(self, store: ResultStore, add: Add) -> None:
        add("a", 50, attacks=("autoattack",))
        add("a", 60, attacks=("fgsm",), verdict="FAIL", check="eval-mode")
        assert rows(store) == {"a": (None, "", 50.0)}
        assert leaderboard(store.folder)["checks"].tolist() == ["FAIL"]

    @pytest.mark.parametrize(
        ("options", "lacks"),
        [
            ({"partial": True, "attacks": ("pgd-20", "autoattack")}, "a complete attack (autoattack stopped early)"),
            (
                {"verdict": "FAIL", "scope": "attack", "check": "black-box"},
                "a complete attack (checks fail: black-box)",
            ),
            (
                {"verdict": "WARN", "scope": "attack", "check": "deterministic"},
                "an attack that averages over random answers (autoattack:version=rand)",
            ),
            (
                {"verdict": "FAIL", "partial": True, "check": "logits"},
                "checks fail: logits; a complete attack (pgd-20 stopped early)",
            ),
        ],
    )
    def test_what_a_model_lacks(self, store: ResultStore, add: Add, options: dict[str, Any], lacks: str) -> None:
        add("a", **options)
        add("b")
        frame = leaderboard(store.folder)
        assert frame["model"].tolist() == ["b", "a"]
        assert frame["lacks"].tolist() == ["", lacks]
        assert frame["rank"].isna().tolist() == [False, True]

    def test_a_grid_of_radii_completes_no_attack(self, store: ResultStore, add: Add) -> None:
        record = add("a")
        assert record.config is not None
        rewritten(store, record, config=record.config.model_copy(update={"eps_grid": GRID}))
        (row,) = leaderboard(store.folder).to_dict("records")
        assert pd.isna(row["rank"])
        assert row["lacks"] == "an attack at this radius alone (only --eps-grid)"
        assert row["pgd-20 [grid]"] == 50.0
        add("a", attacks=("autoattack",))
        (row,) = leaderboard(store.folder).to_dict("records")
        assert (row["rank"], row["pgd-20 [grid]"], row["autoattack"]) == (1, 50.0, 50.0)


class TestRandomised:
    def test_they_have_tiers_of_their_own(self, store: ResultStore, add: Add) -> None:
        random = {"verdict": "WARN", "scope": "attack", "check": "deterministic"}
        add("plain", 20)
        add("rand", 90, attacks=("autoattack:version=rand",), **random)
        add("eot", 95, attacks=("apgd-ce:evaluations=5",), **random)
        add("full", 99, attacks=("autoattack",), **random)
        assert list(rows(store).items()) == [
            ("plain", (1, "gradient", 20.0)),
            ("rand", (1, "autoattack-rand", 90.0)),
            ("eot", (1, "averaging", 95.0)),
            ("full", (None, "", 99.0)),
        ]

    def test_one_look_is_enough(self, store: ResultStore, add: Add) -> None:
        """A model that answered otherwise once is random, also where another record saw nothing of it."""
        add("a", attacks=("autoattack",))
        add("a", eps="8/255", verdict="FAIL", scope="attack", check="deterministic")
        assert leaderboard(store.folder, eps="0.1")["rank"].isna().all()


class TestReference:
    SPEC = attack_of("pgd-20").canonical

    def test_ranks_by_one_attack_alone(self, store: ResultStore, add: Add) -> None:
        add("a", 80)
        add("b", 60)
        add("b", 10, attacks=("autoattack",))
        add("c", 50, attacks=("autoattack",))
        frame = leaderboard(store.folder, reference=self.SPEC)
        assert frame["model"].tolist() == ["a", "b", "c"]
        assert frame["rank"].fillna(0).tolist() == [1, 2, 0]
        assert frame["worst_case_acc"].fillna(-1).tolist() == [80.0, 60.0, -1.0]
        assert frame["lacks"].tolist() == ["", "", f"a complete {self.SPEC}"]

    def test_seeds_are_joined_and_a_run_alone_goes_first(self, store: ResultStore, add: Add) -> None:
        add("a", broken_by=[None] * 6 + ["fgsm"] * 3 + ["pgd-20"], attacks=("fgsm", "pgd-20"))
        assert rows(store, reference=self.SPEC)["a"][2] == 60.0
        add("a", broken_by=[None] * 8 + ["pgd-20", None], seed=1)
        add("a", broken_by=[None] * 8 + [None, "pgd-20"], seed=2)
        assert rows(store, reference=self.SPEC)["a"] == (1, "reference", 80.0)
        assert rows(store)["a"][2] == 60.0

    @pytest.mark.parametrize("keep_standing", [True, False], ids=["standing kept", "from the verdicts"])
    def test_what_came_later_does_not_count(self, store: ResultStore, add: Add, keep_standing: bool) -> None:
        broken_by = [None] * 3 + ["apgd-ce", "square"] + ["pgd-20"] * 4 + ["clean"]
        add("a", broken_by=broken_by, attacks=("pgd-20", "autoattack"), keep_standing=keep_standing)
        assert rows(store, reference=self.SPEC)["a"][2] == 50.0

    def test_names_that_tell_nothing_are_not_guessed_from(self, store: ResultStore, add: Add) -> None:
        record = add("a", broken_by=[None] * 5 + ["square"] * 5, attacks=("square", "autoattack"))
        square = record.attacks[0].spec
        assert square is not None
        (row,) = leaderboard(store.folder, reference=square).to_dict("records")
        assert pd.isna(row["rank"])
        assert row["lacks"] == f"per-sample verdicts after {square}"

    def test_clean_accuracy_has_no_reference(self, store: ResultStore, add: Add) -> None:
        add("a")
        add("a", broken_by=[None] * 9, attacks=("none",), eps="0", created="2025")
        add("b", broken_by=[None] * 9, attacks=("none",), eps="0", partial=True)
        frame = leaderboard(store.folder, reference=self.SPEC, eps="0")
        assert frame["rank"].fillna(0).tolist() == [1, 0]
        assert frame["lacks"].tolist() == ["", "a complete attack (none stopped early)"]

    def test_a_reference_that_no_record_has(self, store: ResultStore, add: Add) -> None:
        add("a")
        with pytest.raises(UserError, match="no record has the attack pgd:steps=20; there are pgd:steps=20,restarts"):
            leaderboard(store.folder, reference="pgd:steps=20")

    def test_on_the_command_line(self, store: ResultStore, add: Add, gklbench: CommandLine) -> None:
        add("a", 30, weights="old")
        add("a", 80)
        add("b", 60, attacks=("autoattack",))
        arguments = ("leaderboard", "--results-dir", store.folder)
        printed = gklbench(*arguments, "--reference", "pgd:steps=20")
        assert printed.code == 0, printed.err
        assert "a complete pgd:steps=20" in printed.out
        assert "unknown attack" in gklbench(*arguments, "--reference", "pdg").err
        assert "30.00" not in gklbench(*arguments).out
        assert "30.00" in gklbench(*arguments, "--all").out


class TestFirstVersion:
    @pytest.mark.parametrize("folder", ["digits", "cifar10-cnn-a"])
    def test_its_records_rank(self, folder: str) -> None:
        results = Path(__file__).parents[2] / "results" / "examples" / folder
        frame = leaderboard(results)
        assert set(frame["tier"]) == {"autoattack"}
        assert frame["rank"].min() == 1
        assert not frame["rank"].isna().any()
        reference = leaderboard(results, reference=TestReference.SPEC)
        np.testing.assert_allclose(reference["worst_case_acc"], reference["pgd-20"])

    def test_without_a_spec_the_stages_tell_the_tier(self, store: ResultStore, add: Add) -> None:
        record = add("a")
        (attack,) = record.attacks
        unknown = [stage.model_copy(update={"gradients": None, "length": None}) for stage in attack.stages]
        rewritten(store, record, attacks=(attack.model_copy(update={"spec": None}),))
        assert rows(store)["a"] == (1, "gradient", 50.0)
        rewritten(store, record, attacks=(attack.model_copy(update={"spec": None, "stages": tuple(unknown)}),))
        assert rows(store)["a"] == (1, "other", 50.0)


ATTACKS = (
    *(("pgd-20",), ("autoattack",), ("pgd-20", "autoattack"), ("fgsm",), ("autoattack:version=quick",)),
    *(("square", "pgd-50"), ("apgd-t", "fgsm"), ("autoattack:version=plus",), ("autoattack:version=rand",)),
)


def random_record(generator: np.random.Generator, template: Record, name: int, number: int) -> Record:
    """Return a record like ``template`` of another model, outcome, seed, engine and fate."""
    stands = generator.random(60) < generator.uniform(0.2, 0.95)
    partial, failing, grid, reference, cheap = generator.random(5) < (0.2, 0.2, 0.1, 0.2, 0.2)
    identity = {"name": f"m{name}", "weights_sha256": f"{name}", "model_sha256": f"{name}"}
    check = {"verdict": "FAIL" if failing else "PASS", "scope": "attack"}
    assert template.config is not None
    how = {"eps_grid": GRID if grid else None, "search_precision": "bf16" if cheap else "float32"}
    return template.model_copy(
        update={
            "id": f"m{name}-{number:012}",
            "created": f"2026-01-01T{generator.integers(10**6):06}",
            "model": template.model.model_copy(update=identity),
            "config": template.config.model_copy(update=how),
            "checks": (template.checks[0].model_copy(update=check),),
            "engine": "reference" if reference else "native",
            "seed": int(generator.integers(3)),
            "partial": bool(partial),
            "worst_case_acc": 100 * float(stands.mean()),
            "standing": pack_standing(stands),
        }
    )


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    store = ResultStore(tmp_path_factory.mktemp("templates"))
    return [make_record(store, [None] * 60, attacks=attacks) for attacks in ATTACKS]


@pytest.mark.parametrize("seed", range(25))
def test_no_record_raises_a_model_or_touches_another(seed: int, templates: list[Record], store: ResultStore) -> None:
    """Whatever is added, weak, partial, failing, of another seed, engine or attack, can only count against its model.

    It neither splits a board nor takes a rank away nor lowers the tier, and leaves all other models as they were.
    """
    generator = np.random.default_rng(seed)
    records: list[Record] = []
    before: dict[str, Any] = {}
    for number in range(24):
        name = int(generator.integers(4))
        template = templates[generator.integers(len(templates))]
        records.append(random_record(generator, template, name, number))
        entries = entries_of(records, store)
        assert all((placed.rank is None) == bool(placed.entry.lacks) for placed in Ranking.of(entries).placed)
        after = {entry.name: entry for entry in entries}
        assert len(after) == len(entries)  # one row a model: no board was split
        for model, old in before.items():
            new = after[model]
            if model != f"m{name}":
                assert (new.standing, new.tier, new.lacks) == (old.standing, old.tier, old.lacks)
                continue
            assert new.standing <= old.standing
            assert new.tier <= old.tier
            assert not (new.lacks and not old.lacks)
        before = after
