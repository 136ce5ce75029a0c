"""The figures of ``metrics.csv`` as they come, and loggers that get its rows too."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LoggerName = Literal["tensorboard"]


class Means:
    """Running means of scalars that stay on their device until they are asked for."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """Take in one step's scalars; nothing is waited for."""
        self.count += 1
        for key, value in values.items():
            before = self.totals.get(key)
            self.totals[key] = value.detach().clone() if before is None else before + value.detach()

    def read(self) -> dict[str, float]:
        """Return the means; this waits for the device."""
        if not self.totals:
            return {}
        values = torch.stack([total.double() for total in self.totals.values()]).tolist()
        return {key: round(value / self.count, 6) for key, value in zip(self.totals, values, strict=True)}


class Logger(Protocol):
    """Gets each epoch's row; use as a context manager."""

    def log(self, row: dict[str, float]) -> None:
        """Take note of a row of ``metrics.csv``."""
        ...

    def __enter__(self) -> Logger: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class TensorBoard:
    """Writes rows as TensorBoard scalars, one tag a column, the epoch as step.

    Args:
        folder: where the event files go; it is made for the first row.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "--logger tensorboard needs the extra: pip install 'gklbench[tensorboard]'; metrics.csv needs none"
            ) from None
        self._open = partial(SummaryWriter, str(folder))
        self._writer: SummaryWriter | None = None

    def log(self, row: dict[str, float]) -> None:
        """Write every column but the epoch."""
        if self._writer is None:
            self._writer = self._open()
        for key, value in row.items():
            if key != "epoch":
                self._writer.add_scalar(key, value, int(row["epoch"]))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
