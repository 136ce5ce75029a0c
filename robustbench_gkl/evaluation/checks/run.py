"""All checks on a run without a long evaluation: PGD stands in for the attacks."""

from __future__ import annotations

from pathlib import Path

import torch

from robustbench_gkl.config.names import WeightsName
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.evaluation.checks.after import check_evaluation
from robustbench_gkl.evaluation.checks.before import MOST_IMAGES, check_model
from robustbench_gkl.evaluation.checks.finding import sample_rows
from robustbench_gkl.evaluation.engine import evaluate
from robustbench_gkl.evaluation.job import load_samples
from robustbench_gkl.results.record import Check
from robustbench_gkl.runs import Run


def check_run(
    config: EvalConfig,
    run: Run,
    *,
    weights: WeightsName | None = None,
    device: torch.device,
    data_dir: Path = Path("data"),
) -> list[Check]:
    """Return the checks before ``config.attacks``, and those after them unless the logits are not finite.

    Nothing is written.

    Args:
        config: samples, threat, attacks and seed; without ``n`` at most 128 samples are drawn from the split.
        run: the model.
        weights: which of the run's weights; None for the preferred ones.
        device: where to run.
        data_dir: where downloaded data sets are kept.

    Raises:
        UserError: anything in the configuration, the run or the data that cannot be used.
    """
    threat = config.threat.threat()
    model = run.load_model(run.choose(weights), device=device)
    samples = load_samples(config, run, model, data_dir=data_dir)
    if config.n is None:
        samples = samples.take(sample_rows(torch.arange(len(samples)), MOST_IMAGES, "check"))
    images, labels = samples.images, samples.labels
    checks = check_model(model, images, labels)
    if any(check.name == "finite" and check.verdict == "FAIL" for check in checks):
        return checks
    result = evaluate(model, images, labels, threat, config.attacks, seed=config.seed, keep_adversarial=True)
    return checks + check_evaluation(result, model, images, labels, threat, seed=config.seed)
