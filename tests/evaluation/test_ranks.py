"""Ranks that share an evaluation: two threads of this process, which speak through a store as processes would."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
import pytest
import torch
from small_net import CHEAP, THREAT, SmallNet, TwoLayers, labelled_images, measured
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from torch.distributed import DistNetworkError

from robustbench_gkl import cli
from robustbench_gkl.attacks import AttackSpec
from robustbench_gkl.attacks.model import Model
from robustbench_gkl.attacks.search.driver import Task
from robustbench_gkl.certification.certifier import Certifier
from robustbench_gkl.certification.reading import read_network
from robustbench_gkl.config.options import parse_grid
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.errors import RankError, UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.evaluation import Evaluation
from robustbench_gkl.evaluation.effort import Effort
from robustbench_gkl.evaluation.eps_grid import evaluate_curve
from robustbench_gkl.evaluation.job import prepare
from robustbench_gkl.evaluation.sharing import Pool, Shard, Share
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.ranks.collectives import World
from robustbench_gkl.ranks.exchange import Exchange
from robustbench_gkl.results import ResultStore
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.runs import Run
from robustbench_gkl.sources.source import RunSource

T = TypeVar("T")
SIZE = 2
_BUILDING = threading.Lock()


def together(work: Callable[[Exchange], T], *, size: int = SIZE) -> list[T]:
    """Return what ``work`` returns on each rank."""
    store = HashStore()
    with ThreadPoolExecutor(size) as threads:
        futures = [threads.submit(work, Exchange(World(rank, size), store)) for rank in range(size)]
        return [future.result(timeout=120) for future in futures]


def test_rank_0_which_may_host_the_store_leaves_last() -> None:
    """The other one reads its last message late."""
    ends, gone = [], threading.Event()

    class Slow(Exchange):
        def _receive(self, key: str) -> Any:
            gone.wait(timeout=0.3)
            received = super()._receive(key)
            ends.append(self.world.rank)
            return received

    def work(exchange: Exchange) -> None:
        (Slow(exchange.world, exchange._store) if exchange.world.rank else exchange).end()
        if exchange.world.leads:
            ends.append(0)
            gone.set()

    together(work)
    assert ends == [1, 0]


def test_the_loss_of_the_store_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(context: object) -> None:
        raise DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed.\nframe #0")

    monkeypatch.setattr(cli.group, "invoke", lost)
    assert cli.run([]) == 1
    said = "Error: this rank lost another one, which ended or cannot be reached (Failed to recv, got 0 bytes)\n"
    assert capsys.readouterr().err == said


def _evaluate(exchange: Exchange | None = None, *, n: int = 60, pause: float = 0.0, **options: Any) -> Evaluation:
    with _BUILDING:  # weights are drawn from the process's random state
        model = SmallNet()
    images, labels = labelled_images(n, model=model)
    if pause:
        model.register_forward_pre_hook(lambda module, inputs: time.sleep(pause))
    attacks = options.pop("attacks", CHEAP)
    share = Share(exchange) if exchange is not None else None
    return measured(model, images, labels, THREAT, attacks, share=share, **{"batch_size": 16, **options})


def assert_same(one: Evaluation, other: Evaluation) -> None:
    """The verdicts are the same, but for rounding."""
    first, second = one.verdicts(), other.verdicts()
    assert first.drop(columns="distance").equals(second.drop(columns="distance"))
    np.testing.assert_allclose(first["distance"], second["distance"], rtol=1e-5)
    for attack, again in zip(one.attacks, other.attacks, strict=True):
        for stage, same in zip(attack.stages, again.stages, strict=True):
            assert (stage.name, stage.attacked, stage.broken) == (same.name, same.attacked, same.broken)


def forwards(result: Evaluation) -> list[int]:
    """Return the calls of each stage but Square's, which looks as far ahead as pays at the moment."""
    stages = [stage for attack in result.attacks for stage in attack.stages if not stage.name.startswith("square")]
    assert len(stages) > 2
    return [stage.forwards for stage in stages]


@pytest.mark.parametrize("batch_size", [8, 500])
def test_ranks_find_what_one_process_finds_with_as_many_calls(batch_size: int) -> None:
    alone = _evaluate(batch_size=batch_size)
    calls: list[int] = []

    def work(exchange: Exchange) -> Evaluation:
        return _evaluate(exchange, batch_size=batch_size, keep_adversarial=True)

    for result in together(work):
        assert_same(alone, result)
        calls = forwards(result)
    assert calls == forwards(alone)


