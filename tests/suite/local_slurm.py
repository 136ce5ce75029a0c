"""A Slurm of one node on this machine, with its own authentication, ports and folder: nothing outside is touched."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sinfo", "sbatch", "srun")


def missing() -> str | None:
    """Return why Slurm cannot be started here; None if it can."""
    absent = [program for program in PROGRAMS if _found(program) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "Slurm's daemons are started by root only"


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class LocalSlurm:
    """The daemons; use as a context manager, inside which ``SLURM_CONF`` points to their configuration.

    Args:
        folder: for everything they write. Its path must be short, for the socket of munge.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.node = folder, socket.gethostname().partition(".")[0]
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._before = os.environ.get("SLURM_CONF")

    def __enter__(self) -> LocalSlurm:
        for name in ("ctld", "d"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)
        key, munge = self.folder / "munge.key", self.folder / "munge.socket"
        subprocess.run([str(_found("mungekey")), "--create", f"--keyfile={key}"], check=True)
        own = [f"--{name}-file={self.folder / name}" for name in ("pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}", *own)
        (self.folder / "slurm.conf").write_text(self._configuration(munge))
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", self.node)
        deadline = time.monotonic() + 60
        while self.node_state() != "idle":
            if time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"Slurm did not come up; see the logs in {self.folder}")
            time.sleep(0.3)
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(["scancel", "--me"], capture_output=True, check=False)
        deadline = time.monotonic() + 15
        while self.call("squeue", "--noheader", check=False).strip() and time.monotonic() < deadline:
            time.sleep(0.3)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        if self._before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = self._before

    def _start(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.out").open("wb") as log:
            self._daemons.append(subprocess.Popen([str(_found(program)), *arguments], stdout=log, stderr=log))

    def _configuration(self, munge: Path) -> str:
        folder = self.folder
        return f"""\
ClusterName=test
SlurmctldHost={self.node}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/d
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,batch_sched_delay=0
MinJobAge=10
KillWait=5
ReturnToService=2
NodeName={self.node} NodeAddr=127.0.0.1 CPUs={len(os.sched_getaffinity(0))} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

    def node_state(self) -> str:
        """Return what ``sinfo`` says of the node."""
        return self.call("sinfo", "--noheader", "--format=%T", check=False).strip()

    def update_node(self, *changes: str) -> None:
        """Drain the node, or take it back into service."""
        self.call("scontrol", "update", f"nodename={self.node}", *changes)

    def call(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it prints."""
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=60).stdout
