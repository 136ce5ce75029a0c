"""The evaluation engine: runs attacks in turn and verifies every candidate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks import AttackSpec, attacks_to_run
from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.attacks.search.driver import Precision
from robustbench_gkl.attacks.specs.certify import Certify
from robustbench_gkl.certification.certifier import Certifier
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.allocator import keep_freed_memory
from robustbench_gkl.core.device import device_of, full_precision
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.evaluation.batch_size import BatchSize, fastest_batch_size
from robustbench_gkl.evaluation.certifying import (
    certified_result,
    has_certification,
    read_certifier,
    run_certificates,
)
from robustbench_gkl.evaluation.clean import agreed_predictions, check_samples, clean_logits
from robustbench_gkl.evaluation.context import Context, SampleSet
from robustbench_gkl.evaluation.effort import Effort
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.meter import Meter
from robustbench_gkl.evaluation.progress import Progress, ignore
from robustbench_gkl.evaluation.replay import StageLog, certificate_log, kept_images, spent_before, stage_logs
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.evaluation.stage import run_stage
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import StageResult


@dataclass(frozen=True)
class EngineSettings:
    """How an evaluation searches, whatever it is about.

    Attributes:
        seed: of the attacks' random numbers.
        batch_size: images at a time on each rank (a tenth more where all then fit into one batch; where no gradients
            are taken, up to four times as many, shared out among processes); ``"auto"`` for the one that a short probe
            finds fastest.
        reference: run the published implementations instead of our own.
        search_precision: ``"bf16"`` or ``"tf32"`` lets our own attacks search in that precision; what they find is
            confirmed in float32, and where it is not, the sample is searched again in float32.
        compiled: search with ``torch.compile(model)``.
    """

    seed: int = 0
    batch_size: BatchSize = 250
    reference: bool = False
    search_precision: Precision = "float32"
    compiled: bool = False

    @classmethod
    def of(cls, config: EvalConfig) -> EngineSettings:
        """Return the settings in a configuration."""
        return cls(
            seed=config.seed,
            batch_size=config.batch_size,
            reference=config.engine == "reference",
            search_precision=config.search_precision,
            compiled=config.compiled,
        )


def measure(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    attacks: str | Sequence[str | AttackSpec],
    settings: EngineSettings = EngineSettings(),
    *,
    index: Tensor | None = None,
    device: torch.device | str | None = None,
    time_limit: float | None = None,
    journal: Journal | None = None,
    share: Share | None = None,
    keep_adversarial: bool = False,
    effort: Effort | None = None,
    certifier: Certifier | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] = ignore,
) -> Evaluation:
    """Run attacks in turn on the samples still standing and verify every candidate.

    The model is put in eval mode for the time of the call. A candidate counts only if it is finite, in [0, 1], inside
    the ball, and misclassified when predicted again in float32.

    Args:
        model: images (B, C, H, W) float32 in [0, 1] to logits (B, K).
        images: (N, C, H, W), uint8, or float in [0, 1].
        labels: (N,) integers in {0, ..., K - 1}.
        threat: the threat model.
        attacks: one spec such as ``"autoattack"``, or several, or attacks; none for the clean accuracy alone.
        settings: how to search.
        index: (N,) the samples' indices in their data set, to which the random numbers belong; None for 0..N - 1.
        device: where to run; None for where the model's parameters are.
        time_limit: seconds after which to stop, with the outcome marked partial; None for no limit.
        journal: where verdicts are kept as they fall; what it holds already is not done again. With several ranks each
            has its own part, and what counts is the journal of rank 0.
        share: the ranks that share the samples, and which samples; None for all samples here.
        keep_adversarial: return the adversarial images too, those that the journal holds included.
        effort: certify the samples that stand after the first stage, which spares them the rest; with the attack
            ``certify``, how far that goes (bounds alone if not given).
        certifier: of the model, if it was read before.
        on_progress: called a few times a second.
        on_note: called with a line on what was decided on the way.

    Returns:
        The verdict on each sample and the result of each attack, the same on all ranks but for adversarial images,
        which rank 0 has. Verdicts on samples outside the shard are undefined.

    Raises:
        UserError: an unknown attack, or one for another norm; images, labels or logits of the wrong shape or range; NaN
            logits.
    """
    started = time.perf_counter()
    share = share or Share()
    specs = [attacks] if isinstance(attacks, str) else list(attacks)
    chosen = attacks_to_run(specs, threat, reference=settings.reference)
    check_samples(images, labels)
    where = torch.device(device) if device is not None else device_of(model)
    if where.type == "cpu":
        keep_freed_memory()
    positions = torch.arange(len(labels)) if index is None else index.cpu()
    samples = SampleSet(images, labels.cpu().long(), positions, settings.seed, where)
    with attack_mode(model), full_precision():
        meter = Meter(model.to(where))
        if certifier is None and (effort is not None or has_certification(chosen)):
            certifier = read_certifier(model, samples, threat)
        size = _batch_size(model, samples, settings.batch_size, share, journal)
        began = time.perf_counter()
        entries = share.exchange.from_leader(lambda: journal.entries if journal is not None else [])
        logits = clean_logits(meter, samples, batch_size=size)
        prediction = agreed_predictions(logits.argmax(1), share=share, entries=entries, journal=journal)
        if settings.compiled:
            meter.searched = torch.compile(model, dynamic=True)
        context = Context(
            samples=samples,
            clean_logits=logits,
            meter=meter,
            threat=threat,
            batch_size=size,
            shrinks=settings.batch_size == "auto",
            share=share,
            entries=entries,
            precision=settings.search_precision,
            journal=journal,
            keeps_images=keep_adversarial,
            deadline=None if time_limit is None else started + time_limit,
            on_progress=on_progress if share.exchange.world.leads else None,
            certifier=certifier,
            on_note=on_note if share.exchange.world.leads else ignore,
        )
        return _attacked(context, chosen, prediction, effort, began=began)


def _batch_size(model: nn.Module, samples: SampleSet, wanted: BatchSize, share: Share, journal: Journal | None) -> int:
    """Return ``wanted``, or for ``"auto"`` the one that rank 0 finds fastest."""
    if wanted != "auto":
        return wanted
    return share.exchange.from_leader(
        lambda: fastest_batch_size(model, samples.shape, device=samples.device, limit=len(samples), journal=journal)
    )


def _attacked(
    context: Context,
    attacks: Sequence[tuple[AttackSpec, AttackSpec]],
    prediction: Tensor,
    effort: Effort | None,
    *,
    began: float,
) -> Evaluation:
    """Run the stages of ``attacks`` in turn on the samples still standing.

    Args:
        context: what the stages share.
        attacks: each attack, and what runs of it: itself or its published implementation.
        prediction: (N,), the clean predictions that count.
        effort: how far samples are certified; None for not at all.
        began: when the evaluation began, on the clock of ``time.perf_counter``.
    """
    samples, share = context.samples, context.share
    result = Evaluation.begin(
        samples.index.numpy(), samples.labels.numpy(), prediction.numpy(), num_classes=context.clean_logits.shape[1]
    )
    result.batch_size = context.batch_size
    if context.on_progress is not None:
        total = int(context.mine.sum())
        context.on_progress(Progress("clean", total, total, int((context.mine & result.standing).sum()), total))
    if context.keeps_images and share.exchange.world.leads and share.shard is None:
        result.keep_images(samples.images)
    help_due = effort is not None and not has_certification(attacks)
    effort = effort or Effort()
    for attack, variant in attacks:
        done = []
        for log in stage_logs(attack, variant, context.threat, num_classes=result.num_classes):
            if result.partial:
                break
            done.append(_stage(context, log, result, effort))
            if help_due and not result.partial:
                run_certificates(context, certificate_log(), result, effort, probes=True)
                help_due = False
        if done or not variant.stages(context.threat, num_classes=result.num_classes):
            result.add_attack(attack, done)
    result.seconds = spent_before(context.entries) + time.perf_counter() - began
    if context.journal is not None:
        kept_images(context.journal, samples.shape, result)
    return result


def _stage(context: Context, log: StageLog, result: Evaluation, effort: Effort) -> StageResult:
    """Run a stage: an attack, or certificates that are asked for as one."""
    if not isinstance(log.attack, Certify):
        return run_stage(context, log, result)
    standing = result.standing & context.mine
    run_certificates(context, log, result, effort, probes=False)
    return certified_result(log, standing, result)