def test_a_slow_rank_does_less(tmp_path: Path) -> None:
    """And all that both do counts, also where a sample's restarts go from one to the other."""

    def work(exchange: Exchange) -> int:
        journal = Journal(tmp_path / f"{exchange.world.rank}of{exchange.world.size}", part=str(exchange.world.rank))
        pause = 0.04 * (exchange.world.leads and exchange.world.size > 1)
        result = _evaluate(exchange, pause=pause, attacks=("apgd-t:steps=10",), journal=journal)
        assert not result.partial
        return sum(len(entry["done"]) + len(entry["fallen"]) for entry in journal.own if "done" in entry)

    slow, fast = together(work)
    assert 0 < slow < 0.9 * fast
    assert slow + fast == work(Exchange())


def test_low_precision_and_its_doubts_are_shared() -> None:
    alone = _evaluate(search_precision="bf16")
    for result in together(lambda exchange: _evaluate(exchange, search_precision="bf16")):
        assert abs(result.robust_acc - alone.robust_acc) <= 5


@dataclass(frozen=True)
class OneStep(AttackSpec):
    """A step of noise, by an attack that the engine gives whole batches to, as it does other people's."""

    name: ClassVar[str] = "one-step"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise) -> Tensor:
        time.sleep(0.01)
        return threat.random_start(images, noise)


