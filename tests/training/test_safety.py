"""What a training keeps: its data's identity, its last good state, the caller's random state."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from torch import Tensor, nn

from robustbench_gkl.config.recipes import read_recipe
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.validation import validated
from robustbench_gkl.data import load_dataset, train_validation_split
from robustbench_gkl.losses.base import LOSSES, Logits
from robustbench_gkl.losses.trades import TRADES
from robustbench_gkl.runs import Run
from robustbench_gkl.training import Event, Interrupted, StartReport, train

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "dataset": "digits",
    "model": "tiny-cnn",
    "loss": "trades",
    "epochs": 3,
    "batch_size": 16,
    "train_size": 80,
    "validation_fraction": 0.2,
    "threat": {"eps": 0.1},
    "attack": {"steps": 1},
    "probe": {"steps": 1},
}


def settings(**changes: Any) -> TrainConfig:
    return validated(TrainConfig, SMALL | changes, what="settings")


def stop_at(config: TrainConfig, run: Run, step: int) -> None:
    """Train a run until it has saved its state after so many steps."""
    asked = iter([number == step for number in range(1, 1000)])
    with pytest.raises(Interrupted):
        train(config, run, device=CPU, should_stop=asked.__next__)


@LOSSES.register("test-diverging")
class Diverging(TRADES):
    """TRADES that becomes NaN in its eighth step."""

    calls: Tensor

    def __init__(self, *, num_classes: int) -> None:
        super().__init__(num_classes=num_classes)
        self.register_buffer("calls", torch.zeros(()))

    def terms(self, *given: Any) -> dict[str, Tensor]:
        self.calls += 1
        factor = float("nan") if self.calls > 7 else 1.0
        return {name: value * factor for name, value in super().terms(*given).items()}


@LOSSES.register("test-learned")
class Learned(TRADES):
    """TRADES of logits that a layer of the loss's own has changed."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__(num_classes=num_classes)
        self.layer = nn.Linear(num_classes, num_classes)

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        return super().terms(logits.map(self.layer), labels)


def test_the_seed_decides_what_a_losss_own_weights_are(tmp_path: Path) -> None:
    ends = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        run = Run(tmp_path / f"{number}")
        stop_at(settings(loss="test-learned", seed=seed), run, 1)
        state = run.load_state()
        assert state is not None
        ends.append(state["loss"]["layer.weight"])
    assert torch.equal(ends[0], ends[1])
    assert float((ends[0] - ends[2]).abs().max()) > 0.1


@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_a_run_that_diverges_keeps_its_last_good_state(save_every: float, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match=r"the loss became NaN in epoch 2; lower optimizer.lr \(now 0.1\)"):
        train(settings(loss="test-diverging"), run, device=CPU, save_every=save_every)
    state = run.load_state()
    assert state is not None
    assert (state["epoch"], state["step"]) == ((1, 3) if save_every == 0 else (1, 0))
    good = Run(tmp_path / "good")
    stop_at(settings(), good, 7 if save_every == 0 else 4)
    expected = good.load_state()
    assert expected is not None
    assert all(torch.equal(value, expected["model"][key]) for key, value in state["model"].items())
    assert run.epochs_done() == 1
    for which in ("best", "last"):
        tensors = run.load_model(which).state_dict().values()
        assert all(bool(tensor.isfinite().all()) for tensor in tensors)


