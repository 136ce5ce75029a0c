"""Settings of a Slurm partition."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from robustbench_gkl.config.files import read_mapping
from robustbench_gkl.core.validation import user_error


def _minutes(value: object) -> object:
    """Return the minutes that ``90``, ``"1:30:00"`` or ``"2-12:00:00"`` (days before the dash) mean."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", str(value))
    if found is None:
        return value
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes + -(-seconds // 60)


class SlurmSettings(BaseModel):
    """Settings of a Slurm partition: the JSON file of ``--slurm``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = None
    """Name of the partition; None for the cluster's default."""
    time: Annotated[int, BeforeValidator(_minutes), Field(ge=1)] = 240
    """Time limit of a task in minutes, or as ``D-HH:MM:SS``. What is not done by then is saved and queued again."""
    cpus_per_task: int = Field(1, ge=1)
    """CPU cores of a task."""
    gpus: int = Field(0, ge=0)
    """GPUs of a task."""
    mem: str | None = None
    """Memory of a task, such as ``16G``."""
    array_parallelism: int = Field(256, ge=1)
    """Tasks that run at the same time."""
    account: str | None = None
    """The account that is charged, sbatch's ``--account``."""
    qos: str | None = None
    """Quality of service, sbatch's ``--qos``."""
    constraint: str | None = None
    """Features that a node must have, sbatch's ``--constraint``."""
    exclude: str | None = None
    """Nodes that are not used, sbatch's ``--exclude``."""
    signal_delay: int = Field(90, ge=10)
    """Seconds before the time limit at which a task saves its state."""
    requeues: int = Field(1000, ge=0)
    """How often a task that ran into its time limit is queued again."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the task, such as ``module load cuda``."""
    options: dict[str, str | int | bool] = {}
    """Further options of sbatch."""

    def parameters(self, name: str) -> dict[str, Any]:
        """Return submitit's parameters."""
        same = ("partition", "time", "cpus_per_task", "mem", "array_parallelism", "account", "qos", "constraint")
        values = {key: getattr(self, key) for key in (*same, "exclude")}
        values |= {"gpus_per_node": self.gpus or None, "signal_delay_s": self.signal_delay}
        # Without accounting only a requeueable job survives its node; some clusters do not make jobs so by default.
        options = {"requeue": True} | self.options
        values |= {"job_name": name, "additional_parameters": options, "setup": list(self.setup) or None}
        return {key: value for key, value in values.items() if value is not None}


def read_settings(path: Path | None) -> SlurmSettings:
    """Return the partition's settings in a JSON file; the defaults without one.

    Raises:
        UserError: what is wrong with which key.
    """
    try:
        return SlurmSettings.model_validate({} if path is None else read_mapping(path))
    except ValidationError as error:
        raise user_error(error, what=str(path), model=SlurmSettings) from None
