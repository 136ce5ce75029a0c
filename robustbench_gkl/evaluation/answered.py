"""Whether a record answers an evaluation already, told without torch where model and images are known by their hashes.

Whatever cannot be told for certain is left to :func:`~robustbench_gkl.evaluation.recorded.evaluate_and_record`, which
looks again with the model and the images loaded.
"""

from __future__ import annotations

from pathlib import Path

from robustbench_gkl.attacks import attacks_to_run
from robustbench_gkl.config.names import check_name
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.declared import nothing_installed
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data.source_files import images_key, known_images_sha256
from robustbench_gkl.evaluation.question import id_of, protocol_under, question_of
from robustbench_gkl.models.weights import tensors_match_header
from robustbench_gkl.results.record import Record, model_sha256
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.sources.source import ModelSource, RunSource


def answered(
    config: EvalConfig, source: ModelSource, store: ResultStore, *, data_dir: Path, name: str | None = None
) -> Record | None:
    """Return the complete record of a run's evaluation; None if there is none, or if telling takes torch.

    The record's id is made of the same parts as when the evaluation is run: the hash of the weights, which the file's
    tensors must have, and that of the images, which earlier evaluations have kept for files of this very content.

    Args:
        config: what to measure.
        source: the model.
        store: the results folder.
        data_dir: where downloaded data sets are kept.
        name: the model's name in the record; None for the source's.

    Raises:
        UserError: unknown attacks, a name that no model can have, or a run without weights.
    """
    attacks = attacks_to_run(config.attacks, config.threat, reference=config.engine == "reference")
    named = check_name(source.name if name is None else name)
    if not isinstance(source, RunSource) or not nothing_installed():
        return None
    run, which = source.run.config(), source.run.choose(source.weights)
    if run.plugins:
        return None
    key = images_key(config.dataset, config.split, config.n, data_dir)
    images = None if key is None else known_images_sha256(key)
    if images is None:
        return None
    weights = source.run.weights_sha256(which)
    protocol = protocol_under([variant for _, variant in attacks], config, num_classes=run.num_classes)
    question = question_of(config, name=named, data_sha256=images, protocol=protocol)
    found = id_of(config, question, model_sha256=model_sha256(weights_sha256=weights, arch=run.arch))
    try:
        record = store.load(found)
    except UserError:
        return None
    sure = tensors_match_header(source.run.weights_path(which)) and source.run.config() == run
    return record if record is not None and not record.partial and sure else None
