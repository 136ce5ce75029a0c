"""How long a leaderboard over 10,000 records takes, and the ranks of one tier.

    python benchmarks/leaderboard.py [--records 10000] [--models 1000]

The records are made up in a temporary folder, on boards of so many models with 1,000 samples each. Printed are the
processor seconds of reading, joining, ranking and the whole table, and of the ranks of one tier of so many models.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from robustbench_gkl.results import Record, ResultStore, leaderboard
from robustbench_gkl.results.board import Ranking, entries_of
from robustbench_gkl.results.record import pack_standing
from robustbench_gkl.results.statistics import PairedTests

EXAMPLE = Path(__file__).parents[1] / "results/examples/cifar10-cnn-a"
SAMPLES = 1000


def made_up(template: Record, number: int, models: int, generator: np.random.Generator) -> Record:
    """Return the record of a model of its own, on the board that its number says."""
    stands = generator.random(SAMPLES) < 0.2 + 0.6 * (number % models) / models
    figures = {"robust_acc": 100 * float(stands.mean()), "standing": pack_standing(stands)}
    identity = {"name": f"m{number}", "weights_sha256": f"{number}", "model_sha256": f"{number}"}
    return template.model_copy(
        update={
            "schema_version": 2,
            "id": f"m{number}-{number:012}",
            "model": template.model.model_copy(update=identity),
            "data": template.data.model_copy(update={"n": SAMPLES, "index_ranges": ((0, SAMPLES),)}),
            "threat": template.threat.model_copy(update={"eps": f"{1 + number // models}/255"}),
            "attacks": tuple(attack.model_copy(update=figures) for attack in template.attacks),
            "worst_case_acc": figures["robust_acc"],
            "standing": figures["standing"],
        }
    ).sealed()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=1_000)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    template = next(ResultStore(EXAMPLE).records())
    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(Path(folder))
        store.prepare()
        for number in range(arguments.records):
            store.evaluations.save(made_up(template, number, arguments.models, generator))
        started = time.process_time()
        records = list(store.records())
        read = time.process_time()
        entries = entries_of(records, store)
        joined = time.process_time()
        Ranking.of(entries)
        ranked = time.process_time()
        leaderboard(folder)
        done = time.process_time()
    print(f"{arguments.records:,} records on boards of {arguments.models:,} models, {SAMPLES:,} samples each")
    print(f"read {read - started:.2f} s, join {joined - read:.2f} s, rank {ranked - joined:.2f} s")
    print(f"the whole table {done - ranked:.2f} s")
    standing = generator.random((arguments.models, SAMPLES)) < np.linspace(0.3, 0.6, arguments.models)[:, None]
    started = time.process_time()
    PairedTests.of(standing).ranks()
    print(f"ranks of one tier of {arguments.models:,} models {time.process_time() - started:.2f} s")


if __name__ == "__main__":
    main()
