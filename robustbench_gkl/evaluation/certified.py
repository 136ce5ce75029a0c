"""The certificates of a job: what makes them, and whether a record has as many as are asked for."""

from __future__ import annotations

from robustbench_gkl.attacks.specs.autoattack import AutoAttack
from robustbench_gkl.certification.certifier import Certifier
from robustbench_gkl.core.device import full_precision
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation.certifying import has_certification, read_certifier
from robustbench_gkl.evaluation.context import SampleSet
from robustbench_gkl.evaluation.effort import Effort
from robustbench_gkl.evaluation.job import Job
from robustbench_gkl.evaluation.replay import certificate_log
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.results.record import Record


def certifier_of(job: Job, workspace: Workspace) -> Certifier | None:
    """Return what certifies the samples of a job; None where nobody asks, or where it would cost more than AutoAttack.

    Raises:
        UserError: a layer without bounds, or a model that answers at random.
    """
    if job.effort is None and not has_certification(job.attacks):
        return None
    if job.randomised:
        raise UserError("--certify: answers at random cannot be certified; leave it out")
    samples = SampleSet(job.samples.images, job.samples.labels, job.samples.labels, job.config.seed, workspace.device)
    with full_precision():
        certifier = read_certifier(job.model, samples, job.config.threat.threat())
    most = AutoAttack().calls(job.config.threat, num_classes=job.model.num_classes).total
    if certifier.calls <= most or has_certification(job.attacks):
        return certifier
    if workspace.exchange.world.leads:
        workspace.on_note(
            f"certificates are off: the bounds of a sample take about {certifier.calls:,} passes through the "
            f"network, and AutoAttack {most:,.0f}"
        )
    return None


def certificate_key(job: Job) -> str:
    """Return what names the certificates of a job in its journal."""
    return "certify/certify" if has_certification(job.attacks) else certificate_log().key


def surpasses(job: Job, record: Record) -> bool:
    """Return whether a job of certificates may decide samples that its record, which is complete, leaves undecided."""
    found = record.certified
    if job.effort is None or not has_certification(job.attacks) or found is None or not found.undecided:
        return False
    if not found.complete:
        return job.effort.complete
    limits = {"seconds": found.seconds_each, "calls": found.calls_each}
    return job.effort.goes_beyond(limits)


def effort_with(job: Job, record: Record) -> Effort | None:
    """Return the effort that a record of what a job and an earlier record have found may claim."""
    found = record.certified
    if found is None or record.partial or surpasses(job, record):
        return job.effort
    return Effort(found.complete, found.seconds_each, found.calls_each)
