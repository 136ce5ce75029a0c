"""Two hosts, which are two network namespaces of this machine joined by a cable, do the work of one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from command_line import CommandLine, Result
from float64 import FLOAT64, assert_one_run, float64

from robustbench_gkl.results import ResultStore
from robustbench_gkl.runs import Run

Hosts = Callable[..., list[Result]]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Start the command line by torchrun on both hosts, which meet at an address of the first."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need iproute2 and root")
    names = [f"gklbench-{os.getpid()}-{number}" for number in (1, 2)]
    made = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
            for number, name in enumerate(names, 1):
                ip("-n", name, "address", "add", f"10.213.7.{number}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        yield lambda *arguments, **options: _on_both(names, arguments, cwd=tmp_path, **options)
    finally:
        for name in made:
            ip("netns", "delete", name)


def _on_both(
    names: list[str],
    arguments: tuple[object, ...],
    *,
    cwd: Path,
    program: tuple[str, ...] = ("-m", "--", "robustbench_gkl"),
) -> list[Result]:
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "eth0",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "10.213.7.1:29417", "--rdzv-id", "test"]
    started = []
    for number, name in enumerate(names, 1):
        own = ["--local-addr", f"10.213.7.{number}", "--rdzv-conf", f"is_host={int(number == 1)}"]
        command = [*launcher, *meeting, *own, *program, *map(str, arguments)]
        started.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *command],
                cwd=cwd,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        results = [(process, *process.communicate(timeout=600)) for process in started]
    finally:
        for process in started:
            process.kill()
    return [Result(process.returncode, out, err) for process, out, err in results]


def test_two_hosts_evaluate_as_one_process(hosts: Hosts, trained: Path, tmp_path: Path, gklbench: CommandLine) -> None:
    attacks = ("--attack", "pgd:steps=3", "--attack", "autoattack:version=quick")
    arguments = ("eval", trained / "tiny", "--n", 200, "--eps", "0.03", "--device", "cpu", *attacks)
    assert gklbench(*arguments, "--results-dir", tmp_path / "one").code == 0
    results = hosts(*arguments, "--results-dir", tmp_path / "two")
    assert [result.code for result in results] == [0, 0], [result.err for result in results]
    assert sum("by 2 ranks" in result.out for result in results) == 1
    (one,), (two,) = (ResultStore(tmp_path / name).records() for name in ("one", "two"))
    assert 0 < two.worst_case_acc < two.clean_acc
    assert two.environment["processes"] == "2"
    assert two.checks == one.checks
    assert one.verdicts_sha256 == two.verdicts_sha256


def test_two_hosts_train_as_one_process(hosts: Hosts, tmp_path: Path, gklbench: CommandLine) -> None:
    quick = ("--set", "train_size=300", "--set", "attack.steps=3", "--set", "attack.start=uniform")
    arguments = ("train", "digits-gkl", "--epochs", 2, "--batch-size", 33, "--device", "cpu", "--name", "net", *quick)
    with float64():
        assert gklbench(*arguments, "--set", "probe.steps=2", "--checkpoints-dir", tmp_path / "one").code == 0
    results = hosts(*arguments, "--set", "probe.steps=2", "--checkpoints-dir", tmp_path / "two", program=FLOAT64)
    assert [result.code for result in results] == [0, 0], [result.err for result in results]
    assert sum("2 ranks" in result.out for result in results) == 1
    one, two = (Run(tmp_path / name / "net") for name in ("one", "two"))
    assert len(pd.read_csv(two.folder / "metrics.csv")) == 2
    assert two.config().environment["ranks"] == "2"
    assert_one_run(two, one)
