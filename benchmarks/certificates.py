"""Certificates: what they spare AutoAttack, and what the search beside them breaks; by processor time, on one thread.

    python benchmarks/certificates.py cnn-a [--n 500] [--eps 2/255]
    python benchmarks/certificates.py mnist [--n 500] [--eps 0.1]
    python benchmarks/certificates.py resnet18
    python benchmarks/certificates.py hard [--seconds 40] [--seeds 0 1 2] [--no-restarts]

The first two run AutoAttack without and with certificates on the same images and compare all verdicts. ``resnet18``
times what the forecast costs that turns certificates off. ``hard`` gives branch and bound, and plain restarts beside
it, so many seconds for each of 20 MNIST images that exact methods break and gradient attacks do not; successes are
confirmed in float64. All need the folder of reference data beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from attacks import SHARED, load, samples
from torch import Tensor, nn

from robustbench_gkl.attacks.specs.autoattack import AutoAttack
from robustbench_gkl.certification import descent
from robustbench_gkl.certification.branching import Budget
from robustbench_gkl.certification.certifier import Bounded, Certifier
from robustbench_gkl.certification.reading import read_network
from robustbench_gkl.config.schema import ThreatConfig
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import load_dataset, to_unit
from robustbench_gkl.evaluation.effort import Effort
from robustbench_gkl.evaluation.engine import measure


def mnist() -> nn.Sequential:
    """Return a small MNIST net that other people trained at linf 0.3."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 5, 2, 2), nn.ReLU(), nn.Conv2d(4, 8, 5, 2, 2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(392, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    state = torch.load(SHARED / "models" / "mnist_madry_cnn_tiny.pt", weights_only=True, map_location="cpu")
    state = state.get("state_dict", state)
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    return net.eval().requires_grad_(False)


def digits(index: list[int]) -> tuple[Tensor, Tensor]:
    """Return MNIST test images (N, 1, 28, 28) and labels (N,), by their indices among the 10,000."""
    parts = [load_dataset(f"npz:{SHARED / 'data' / 'mnist-10k.npz'}").load(split) for split in ("train", "test")]
    images = torch.cat([part.images for part in parts])[index]
    return to_unit(images), torch.cat([part.labels for part in parts])[index].long()


def spared(options: argparse.Namespace) -> None:
    """Run AutoAttack without and with certificates."""
    small = options.case == "mnist"
    model = mnist() if small else load(options.case)
    images, labels = digits(list(range(options.n))) if small else samples(model, options.n, correct=False)
    threat = ThreatModel("linf", options.eps or {"mnist": "0.1", "cnn-a": "2/255"}[options.case])
    found, spent = [], []
    for effort in (None, Effort()):
        began = time.process_time()
        found.append(measure(model, images, labels, threat, "autoattack", effort=effort, on_note=print))
        spent.append(time.process_time() - began)
        stages = [stage for attack in found[-1].attacks for stage in attack.stages]
        told = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in stages)
        print(
            f"{'with' if effort else 'without'} certificates: {spent[-1]:.1f} s of processor time; by the clock {told}"
        )
    proved = sum(map(found[1].is_certified, range(options.n)))
    differ = int((found[0].broken_by != found[1].broken_by).sum())
    print(f"{threat}: {found[1].standing.sum()} of {options.n} stand, {proved} proved, {differ} verdicts differ")
    by_clock = found[0].seconds / found[1].seconds
    print(f"{spent[0] / spent[1]:.2f} times as fast by processor time, {by_clock:.2f} by the clock")


def forecast() -> None:
    """Time what is done for a network that is too large."""
    model = load("resnet18")
    images, _ = samples(model, 2, correct=False)
    began = time.process_time()
    certifier = Certifier(read_network(model, images), ThreatModel("linf", "8/255"))
    spent = time.process_time() - began
    most = AutoAttack().calls(ThreatConfig(norm="linf", eps="8/255"), num_classes=10).total
    print(
        f"{spent:.1f} s to read the network; {certifier.calls:,} rows a sample against {most:,.0f} calls of AutoAttack"
    )


def plain(
    certifier: Certifier, bounded: Bounded, budget: Budget, noise: Noise, fools: Callable[[Tensor], bool]
) -> bool:
    """Return whether rounds of the attack with random starts alone break a sample."""
    problems = bounded.problems
    assert problems is not None
    nothing = descent.Points.none(problems)
    rounds = 0
    while not budget.over:
        ends = descent.search_round(certifier.network, problems, nothing, nothing, noise.at("round", rounds))
        budget.spend(descent.CALLS)
        rounds += 1
        if any(map(fools, ends.images[ends.margins <= 0])):
            return True
    return False


def hard(options: argparse.Namespace) -> None:
    """Search the hard instances by branch and bound and by plain restarts."""
    known = json.loads((SHARED / "reference" / "hard_instances.json").read_text(encoding="utf-8"))
    index = known["mnist_madry_cnn_tiny"]
    images, labels = digits(index)
    model, precise, threat = mnist(), mnist().double(), ThreatModel("linf", "0.3")
    certifier = Certifier(read_network(model, images), threat)
    bounded = [
        found for one in range(len(index)) for found in certifier.bound(images[one : one + 1], labels[one : one + 1])
    ]
    counts = np.zeros((len(options.seeds), 2), dtype=int)
    for row, seed in enumerate(options.seeds):
        for place, position in enumerate(index):
            noise = Noise(seed, torch.tensor([position])).at("certify")

            def fools(image: Tensor, place: int = place) -> bool:
                inside = bool(threat.contains(image[None], images[place : place + 1]))
                return inside and int(precise(image[None].double()).argmax()) != int(labels[place])

            searched = Budget(seconds=options.seconds)
            broken = certifier.search(bounded[place], searched, noise, fools).image is not None
            repeated = Budget(seconds=options.seconds if options.restarts else 0.0)
            restarted = plain(certifier, bounded[place], repeated, noise, fools)
            counts[row] += broken, restarted
            told = [
                f"{'broken' if did else 'open'} {budget.spent_seconds:.1f} s"
                for did, budget in ((broken, searched), (restarted, repeated))
            ]
            print(f"seed {seed}, {position}: search {told[0]}, plain restarts {told[1]}", flush=True)
    for place, name in enumerate(("search", "plain restarts")):
        broken_by = counts[:, place]
        print(f"{options.seconds:g} s each, {name}: {broken_by.tolist()} of {len(index)}, mean {broken_by.mean():.1f}")


def main() -> None:
    """Run one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["cnn-a", "mnist", "resnet18", "hard"])
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--eps")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--no-restarts", dest="restarts", action="store_false")
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"resnet18": lambda _: forecast(), "hard": hard}.get(options.case, spared)(options)


if __name__ == "__main__":
    main()
