"""Our attack engine against pyautoattack and torchattacks, on the same samples in one run.

    python benchmarks/attacks.py cnn-a [--n 500] [--norm linf --eps 2/255] [--attack autoattack] [--second-seed]
        [--torchattacks]
    python benchmarks/attacks.py resnet18 [--n 32]
    python benchmarks/attacks.py pgd [--model resnet18]
    python benchmarks/attacks.py memory

``cnn-a`` needs the folder of reference data beside the checkout, with a robust CIFAR-10 model. ``resnet18`` is the net
in pyautoattack's wheel; without that folder it is attacked on smooth random images, labelled by itself.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from peak_memory import peak_memory
from torch import Tensor, nn

from robustbench_gkl.attacks import SearchSpec, parse_attack
from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.attacks.specs.torchattacks import import_torchattacks
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import PUBLISHED_NORMS
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import load_dataset, to_unit
from robustbench_gkl.evaluation.parity import compare_engines
from robustbench_gkl.models import create_model
from robustbench_gkl.models.published import load_published, read_checkpoint
from robustbench_gkl.report.parity import print_parity
from robustbench_gkl.report.terminal import make_console

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def load(name: str) -> nn.Module:
    """Return ``cnn-a`` or ``resnet18`` with published weights."""
    if name == "cnn-a":
        path = SHARED / "models" / "cifar_cnn_a_adv.model"
        model = create_model("cnn-a", num_classes=10, mean=(0.4914, 0.4824, 0.4467), std=(0.225,))
    else:
        spec = find_spec("pyautoattack")
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin).parent / "examples" / "model_test.pt"
        model = create_model("resnet18", num_classes=10)
    if not path.exists():
        raise SystemExit(f"{path} is not there")
    load_published(model, read_checkpoint(path))
    return model.eval()


def samples(model: nn.Module, n: int, *, correct: bool) -> tuple[Tensor, Tensor]:
    """Return test images (N, 3, 32, 32) and labels (N,); only those classified correctly if ``correct``."""
    data = SHARED / "data" / "cifar10-jpeg-12k.npz"
    if data.exists():
        test = load_dataset(f"npz:{data}").load("test")
        images, labels = to_unit(test.images), test.labels
    else:
        coarse = torch.rand(2000, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        images = F.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
        labels = torch.full((2000,), -1)
    images, labels = images[: max(n, min(2 * n, 2000)) if correct else n], labels[: 2 * n if correct else n]
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in images.split(100)])  # type: ignore[no-untyped-call]
    if not data.exists():
        labels = predicted
    kept = predicted == labels if correct else torch.ones_like(labels, dtype=torch.bool)
    return images[kept][:n], labels[kept][:n]


def autoattack(options: argparse.Namespace, *, correct: bool) -> None:
    """Compare verdicts and times of both engines."""
    model = load(options.case)
    images, labels = samples(model, options.n, correct=correct)
    threat = ThreatModel(options.norm, options.eps)
    console = make_console()
    console.print(f"{options.case}, {len(images)} images, {threat}, {torch.get_num_threads()} threads")
    for spec in options.attack or ["autoattack"]:
        comparison = compare_engines(
            model,
            images,
            labels,
            threat,
            parse_attack(spec),
            batch_size=options.batch_size,
            second_seed=options.second_seed,
        )
        print_parity(comparison, console)
    if options.torchattacks:
        torchattacks_ensemble(model, images, labels, threat)


def torchattacks_ensemble(model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> None:
    """Time torchattacks' AutoAttack on ``images`` (N, C, H, W) with ``labels`` (N,), and count the samples standing.

    It runs APGD and FAB for 10 steps instead of 100.
    """
    torchattacks = import_torchattacks()
    norm = PUBLISHED_NORMS[threat.norm]
    attack = torchattacks.AutoAttack(model, norm=norm, eps=threat.radius, version="standard", n_classes=10, seed=0)
    standing = 0
    began = time.perf_counter()
    for part, truth in zip(images.split(250), labels.split(250), strict=True):  # type: ignore[no-untyped-call]
        with attack_mode(model):
            found = attack(part, truth)
        with torch.no_grad():
            standing += int((model(found).argmax(1) == truth).sum())
    seconds = time.perf_counter() - began
    print(f"torchattacks.AutoAttack: {100 * standing / len(images):.2f} % standing, {seconds:.1f} s")


def pgd(options: argparse.Namespace) -> None:
    """Time PGD-50 from the images and torchattacks' with the same steps and start; the best of three turns each."""
    torchattacks = import_torchattacks()
    model = load(options.model)
    images, labels = samples(model, options.n, correct=True)
    threat = ThreatModel(options.norm, options.eps)
    attack = parse_attack("pgd:steps=50,random_start=false")
    theirs = torchattacks.PGD(model, eps=threat.radius, alpha=threat.radius / 20, steps=50, random_start=False)
    noise = Noise(0, torch.arange(len(labels)))
    ours = seconds = float("inf")
    with attack_mode(model):
        for _ in range(3):  # the first turn fills the libraries' caches of shapes
            began = time.perf_counter()
            found = attack(model, images, labels, threat, noise=noise)
            ours = min(ours, time.perf_counter() - began)
            began = time.perf_counter()
            other = theirs(images, labels)
            seconds = min(seconds, time.perf_counter() - began)
        with torch.no_grad():
            fell, fell_there = (model(points).argmax(1) != labels for points in (found, other))
    print(f"PGD-50 on {options.model}, {len(labels)} images, {threat}, {torch.get_num_threads()} threads")
    print(f"ours {ours:.2f} s, {int((~fell).sum())} standing; torchattacks {seconds:.2f} s, {int((~fell_there).sum())}")
    print(f"{seconds / ours:.2f} times as fast; {int((fell != fell_there).sum())} verdicts differ")


def memory(options: argparse.Namespace) -> None:
    """Measure the peak memory of each attack beyond that of one gradient of the model, in batches of images."""
    model = load(options.model)
    images, labels = samples(model, options.n, correct=True)
    threat = ThreatModel(options.norm, options.eps)
    batch = images.numel() * 4

    def gradient() -> None:
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)

    with attack_mode(model):
        own = peak_memory(gradient)
        for spec in (
            "pgd:steps=2",
            "apgd-ce:steps=4",
            "apgd-t:steps=4,targets=1",
            "fab-t:steps=2,targets=1",
            "square:queries=4",
        ):
            attack = parse_attack(spec)
            assert isinstance(attack, SearchSpec)
            noise = Noise(0, torch.arange(len(labels)))
            held = peak_memory(partial(attack, model, images, labels, threat, noise=noise))
            beyond = max(0.0, (held - own) / batch)
            print(f"{attack.name:8} {beyond:4.1f} batches of images beyond the model's own {own / 2**20:.0f} MiB")


def main() -> None:
    """Run the case that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["cnn-a", "resnet18", "pgd", "memory"])
    parser.add_argument("--n", type=int)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--eps")
    parser.add_argument("--attack", action="append")
    parser.add_argument("--model", choices=["cnn-a", "resnet18"], default="resnet18")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--second-seed", action="store_true")
    parser.add_argument("--torchattacks", action="store_true")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    robust = "cnn-a" in (options.case, options.model)
    options.n = options.n or {"cnn-a": 500, "resnet18": 32, "pgd": 250 if robust else 32, "memory": 64}[options.case]
    options.eps = options.eps or ("2/255" if robust else "8/255")
    try:
        if options.case == "pgd":
            pgd(options)
        elif options.case == "memory":
            memory(options)
        else:
            autoattack(options, correct=options.case == "resnet18")
    except UserError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
