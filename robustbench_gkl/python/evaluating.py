"""Evaluation from Python, of any model, with or without a record."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks import AttackSpec, parse_attack
from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.attacks.search.driver import Precision
from robustbench_gkl.config.options import Native
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.device import device_of
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.core.validation import validated
from robustbench_gkl.data import Dataset, ImageSet, to_unit
from robustbench_gkl.evaluation.arrays import Arrays, Threat, as_images, as_index, as_labels, as_threat
from robustbench_gkl.evaluation.batch_size import BatchSize
from robustbench_gkl.evaluation.effort import Effort
from robustbench_gkl.evaluation.engine import EngineSettings, measure
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.job import Job, job_of
from robustbench_gkl.evaluation.progress import Progress
from robustbench_gkl.evaluation.recorded import Recorded, evaluate_job
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.models.base import Classifier, WrappedClassifier
from robustbench_gkl.python.showing import console_for
from robustbench_gkl.report.events import show_evaluation, show_failed
from robustbench_gkl.report.live import LiveProgress
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.runs import weights_sha256
from robustbench_gkl.sources.subject import Subject


def evaluate(
    model: nn.Module,
    images: Arrays,
    labels: Arrays,
    threat: Threat,
    attacks: str | AttackSpec | Sequence[str | AttackSpec] = "autoattack",
    *,
    name: str | None = None,
    results_dir: str | Path | None = None,
    dataset: str | None = None,
    split: Literal["test", "train"] = "test",
    index: Arrays | None = None,
    seed: int = 0,
    batch_size: BatchSize = 250,
    device: torch.device | str | None = None,
    reference: bool = False,
    search_precision: Precision = "float32",
    compiled: bool = False,
    time_limit: float | None = None,
    keep_adversarial: bool = False,
    overwrite: bool = False,
    effort: Effort | None = None,
    progress: bool | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Measure clean and robust accuracy of any model, and record them if ``name`` is given.

    The model is put in eval mode for the time of the call. Each attack runs on the samples that stand after those
    before it. A candidate counts only if it is finite, in [0, 1], inside the ball, and misclassified when
    predicted again in float32.

    Args:
        model: images (B, C, H, W) float32 in [0, 1] to logits (B, K); normalisation belongs inside.
        images: (N, C, H, W), uint8, or float in [0, 1]; a tensor, an array or lists.
        labels: (N,) integers in {0, ..., K - 1}.
        threat: the threat model, or norm and eps such as ``("Linf", "8/255")``.
        attacks: one spec such as ``"autoattack"`` or ``"pgd:steps=20"``, or several, or attacks; an empty list for the
            clean accuracy alone.
        name: the model's name on the board; None makes no record.
        results_dir: where the record goes, such as ``"results"``. With a record, an evaluation that was done already is
            read, and one that was interrupted goes on.
        dataset: the data set that the images are from, as the board names it.
        split: which part of it.
        index: (N,) the samples' indices in the split, to which the random numbers belong; None for its first N.
        seed, batch_size, reference, search_precision, compiled: see :class:`EngineSettings`.
        device: where to run; None for where the model's parameters are.
        time_limit: seconds after which to stop, with the outcome marked partial; None for no limit.
        keep_adversarial: return the adversarial images too; with a record, only if it is made now.
        overwrite: measure again although there is a record.
        effort: certify the samples that stand after the first stage, which spares them the rest.
        progress: show a bar; None for in notebooks and on terminals alone.
        on_progress: called a few times a second.

    Returns:
        The verdict on each sample and the result of each attack; ``record`` is what the board reads.

    Raises:
        UserError: an unknown attack, or one for another norm; images, labels or logits of the wrong shape or range; NaN
            logits; a name without ``dataset`` and ``results_dir``, or these without a name.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"the model must be a torch.nn.Module, got {type(model).__name__}; wrap the function in one")
    found = as_images(images)
    targets = as_labels(labels, len(found))
    places = None if index is None else as_index(index, len(found))
    ball = as_threat(threat)
    specs = [attacks] if isinstance(attacks, (str, AttackSpec)) else list(attacks)
    settings = EngineSettings(seed, batch_size, reference, search_precision, compiled)
    if (name is None) != (results_dir is None) or (name is None) != (dataset is None):
        raise UserError("a record needs name, results_dir and dataset together; give all three, or none for no record")
    # The caller may be in a block that takes no gradients.
    with torch.inference_mode(False), torch.enable_grad(), LiveProgress(console_for(progress)) as display:
        tell = _observer(display, on_progress)
        if name is None or results_dir is None or dataset is None:
            result = measure(
                model,
                found,
                targets,
                ball,
                specs,
                settings,
                index=places,
                device=device,
                time_limit=time_limit,
                keep_adversarial=keep_adversarial,
                effort=effort,
                on_progress=tell,
                on_note=display.line,
            )
            result.name, result.threat = type(model).__name__, ball
            return result
        where = device_of(model) if device is None else torch.device(device)
        samples = ImageSet(found, targets, tuple(map(str, range(_classes(model, found, where)))))
        workspace = Workspace(
            ResultStore(Path(results_dir)),
            where,
            on_progress=tell,
            on_checks=lambda checks: show_failed(checks, display),
            on_note=display.line,
            on_wait=display.line,
        )
        config = _config(dataset, split, len(found), ball, specs, settings)
        source = _PythonSource(model, name)
        job = job_of(
            config, source, source.load(samples, device=where), samples, workspace, index=places, effort=effort
        )
        outcome = evaluate_job(job, workspace, overwrite=overwrite, time_limit=time_limit)
    return _result(outcome, job, workspace.store, keep_adversarial=keep_adversarial)


def _result(outcome: Recorded, job: Job, store: ResultStore, *, keep_adversarial: bool) -> Evaluation:
    """Return what was measured now, or what the record holds that was there already."""
    result = outcome.evaluation
    if result is None:
        result = Evaluation.of_record(outcome.record, store.verdicts(outcome.record), num_classes=job.model.num_classes)
    if not keep_adversarial:
        result.adversarial = result.has_adversarial = None
    result.record, result.name, result.threat = outcome.record, job.name, job.config.threat.threat()
    return result


def _observer(display: LiveProgress, on_progress: Callable[[Progress], None] | None) -> Callable[[Progress], None]:
    """Return what shows where an evaluation stands, and calls ``on_progress`` too."""

    def tell(event: Progress) -> None:
        show_evaluation(event, display)
        if on_progress is not None:
            on_progress(event)

    return tell


def certify(
    model: nn.Module,
    images: Arrays,
    labels: Arrays,
    threat: Threat,
    *,
    complete: bool = False,
    seconds: float | None = None,
    calls: int | None = None,
    name: str | None = None,
    results_dir: str | Path | None = None,
    dataset: str | None = None,
    split: Literal["test", "train"] = "test",
    index: Arrays | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    time_limit: float | None = None,
    keep_adversarial: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Prove of samples that no image in their balls is classified wrongly, up to floating point.

    Args:
        model, images, labels, threat: as for :func:`evaluate`; the model must be made of convolutions, linear layers,
            batch normalisation, average pooling, ReLUs and sums.
        complete: search the samples that bounds do not prove, by branch and bound and an attack beside it, until they
            are decided, or found to be too close to decide, or their budget is spent.
        seconds: of the processor for each of these; None for no limit, so that one may take days.
        calls: rows and images through the network for each of these, forwards and backwards; None for no limit.
        name, results_dir, dataset, split, index, seed, device: as for :func:`evaluate`.
        time_limit, keep_adversarial, overwrite, progress, on_progress: likewise.

    Returns:
        The verdict on each sample: ``certified_by`` where it is proved, ``broken_by`` where the search broke it.

    Raises:
        UserError: as :func:`evaluate`; "unsupported: LAYER" for a layer without bounds; a budget without ``complete``.
    """
    if not complete and (seconds is not None or calls is not None):
        raise UserError("seconds and calls limit the search of complete=True; give both, or neither for bounds alone")
    return evaluate(
        model,
        images,
        labels,
        threat,
        "certify",
        name=name,
        results_dir=results_dir,
        dataset=dataset,
        split=split,
        index=index,
        seed=seed,
        device=device,
        time_limit=time_limit,
        keep_adversarial=keep_adversarial,
        overwrite=overwrite,
        effort=Effort(complete, seconds, calls),
        progress=progress,
        on_progress=on_progress,
    )