def test_batches_of_attacks_that_are_not_our_own_are_shared(tmp_path: Path) -> None:
    options: dict[str, Any] = {"attacks": (OneStep(), "pgd:steps=3"), "n": 200, "batch_size": 10}
    alone = _evaluate(**options)
    assert alone.attacks[0].stages[0].broken > 0

    def work(exchange: Exchange) -> tuple[Evaluation, int]:
        journal = Journal(tmp_path / f"{exchange.world.rank}.jsonl", part=str(exchange.world.rank))
        result = _evaluate(exchange, journal=journal, **options)
        return result, sum(entry.get("stage") == "one-step/one-step" for entry in journal.own)

    results = together(work)
    for result, _ in results:
        assert_same(alone, result)
    batches = [count for _, count in results]
    assert sum(batches) == -(-alone.attacks[0].stages[0].attacked // 10)
    assert min(batches) >= 4


def test_nothing_done_is_done_again_with_another_number_of_ranks(tmp_path: Path) -> None:
    """Two ranks that stop early, then three, then one."""
    alone = _evaluate()
    path = tmp_path / "results"
    ResultStore(path).prepare()

    def work(exchange: Exchange, limit: float | None) -> Evaluation:
        journal = ResultStore(path).journal("x", str(exchange.world.rank))
        exchange.gather(None)
        if exchange.world.leads:
            journal = ResultStore(path).journal("x")
        return _evaluate(exchange, journal=journal, time_limit=limit, pause=0.005 if limit else 0.0)

    for size in (2, 3):
        stopped = together(lambda exchange: work(exchange, 0.3), size=size)
        assert all(result.partial for result in stopped)
        assert all(result.robust_acc == stopped[0].robust_acc >= alone.robust_acc for result in stopped)
    before = len(ResultStore(path).journal("x").entries)
    assert len(ResultStore(path).parts("x")) == 3
    result = work(Exchange(), None)
    assert_same(alone, result)
    again = work(Exchange(), None)
    assert_same(alone, again)
    assert len(ResultStore(path).journal("x").entries) > before
    assert again.attacks == result.attacks


@pytest.mark.parametrize("attacks", [("certify",), ("pgd:steps=3", "apgd-ce:steps=10")], ids=["certify", "eval"])
def test_certificates_are_shared(attacks: tuple[str, ...], tmp_path: Path) -> None:
    model = TwoLayers().eval()
    images, labels = labelled_images(24, model=model)
    certifier = Certifier(read_network(model, images), THREAT)
    effort = Effort(complete=True, calls=100) if attacks == ("certify",) else Effort()

    def work(exchange: Exchange) -> Evaluation:
        rank = exchange.world.rank
        journal = Journal(tmp_path / f"{rank}.jsonl", part=str(rank))
        options = {"effort": effort, "certifier": certifier, "journal": journal, "share": Share(exchange)}
        return measured(model, images, labels, THREAT, attacks, **options)

    alone = measured(model, images, labels, THREAT, attacks, effort=effort, certifier=certifier)
    for shared in together(work):
        pd.testing.assert_frame_equal(shared.verdicts(), alone.verdicts())
    assert alone.proved
    taken = [group for rank in range(SIZE) for group in bounded_groups(tmp_path / f"{rank}.jsonl")]
    assert len(taken) == len(set(taken)) >= SIZE


def bounded_groups(path: Path) -> list[tuple[int, ...]]:
    """Return the groups of samples that a journal says were bounded."""
    return [tuple(entry["bounded"]) for entry in Journal(path).own if entry.get("bounded")]


def test_a_curve_is_shared(tmp_path: Path) -> None:
    radii = parse_grid("0,2/255,4/255,6/255,8/255")

    def curve(share: Share | None) -> list[Evaluation]:
        with _BUILDING:
            model = SmallNet()
        samples = labelled_images(60, model=model)
        journal = Journal(tmp_path / "j") if share is not None and share.exchange.world.leads else None
        return evaluate_curve(model, *samples, THREAT, radii, "pgd:steps=5", journal=journal, share=share)

    alone = curve(None)
    for results in together(lambda exchange: curve(Share(exchange))):
        for one, other in zip(alone, results, strict=True):
            assert_same(one, other)


def test_a_failing_rank_is_heard_by_all() -> None:
    """By those that wait for it, and by those at work."""

    def work(exchange: Exchange) -> str:
        if exchange.world.rank == 1:
            time.sleep(0.2)
            return exchange.fail("no such thing", 2)[0]
        with pytest.raises(RankError, match="no such thing") as caught:
            _evaluate(exchange, attacks=("pgd:steps=100000",), n=8) if exchange.world.rank else exchange.gather(None)
        return exchange.fail(caught.value.message, caught.value.code)[0]

    assert together(work, size=3) == ["no such thing"] * 3


def test_ranks_whose_runs_differ_are_refused(trained: Path, tmp_path: Path) -> None:
    """As when one begins before, and one after, a training has saved better weights."""
    runs = [Run(Path(shutil.copytree(trained / "tiny", tmp_path / f"{rank}/tiny"))) for rank in range(SIZE)]
    model = runs[1].load_model()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    runs[1].save_weights("best", model)
    config = EvalConfig.model_validate(
        {"dataset": "digits", "n": 8, "attacks": ("fgsm",), "threat": {"norm": "linf", "eps": "0.1"}}
    )

    def work(exchange: Exchange) -> str:
        workspace = Workspace(ResultStore(tmp_path / "results"), torch.device("cpu"), exchange=exchange)
        with pytest.raises(UserError) as caught:
            prepare(config, RunSource(runs[exchange.world.rank]), workspace)
        return str(caught.value)

    first, second = together(work)
    assert first == second
    assert first.startswith("rank 1 has another model, images or options than rank 0 (tiny-")


def test_messages_of_any_length_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustbench_gkl.ranks.exchange._PIECE", 1000)
    noise = np.random.default_rng(0).integers(0, 2**62, 1000).tolist()
    for told in together(lambda exchange: exchange.gather([exchange.world.rank, *noise])):
        assert [values[0] for values in told] == [0, 1]
        assert all(values[1:] == noise for values in told)


class TestPool:
    def test_each_run_comes_once_and_no_rank_takes_more_than_its_part(self) -> None:
        tasks = [Task(0, position) for position in range(101)]

        def work(exchange: Exchange) -> list[Task]:
            pool = Pool(exchange, tasks, runs=3)
            done: list[Task] = []
            held: list[Task] = []
            while not pool.exhausted:
                time.sleep(0.002)
                taken = pool.take(80 - len(held), len(held))
                held += taken
                assert len(held) <= 51
                over, held = held[:7], held[7:]
                done += over
                pool.settle(over, [])
            return done

        first, second = together(work)
        assert sorted(first + second) == [Task(run, position) for run in range(3) for position in range(101)]
        assert first
        assert second

    def test_a_run_claimed_too_early_is_not_lost(self) -> None:
        """Both ranks see one free run and claim it; the second claim is for the run that comes next."""
        store = HashStore()
        one, other = (Pool(Exchange(World(rank, 2), store), [Task(0, 0), Task(0, 1)], runs=2) for rank in range(2))
        assert one.take(1, 0) == [Task(0, 0)]
        assert one.take(1, 0) == [Task(0, 1)]
        other._claims += [other._count("taken", 1) - 1]
        assert other.take(1, 0) == []
        one.settle([Task(0, 0)], [])
        time.sleep(0.06)
        assert other.take(0, 0) == []
        time.sleep(0.06)
        assert other.take(1, 0) == [Task(1, 0)]


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "1.0/2"])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="--shard must be K/N"):
        Shard.parse(text)


def test_shards_are_disjoint_and_whole() -> None:
    shards = [Shard.parse(f"{number}/3").samples(11) for number in (1, 2, 3)]
    assert np.array_equal(np.sum(shards, axis=0), np.ones(11))
