"""Training in float64, in this process or as a program: ``python float64.py train ...`` is the command line.

In float32 the weights at a run's end are as much the processor's as ours: the attack follows the signs of gradients,
some of them smaller than their rounding, and a sign that flips moves a pixel by two steps. In float64 roundings are
a billion times smaller, and so are the chances of a flip: the same run, computed in two ways, agrees in its digits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from robustbench_gkl.cli import run
from robustbench_gkl.runs import Run
from robustbench_gkl.training import loop, origins, validation, views

FLOAT64 = (str(Path(__file__)),)
"""What python runs in place of ``-m robustbench_gkl``."""


@contextmanager
def float64() -> Iterator[None]:
    """Let training make its model, loss and images as ever, and go on with them in float64, in the block."""

    def doubled(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: make(*arguments, **options).double()

    with pytest.MonkeyPatch.context() as patch:
        made = ((loop, "fresh_model"), (loop, "create_loss"), (origins, "as_teacher"))
        for module, name in (*made, (views, "to_unit"), (validation, "to_unit")):
            patch.setattr(module, name, doubled(getattr(module, name)))
        yield


def assert_one_run(found: Run, expected: Run) -> None:
    """Both runs, made in float64, went the same way up to its rounding: curves, weights, momenta, averages, priors."""
    ours, theirs = _all_of(found), _all_of(expected)
    assert {value.dtype for value in theirs["state"]["model"].values()} <= {torch.float64, torch.int64}
    # Over a run of 27 steps rounding adds up to 1e-14. What the curves show is rounded to six digits after the point.
    for part, atol in (("state", 1e-11), ("weights", 1e-11), ("rows", 1.5e-6)):
        torch.testing.assert_close(ours[part], theirs[part], rtol=1e-9, atol=atol)


def _all_of(run: Run) -> dict[str, Any]:
    state = run.load_state()
    assert state is not None
    del state["seconds"]
    timed = ("seconds", "images_per_second")
    rows = [{key: value for key, value in row.items() if key not in timed} for row in state.pop("rows")]
    return {
        "state": state,
        "rows": rows,
        "weights": {which: load_file(run.weights_path(which)) for which in run.available()},
    }


if __name__ == "__main__":
    with float64():
        code = run(sys.argv[1:])
    sys.exit(code)
