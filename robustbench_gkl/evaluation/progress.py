"""What an evaluation reports while it runs."""

from __future__ import annotations

from dataclasses import dataclass


def ignore(line: str) -> None:
    """Do nothing with a line that nobody wants."""


@dataclass(frozen=True)
class Progress:
    """Where an evaluation stands.

    Attributes:
        stage: the attack that runs, or ``clean``.
        done, total: samples that the stage is through with, and all that it has.
        standing: samples not broken so far; with ``n`` an upper bound on robust accuracy at any moment.
        n: all samples.
        fallen: samples that this stage has broken.
        calls_per_second: images that go through the model in a second, forwards and backwards together.
        seconds_left: until this stage is over, at the present pace; None before there is one.
    """

    stage: str
    done: int
    total: int
    standing: int
    n: int
    fallen: int = 0
    calls_per_second: float = 0.0
    seconds_left: float | None = None