@dataclass(frozen=True)
class _PythonSource:
    """A model that the caller has built."""

    module: nn.Module
    name: str

    @property
    def label(self) -> str:
        """The model's name."""
        return f"the model {self.name}"

    def native(self) -> Native:
        """Return that nothing is known of it."""
        return Native()

    def reference(self) -> dict[str, Any]:
        """Return that no command finds the model again."""
        return {"model": None}

    def fitted(self, dataset: Dataset) -> Dataset:
        """Return ``dataset`` as it is."""
        return dataset

    def load(self, dataset: Dataset | ImageSet, *, device: torch.device) -> Subject:
        """Return the model, for as many classes and images of such a size as ``dataset`` has."""
        model = self.module
        if not isinstance(model, Classifier):
            model = WrappedClassifier(model, num_classes=len(dataset.classes), input_shape=dataset.shape)
        return Subject(
            model=model.to(device),
            arch=type(self.module).__name__,
            weights_sha256=weights_sha256(model),
            code_sha256=_code_sha256(self.module),
            source={"kind": "python"},
        )


@torch.no_grad()
def _classes(model: nn.Module, images: Tensor, device: torch.device) -> int:
    """Return the length of the model's logits.

    Raises:
        UserError: the model does not return logits (B, K).
    """
    with attack_mode(model):
        logits = model.to(device)(to_unit(images[:1].to(device)))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the model must return logits (B, K), got {got} for one image")
    return int(logits.shape[1])


def _code_sha256(model: nn.Module) -> str:
    """Return the hash of the source of all classes of modules in ``model`` but torch's own."""
    kinds = {type(module) for module in model.modules()}
    lines = []
    for kind in sorted(kinds, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        name = f"{kind.__module__}.{kind.__qualname__}"
        if not name.startswith(("torch.", "torchvision.")):
            with suppress(OSError, TypeError):  # no source where it was typed in at a prompt
                name += "\n" + inspect.getsource(kind)
        lines.append(name)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _config(
    dataset: str,
    split: str,
    n: int,
    threat: ThreatModel,
    attacks: Sequence[str | AttackSpec],
    settings: EngineSettings,
) -> EvalConfig:
    """Return what is measured, as the record keeps it."""
    parsed = [parse_attack(attack) if isinstance(attack, str) else attack for attack in attacks]
    values = {
        "dataset": dataset,
        "split": split,
        "n": n,
        "attacks": tuple(attack.canonical for attack in parsed) or ("none",),
        "threat": {"norm": threat.norm, "eps": threat.eps},
        "engine": "reference" if settings.reference else "native",
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "search_precision": settings.search_precision,
        "compiled": settings.compiled,
    }
    return validated(EvalConfig, values, what="evaluation")
