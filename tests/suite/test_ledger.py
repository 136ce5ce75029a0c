"""What counts as done, judged from runs and records whoever made them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from suite_files import finished_run, suite_of, write
from synthetic_records import make_record, outcome

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.results import ResultStore
from robustbench_gkl.suite import Suite, TrainCell
from robustbench_gkl.suite.ledger import Folders, Ledger, Outcome

TWO = """
[train]
recipe = "digits-trades"
loss = ["trades", "gkl"]
name = "{loss}"
[[eval]]
attacks = ["pgd:steps=20"]
n = 4
"""


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "checkpoints", tmp_path / "results")


def ledger_of(folders: Folders) -> Ledger:
    """Return a fresh ledger, as the next call of the command has it."""
    ledger = Ledger("suite", folders)
    ledger.prepare()
    return ledger


def complete(suite: Suite, folders: Folders) -> None:
    """Write all runs and records of a suite, as if made by hand."""
    for cell in suite.trainings:
        digest = finished_run(folders.checkpoints, cell).weights_sha256()
        make_record(ResultStore(folders.results), outcome(stands=4), model=cell.run, weights_sha256=digest)


def pending(suite: Suite, folders: Folders) -> list[str]:
    """Return the cells that are not done, in short."""
    statuses = ledger_of(folders).survey(suite.cells)
    return [" ".join(str(cell).split()[:2]) for cell in suite.cells if statuses[cell.key] != "done"]


def test_runs_and_records_made_by_hand_are_recognised(
    gklbench: CommandLine, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "checkpoints")
    assert gklbench("eval", "tiny", "--attack", "pgd:steps=3", "--attack", "fgsm", "--n", 5, "--eps", 0.05).code == 0
    text = """
    [train]
    recipe = "digits-trades"
    name = "tiny"
    epochs = 2
    train_size = 256
    attack.steps = 2
    probe.steps = 2
    [[eval]]
    attacks = ["pgd:steps=3", "fgsm"]
    n = 5
    eps = 0.05
    """
    assert pending(suite_of(tmp_path, text), Folders()) == []
    for line, other in (("n = 5", "n = 6"), ("eps = 0.05", "eps = 0.06"), ('"fgsm"]', '"fgsm"]\nseed = 1')):
        assert pending(suite_of(tmp_path, text.replace(line, other)), Folders()) == ["eval tiny"], other
    assert pending(suite_of(tmp_path, text.replace("steps=3", "steps=4")), Folders()) == ["eval tiny"]


def test_a_changed_recipe_reruns_only_what_depends_on_it(folders: Folders, tmp_path: Path) -> None:
    complete(suite_of(tmp_path, TWO), folders)
    assert pending(suite_of(tmp_path, TWO), folders) == []
    changed = TWO + '[variants.v]\nname = "{loss}"\nloss = ["trades", "gkl"]\n'
    assert pending(suite_of(tmp_path, changed), folders) == []
    slower = TWO.replace('loss = ["trades", "gkl"]', 'loss = "gkl"\nlr = 0.05')
    slower += '[variants.fast]\nloss = "trades"\nlr = 0.1\n[variants.slow]\n'
    assert pending(suite_of(tmp_path, slower), folders) == ["train gkl", "eval gkl"]


def test_new_weights_need_a_new_record(folders: Folders, tmp_path: Path) -> None:
    suite = suite_of(tmp_path, TWO)
    complete(suite, folders)
    path = folders.checkpoints / "gkl" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert pending(suite, folders) == ["eval gkl"]


def test_a_partial_record_and_one_of_other_attacks_do_not_count(folders: Folders, tmp_path: Path) -> None:
    suite = suite_of(tmp_path, TWO)
    store = ResultStore(folders.results)
    for cell, options in zip(suite.trainings, ({"partial": True}, {"attacks": ("autoattack",)}), strict=True):
        digest = finished_run(folders.checkpoints, cell).weights_sha256()
        make_record(store, outcome(stands=4), model=cell.run, weights_sha256=digest, **options)  # type: ignore[arg-type]
    assert pending(suite, folders) == ["eval trades", "eval gkl"]


@pytest.mark.parametrize(
    ("asked", "made", "how"),
    [
        ("pgd", "pgd:steps=20", {}),
        ("pgd:steps=20,restarts=1", "pgd-20", {}),
        ("apgd-ce:steps=100", "apgd-ce", {}),
        ("apgd:objective=margin", "apgd-margin:steps=100", {}),
        ("autoattack:version=standard", "autoattack", {}),
        ("pgd", "pgd", {"search_precision": "bf16"}),
        ("pgd", "pgd", {"compiled": True}),
    ],
)
def test_a_record_counts_however_its_attack_is_written(
    asked: str, made: str, how: dict[str, object], folders: Folders, tmp_path: Path
) -> None:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in how.items())
    suite = suite_of(tmp_path, TWO.replace('"pgd:steps=20"', f'"{asked}"') + lines)
    store = ResultStore(folders.results)
    for cell in suite.trainings:
        digest = finished_run(folders.checkpoints, cell).weights_sha256("last")
        record = make_record(store, outcome(stands=4), model=cell.run, weights_sha256=digest, attacks=(made,))
        assert record.config is not None
        store.evaluations.save(record.model_copy(update={"config": record.config.model_copy(update=how)}).sealed())
    assert pending(suite, folders) == []
    other = suite_of(tmp_path, TWO.replace('"pgd:steps=20"', f'"{asked}"') + 'search_precision = "tf32"\n')
    assert pending(other, folders) == ["eval trades", "eval gkl"]


def test_the_batch_size_of_the_published_packages_counts(folders: Folders, tmp_path: Path) -> None:
    suites = [
        suite_of(tmp_path, TWO + f'engine = "{engine}"\nbatch_size = {size}\n')
        for engine in ("native", "reference")
        for size in (10, 20)
    ]
    keys = [suite.evaluations[0].key for suite in suites]
    assert len(set(keys)) == 3
    assert keys[0] == keys[1]


def test_typos_of_attacks_are_found_before_anything_runs(tmp_path: Path) -> None:
    for attack, message in (("pgd:stesp=3", "did you mean 'steps'"), ("torchattacks.PGDL2", "searches in l2")):
        with pytest.raises(UserError, match=message):
            suite_of(tmp_path, TWO.replace('"pgd:steps=20"', f'"{attack}"'))
    with pytest.raises(UserError, match="eps_grid makes several records"):
        suite_of(tmp_path, TWO + 'eps_grid = [["0.1", "0.2"]]\n')


def test_a_run_that_did_not_end_goes_on(folders: Folders, tmp_path: Path) -> None:
    suite = suite_of(tmp_path, TWO)
    finished_run(folders.checkpoints, suite.trainings[0], epochs=3)
    ledger = ledger_of(folders)
    statuses = ledger.survey(suite.cells)
    assert [statuses[cell.key] for cell in suite.cells] == ["ready", "waiting", "ready", "waiting"]
    assert ledger.started(suite.trainings[0])
    assert not ledger.started(suite.trainings[1])


def test_failures_are_kept_and_block_what_needs_them(folders: Folders, tmp_path: Path) -> None:
    suite = suite_of(tmp_path, TWO)
    ledger_of(folders).keep(suite.cells[0], Outcome("failed", 2, 1.0, lines=("Error: no",)))
    ledger = ledger_of(folders)
    assert [ledger.survey(suite.cells)[cell.key] for cell in suite.cells] == ["failed", "blocked", "ready", "waiting"]
    assert ledger.survey(suite.cells, retry=True)[suite.cells[0].key] == "ready"
    other = suite_of(tmp_path, TWO, assignments=["train.epochs=3"])
    assert ledger.survey(other.cells)[other.cells[0].key] == "ready", "the failure was another recipe's"


def test_a_run_that_the_suite_did_not_make_is_not_replaced(folders: Folders, tmp_path: Path) -> None:
    suite = suite_of(tmp_path, TWO)
    theirs = TrainCell("gkl", TrainConfig(loss="gkl", epochs=7))
    finished_run(folders.checkpoints, theirs)
    ledger = ledger_of(folders)
    with pytest.raises(UserError, match=r"run gkl exists .* other settings .* --overwrite"):
        ledger.refuse_to_overwrite(suite.cells)
    ledger.config_path(theirs).write_text("{}")  # the suite made it, with the settings it had then
    ledger.refuse_to_overwrite(suite.cells)


@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "last.safetensors"])
def test_broken_files_are_said(name: str, folders: Folders, tmp_path: Path) -> None:
    suite = suite_of(tmp_path, TWO)
    complete(suite, folders)
    (folders.checkpoints / "gkl" / name).write_bytes(b"epoch\nx\n")
    with pytest.raises(UserError, match="broken"):
        pending(suite, folders)


def test_other_submitted_images_are_another_question(
    gklbench: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import torch\nfrom torch import nn\ntorch.manual_seed(0)\n"
    Path("net.py").write_text(f"{code}build = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n")
    text = """
    models = ["net.py:build"]
    [[eval]]
    attacks = ["images:adv.npz"]
    dataset = "digits"
    norm = "linf"
    eps = 0.1
    """
    for pixel, said in ((0.0, "1 ready"), (0.0, "1 done"), (0.5, "1 ready"), (0.5, "1 done")):
        np.savez("adv.npz", images=np.full((4, 1, 8, 8), pixel, np.float32))
        write(tmp_path, text)
        result = gklbench("suite", "suite.toml", "--device", "cpu")
        assert result.code == 0, result.err
        assert f"1 cells: {said}" in result.out.replace("1 cell:", "1 cells:")
