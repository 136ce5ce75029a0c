"""Suites on Slurm: on a real one of a single node, and what can be judged without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import CommandLine
from local_slurm import LocalSlurm, missing
from suite_files import EVAL, QUICK, suite_of, write

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.suite.ledger import Folders, Ledger
from robustbench_gkl.suite.partition import SlurmSettings, read_settings
from robustbench_gkl.suite.slurm import CellTask

needs_submitit = pytest.mark.filterwarnings("ignore::DeprecationWarning:submitit")


@pytest.fixture
def slurm() -> Iterator[LocalSlurm]:
    """A real Slurm of one node."""
    if (reason := missing()) is not None:
        pytest.skip(f"no Slurm here: {reason}")
    with (
        tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as folder,
        LocalSlurm(Path(folder)) as up,
    ):
        yield up


def wait_for(what: Callable[[], bool], *, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_what_slurm_refuses_is_one_line(gklbench: CommandLine, slurm: LocalSlurm, here: Path) -> None:
    suite = write(here, f"[train]\n{QUICK}{EVAL}")
    (here / "slurm.json").write_text(json.dumps({"partition": "absent", "time": "0:10:00"}))
    refused = gklbench("suite", suite, "--launcher", "slurm", "--slurm", "slurm.json")
    assert refused.code == 2
    assert refused.err.startswith("Error: Slurm refuses the jobs (FailedJobError: sbatch: error: invalid partition")
    assert refused.err.count("\n") == 1


def test_a_cancelled_job_and_a_drained_node_are_made_up_for_by_one_more_call(
    gklbench: CommandLine, slurm: LocalSlurm, here: Path
) -> None:
    suite = write(here, f"[train]\n{QUICK}seed = [0, 1, 2, 3, 4, 5]\nname = 'r{{seed}}'\n{EVAL}")
    (here / "slurm.json").write_text(json.dumps({"partition": "main", "time": "0:10:00"}))
    command = ["suite", suite, "--launcher", "slurm", "--slurm", "slurm.json"]
    first = gklbench(*command, "--no-wait")
    assert first.code == 0, first.err
    assert "submitted 6 tasks as Slurm job" in first.out
    assert "12 cells: 12 queued" in first.out
    jobs = list(json.loads((here / "results" / "suites" / "suite" / "jobs.json").read_text()))
    assert len(jobs) == 6
    assert all("_" in job for job in jobs), "a job array"

    def states() -> dict[str, str]:
        lines = slurm.call("squeue", "--array", "--noheader", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    wait_for(lambda: "RUNNING" in states().values())
    slurm.call("scancel", jobs[4])
    slurm.update_node("state=drain", "reason=maintenance")
    assert slurm.node_state() in ("draining", "drained")
    wait_for(lambda: set(states().values()) == {"PENDING"})
    assert 0 < len(list((here / "results" / "records").iterdir())) < 6, "the rest waits for the node"

    resume = subprocess.Popen(["bash", "-c", f"sleep 3; scontrol update nodename={slurm.node} state=resume"])
    second = gklbench(*command)
    assert resume.wait() == 0
    assert second.code == 0, second.out + second.err
    assert "submitted 1 tasks" in second.out, "the cancelled one; the others are in the queue still"
    assert "[12/12] done" in second.out
    third = gklbench(*command)
    assert third.code == 0
    assert "12 cells: 12 done" in third.out
    assert "submitted" not in third.out


def descendants(pid: int) -> Iterator[int]:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from descendants(int(child))


def command_line_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")


@needs_submitit
def test_a_task_saves_its_state_before_its_time_is_up_and_goes_on(here: Path) -> None:
    import submitit

    suite = suite_of(here, f'[train]\n{QUICK}name = "long"\n'.replace("epochs = 1", "epochs = 80"))
    ledger = Ledger("suite", Folders())
    ledger.prepare()
    executor = submitit.LocalExecutor("jobs")
    executor.update_parameters(timeout_min=10, signal_delay_s=30)
    job = executor.submit(CellTask("suite", Folders(), suite.cells, 20.0))
    metrics = here / "checkpoints" / "long" / "metrics.csv"
    wait_for(metrics.exists)
    (task,) = [pid for pid in descendants(int(job.job_id)) if b"submitit.core._submit" in command_line_of(pid)]
    os.kill(task, signal.SIGUSR2)  # as Slurm does before it takes the node away
    wait_for(lambda: ledger.survey(suite.cells)[suite.cells[0].key] == "done")
    job.wait()
    log = ledger.log_path(suite.cells[0]).read_text()
    assert "epoch 1/80" not in log, "it began anew"
    assert len(metrics.read_text().splitlines()) == 81
    outcome = ledger.outcome(suite.cells[0])
    assert outcome is not None
    assert outcome.status == "done"


def test_the_settings_of_a_partition(tmp_path: Path) -> None:
    path = tmp_path / "slurm.json"
    path.write_text(
        json.dumps({"partition": "gpu", "time": "1-02:30:00", "gpus": 2, "mem": "16G", "options": {"x": 1}})
    )
    parameters = read_settings(path).parameters("name")
    assert parameters["time"] == 26 * 60 + 30
    assert (parameters["gpus_per_node"], parameters["mem"], parameters["partition"]) == (2, "16G", "gpu")
    assert parameters["additional_parameters"] == {"requeue": True, "x": 1}
    assert "gpus_per_node" not in SlurmSettings().parameters("name")
    path.write_text('{"partitoin": "gpu"}')
    with pytest.raises(UserError, match="unknown key 'partitoin'; did you mean 'partition'"):
        read_settings(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--no-wait"], "belong to --launcher slurm"), (["--launcher", "slurm"], "there is no srun here")],
)
def test_what_cannot_be_launched_is_said(
    options: list[str], message: str, gklbench: CommandLine, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    result = gklbench("suite", write(here, f"[train]\n{QUICK}"), *options)
    assert result.code == 2
    assert message in result.err


def test_without_submitit_its_command_is_said(
    gklbench: CommandLine, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    result = gklbench("suite", write(here, f"[train]\n{QUICK}"), "--launcher", "slurm")
    assert result.code == 2
    assert "pip install 'gklbench[slurm]'" in result.err


@pytest.mark.slow
def test_a_student_waits_in_the_queue_for_its_teacher(gklbench: CommandLine, slurm: LocalSlurm, here: Path) -> None:
    keys = 'model = "tiny-cnn"\ndataset = "digits"\nepochs = 1\ntrain_size = 128\nprobe.steps = 0\n'
    taught = f'[[train]]\n{keys}loss = "kd"\nteacher = "teacher"\nname = "student"\n'
    suite = write(here, f'[[train]]\n{keys}loss = "standard"\nname = "teacher"\n{taught}{EVAL}')
    (here / "slurm.json").write_text(json.dumps({"partition": "main", "time": "0:10:00"}))
    command = ["suite", suite, "--launcher", "slurm", "--slurm", "slurm.json"]
    slurm.update_node("state=drain", "reason=nothing begins before all is queued")
    first = gklbench(*command, "--no-wait")
    assert first.code == 0, first.err
    jobs = list(json.loads((here / "results/suites/suite/jobs.json").read_text()))
    assert len(jobs) == 3, "the student does not wait for its teacher's evaluation"
    assert f"submitted 2 tasks as Slurm job {jobs[1].partition('_')[0]}, after {jobs[0]}" in first.out
    told = slurm.call("squeue", "--array", "--noheader", "--format=%i %E").splitlines()
    assert [line.startswith("afterany:" + jobs[0], line.index(" ") + 1) for line in told].count(True) == 2
    slurm.update_node("state=resume")
    second = gklbench(*command)
    assert second.code == 0, second.out + second.err
    assert "[4/4] done" in second.out
    assert (here / "checkpoints/student/last.safetensors").exists()
