"""All checks on a run without a long evaluation: PGD stands in for the attacks."""

from __future__ import annotations

from pathlib import Path

import torch

from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.evaluation.checks.after import check_evaluation
from robustbench_gkl.evaluation.checks.before import MOST_IMAGES, check_model
from robustbench_gkl.evaluation.checks.finding import sample_rows
from robustbench_gkl.evaluation.engine import EngineSettings, measure
from robustbench_gkl.evaluation.job import load_subject
from robustbench_gkl.results.record import Check
from robustbench_gkl.sources.source import ModelSource


def check_source(
    config: EvalConfig,
    source: ModelSource,
    *,
    device: torch.device,
    data_dir: Path = Path("data"),
) -> list[Check]:
    """Return the checks before ``config.attacks``, and those after them unless the logits are not finite.

    Nothing is written.

    Args:
        config: samples, threat, attacks and seed; without ``n`` at most 128 samples are drawn from the split.
        source: the model.
        device: where to run.
        data_dir: where downloaded data sets are kept.

    Raises:
        UserError: anything in the configuration, the model or the data that cannot be used.
    """
    threat = config.threat.threat()
    subject, samples = load_subject(config, source, device=device, data_dir=data_dir)
    model = subject.model
    if config.n is None:
        samples = samples.take(sample_rows(torch.arange(len(samples)), MOST_IMAGES, "check"))
    images, labels = samples.images, samples.labels
    checks = check_model(model, images, labels)
    if any(check.name == "finite" and check.verdict == "FAIL" for check in checks):
        return checks
    settings = EngineSettings(seed=config.seed)
    result = measure(model, images, labels, threat, config.attacks, settings, keep_adversarial=True)
    return checks + check_evaluation(result, model, images, labels, threat, seed=config.seed)