@pytest.fixture
def files(tmp_path: Path) -> TrainConfig:
    """Settings with real and generated images in files."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (80, 8, 8), dtype=np.uint8)
    np.savez(
        tmp_path / "real.npz", x_train=pixels, y_train=np.arange(80) % 10, x_test=pixels, y_test=np.arange(80) % 10
    )
    for name in ("one", "two"):
        image = generator.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", image=image, label=np.arange(40) % 10)
    generated = {"files": [str(tmp_path / f"{name}.npz") for name in ("one", "two")], "fraction": 0.5}
    return settings(dataset=f"npz:{tmp_path / 'real.npz'}", train_size=None, synthetic=generated)


def replace_pixel(path: Path, array: str, row: int) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays[array][row] = 255 - arrays[array][row]
    np.savez(path, **arrays)


TRAINED, HELD_OUT = (int(part[0]) for part in train_validation_split(80, 0.2))


@pytest.mark.parametrize(
    ("file", "array", "row", "says"),
    [
        ("real", "x_train", TRAINED, "changed are its training images; put back"),
        ("real", "x_train", HELD_OUT, "changed are its validation images; put back"),
        ("two", "image", 3, "changed are the generated images in .*two.npz; put back"),
        ("two", "label", 3, "changed are the generated images in .*two.npz; put back"),
    ],
)
def test_a_run_goes_on_with_its_own_data_alone(
    file: str, array: str, row: int, says: str, files: TrainConfig, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    stop_at(files, run, 2)
    shutil.copy(tmp_path / f"{file}.npz", tmp_path / "kept.npz")
    if array == "label":
        with np.load(tmp_path / "two.npz") as arrays:
            np.savez(tmp_path / "two.npz", image=arrays["image"], label=(arrays["label"] + 1) % 10)
    else:
        replace_pixel(tmp_path / f"{file}.npz", array, row)
    before = (run.folder / "state.pt").read_bytes()
    with pytest.raises(UserError, match=f"^run run was started on other data: {says}"):
        train(files, run, device=CPU, resume=True)
    assert (run.folder / "state.pt").read_bytes() == before
    shutil.copy(tmp_path / "kept.npz", tmp_path / f"{file}.npz")
    assert len(train(files, run, device=CPU, resume=True)) == 3


def test_the_hashes_are_those_of_the_images(files: TrainConfig, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    stop_at(files, run, 1)
    data = run.config().data
    images = load_dataset(files.dataset).load("train")
    training, held_out = train_validation_split(80, 0.2)
    assert data is not None
    assert (data.train, data.validation) == (images.take(training).sha256, images.take(held_out).sha256)
    assert list(data.synthetic) == list(files.synthetic.files)
    assert set(read_recipe(str(run.folder / "config.json"))) == set(files.model_dump()), "no part of the recipe"


def test_a_run_of_an_earlier_version_goes_on_without_hashes(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    stop_at(settings(), run, 2)
    path = run.folder / "config.json"
    config = json.loads(path.read_text())
    del config["data"], config["train"]["probe"]["every"], config["train"]["probe"]["n"]
    path.write_text(json.dumps(config))
    assert len(train(settings(), run, device=CPU, resume=True)) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 3}, "has schema version 3, and this gklbench reads 2, so the run cannot go on"),
        ({"schema_version": None}, "has no schema version"),
        ({"optimizer": ..., "rows": ...}, "lacks optimizer, rows, so the run cannot go on"),
        ({"model": {}}, "holds other tensors than these settings make"),
    ],
    ids=["newer", "none", "missing", "other"],
)
def test_a_state_that_does_not_fit_is_one_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    stop_at(settings(), run, 2)
    state = run.load_state()
    assert state is not None
    state = {key: value for key, value in (state | change).items() if value is not ...}
    torch.save(state, run.folder / "state.pt")
    with pytest.raises(UserError, match=f"state.pt {says}") as caught:
        train(settings(), run, device=CPU, resume=True)
    assert "\n" not in str(caught.value)


def test_the_callers_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(settings(epochs=1), Run(tmp_path / "run"), device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_validation_images_nothing_is_selected(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    config = settings(validation_fraction=0, averaging={"per": "epoch"})
    stop_at(config, run, 7)
    run.save_weights("best", run.load_model("last"))  # as earlier versions did
    rows = train(config, run, device=CPU, resume=True)
    assert run.available() == ["average", "last"]
    assert not any(key.startswith("val_") for row in rows for key in row)
    assert run.last_row()["epoch"] == 3


def test_validation_may_be_rare_small_and_without_an_attack(tmp_path: Path) -> None:
    whole = train(settings(), Run(tmp_path / "whole"), device=CPU)
    rare = train(settings(probe={"steps": 1, "every": 2}), Run(tmp_path / "rare"), device=CPU)
    clean = train(settings(probe={"steps": 0}), Run(tmp_path / "clean"), device=CPU)
    few = train(settings(probe={"steps": 1, "n": 4}), Run(tmp_path / "few"), device=CPU)
    names = ("val_clean_acc", "val_robust_acc")
    assert [[row.get(name) for name in names] for row in rare] == [
        [row[name] if number in (1, 2) else None for name in names] for number, row in enumerate(whole)
    ]
    assert [row["val_clean_acc"] for row in clean] == [row["val_clean_acc"] for row in whole]
    assert not any("val_robust_acc" in row for row in clean)
    assert all(row[name] % 25 == 0 for row in few for name in names)
    lasts = [Run(tmp_path / name).weights_sha256("last") for name in ("whole", "rare", "clean", "few")]
    assert len(set(lasts)) == 1, "what is measured decides nothing else"


def test_what_becomes_of_the_batches_is_said(tmp_path: Path) -> None:
    for number, (batch_size, note) in enumerate(
        [
            (65, "batch_size is 65, but there are 64 training images: a step takes all of them"),
            (15, "an epoch leaves out 4 of 64 training images, each time others: they fill no batch"),
            (16, None),
        ]
    ):
        events: list[Event] = []
        config = settings(batch_size=batch_size, epochs=1)
        train(config, Run(tmp_path / str(number)), device=CPU, on_event=events.append)
        assert isinstance(events[0], StartReport)
        assert events[0].notes == (() if note is None else (note,))
        assert not any(isinstance(event, StartReport) for event in events[1:])


def test_a_recipes_own_idle_key_is_one_line(gklbench: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    result = gklbench("train", "trades-awp-cifar10-wrn34-10", "--epochs", 5, "--export", path)
    assert result.code == 0
    lines = " ".join(result.out.split())
    assert "warning: of the recipe without effect here: awp.gamma = 0.005 (awp.start_epoch is 10 and epochs 5)" in lines
    given = ("--set", "awp.start_epoch=3", "--epochs", 5)
    assert "warning" not in gklbench("train", "trades-awp-cifar10-wrn34-10", *given, "--export", path).out
