"""The record of one evaluation: its question, its answer, and everything needed to judge it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.validation import user_error
from robustbench_gkl.results.brief import brief
from robustbench_gkl.results.reading import read_table, without_control_characters
from robustbench_gkl.results.upgrade import upgraded

SCHEMA_VERSION = 2

CheckVerdict = Literal["PASS", "WARN", "FAIL"]
CheckScope = Literal["model", "attack"]
_SEVERITY: dict[CheckVerdict, int] = {"PASS": 0, "WARN": 1, "FAIL": 2}
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False)


def canonical_hash(value: Any) -> str:
    """Return the SHA-256 of ``value``'s canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


def pack_standing(standing: NDArray[np.bool_]) -> str:
    """Return (n,) bool as base64 of its bits, the first sample in the most significant one."""
    return base64.b64encode(np.packbits(standing).tobytes()).decode()


def unpack_standing(packed: str, n: int) -> NDArray[np.bool_]:
    """Return the (n,) bool that :func:`pack_standing` has written."""
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), dtype=np.uint8), count=n).astype(bool)


class Part(BaseModel):
    """A part of a record: immutable, with no keys but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(Part):
    """What happens to a [0, 1] image before the first layer; None for what does not."""

    mean: tuple[float, ...] | None = None
    """Normalisation inside the model, one value or one per channel; saved with the weights and hashed with them."""
    std: tuple[float, ...] | None = None
    """What pixels are divided by there, after ``mean`` is subtracted."""
    resize: int | tuple[int, int] | None = None
    """Pixels of the shorter side, or (height, width)."""
    crop: int | None = None
    """Pixels of the square in the middle."""
    interpolation: str | None = None
    """Between pixels, where images are resized."""


class ModelInfo(Part):
    """What was evaluated."""

    name: str
    """What boards call it: the run's name, or that of ``--name``."""
    arch: str
    """The architecture with its options; of a model from outside what its source calls it, or its class."""
    loss: str | None = None
    """The training loss; None for models trained elsewhere."""
    params: int
    """How many numbers its parameters hold; buffers are not counted."""
    run: str | None = None
    """The run that was evaluated, where the model was recorded under another name."""
    weights: str | None = None
    """Which file of the run: ``best``, ``last`` or ``average``."""
    weights_sha256: str
    """Hash of all parameters and buffers, the normalisation included."""
    preprocessing: Preprocessing | None = None
    """None in records of earlier versions, which did not say."""
    code_sha256: str | None = None
    """Hash of the code that builds a model from outside; None for our own architectures."""
    source: dict[str, Any] | None = None
    """Where a model from outside comes from, and the options that it was evaluated with; None for a run."""
    model_sha256: str = ""
    """The model's identity: hash of its weights and its function, see :func:`model_sha256`."""
    train_config: dict[str, Any] | None = None
    """The resolved recipe that it was trained by, as in its ``config.json``; None for models trained elsewhere."""
    teacher_sha256: str | None = None
    """The identity of the model that it was taught by, as it was then."""
    init_sha256: str | None = None
    """The identity of the model whose weights it started from."""


def model_sha256(
    *,
    weights_sha256: str,
    arch: str,
    preprocessing: Preprocessing | None = None,
    code_sha256: str | None = None,
) -> str:
    """Return the hash of a model's weights and function: the same weights in another architecture are another model.

    Normalisation inside the model is part of the weights' hash.
    """
    around = Preprocessing() if preprocessing is None else preprocessing
    beside = [] if around.interpolation in (None, "bilinear") else [around.interpolation]
    return canonical_hash([weights_sha256, arch, around.resize, around.crop, code_sha256, *beside])


class DataInfo(Part):
    """On which samples."""

    dataset: str
    """A name from ``gklbench list datasets``; from Python, what the caller called the images."""
    split: str
    """Which of its images: ``test`` or ``train``."""
    n: int = Field(ge=1)
    """How many samples were evaluated."""
    sha256: str
    """Hash of the evaluated pixels and labels."""
    sample_set: str
    """``first N`` of the split, or ``chosen`` where the samples are others."""
    index_ranges: tuple[tuple[int, int], ...]
    """The samples' indices in the split, as half-open ranges."""
    blocks: tuple[str, ...] = ()
    """Hashes of each 50 samples, in order, the rest left out: by them two records show which samples they share."""


class ThreatInfo(Part):
    """Under which threat model."""

    norm: str
    """``linf``, ``l2`` or ``l1``."""
    eps: str
    """Radius in the [0, 1] image scale, exact: ``8/255``, ``0.5``; ``0`` for clean accuracy."""

    def __str__(self) -> str:
        return "clean" if self.eps == "0" else f"{self.norm} {self.eps}"


class StageResult(Part):
    """What one member of an attack did."""

    name: str
    """As in ``broken_by`` of the verdicts: the member's, or the attack's label where it is the only one."""
    family: str | None = None
    """The method: ``pgd``, ``apgd``, ``fab``, ``square``, ``torchattacks.CLASS``, ...; None if it is not known."""
    gradients: bool | None = None
    """Whether it uses gradients of the model."""
    targeted: bool | None = None
    """Whether each run aims at a class of its own."""
    averages: bool | None = None
    """Whether it averages over several evaluations of a model that answers at random."""
    minimal: bool | None = None
    """Whether it looks for the nearest adversarial image, which may lie outside the ball."""
    length: int | None = None
    """Gradient steps of a run; None for attacks without such steps."""
    attacked: int
    """Samples that stood when it began; it passes over those of them that are certified."""
    broken: int
    """Samples that fell to it."""
    rejected: int
    """Candidates that left the ball or [0, 1]; they never count as successes."""
    candidates: int | None = None
    """All candidates that were looked at; None where nobody counted."""
    unmoved: int = 0
    """Candidates that are the originals, of attacks that return what fools nobody too."""
    nonfinite: int = 0
    """Gradients with NaN or infinite values under finite logits."""
    seconds: float
    """Wall time; of processes that shared the work, that of the one that worked longest."""
    forwards: int
    """Images put through the model."""
    backwards: int
    """Images whose gradients were taken back through the model."""


class AttackResult(Part):
    """What one attack did."""

    label: str
    """For display alone."""
    spec: str | None = None
    """The canonical spec; None where a record of an earlier version does not determine it."""
    robust_acc: float
    """Percentage of all samples correct without an attack and under this attack and those run before it."""
    stages: tuple[StageResult, ...]
    standing: str = ""
    """Which samples stand after this attack and those before it, as :func:`pack_standing` writes it."""

    def __repr__(self) -> str:
        broken = ", ".join(f"{stage.name} {stage.broken}" for stage in self.stages)
        return f"AttackResult({self.label}, {self.robust_acc:.2f} after it; broken by {broken or 'nothing'})"

    __str__ = __repr__


class Certificates(Part):
    """What was proved of the samples, up to floating point."""

    proved: int
    """How many samples are proved: no image in their balls is classified wrongly."""
    methods: dict[str, int]
    """How many samples were proved by what."""
    undecided: int
    """Samples that are neither proved nor broken."""
    samples: str
    """Which samples are proved, as :func:`pack_standing` writes it."""
    margin: float
    """What a logit exceeds another by where that is proved, relative to the image's largest logit and 1."""
    complete: bool = False
    """Whether samples that bounds do not prove were searched."""
    seconds_each: float | None = None
    """Of the processor, at most, for each sample that was searched."""
    calls_each: int | None = None
    """Rows through the network, at most, for each sample that was searched."""

    def __str__(self) -> str:
        by = ", ".join(f"{method} {count}" for method, count in self.methods.items())
        return (
            f"{self.proved} samples are certified up to floating point (margin {self.margin:g}; {by or 'by nothing'})"
        )


class Check(Part):
    """One item of the evaluation's passport."""

    name: str
    """What was checked, such as ``eval-mode``."""
    verdict: CheckVerdict
    """``PASS``; ``WARN``: to be looked at; ``FAIL``: see ``scope``."""
    figure: str
    """What was found, in words."""
    advice: str = ""
    """What to do about it; empty where nothing is to be done."""
    scope: CheckScope = "model"
    """``model``: a failure means that no figure of the model can be trusted. ``attack``: it means that this evaluation
    has not completed its attacks; what they broke is broken all the same."""


class Record(Part):
    """One evaluation. Immutable; its id is a hash of what decides the result.

    Records of version 1 are upgraded as they are read, see :mod:`robustbench_gkl.results.upgrade`.
    """

    schema_version: Literal[1, 2] = 2
    """The version that the file was written in."""
    id: str
    """``NAME-HASH``, of which its files are named; the hash is of model, samples, threat, protocol, engine and seed."""
    created: str
    """When the record was made: UTC, ISO 8601."""
    model: ModelInfo
    data: DataInfo
    threat: ThreatInfo
    config: EvalConfig | None
    """The question: the resolved settings, attacks in canonical form. None where a record of version 1 does not
    determine it."""
    protocol: tuple[dict[str, Any], ...]
    """For each attack its label and the settings of its stages as they ran, with what depends on threat and classes
    filled in; beside them search precision, compilation and radii, where they are not the usual ones."""
    protocol_sha256: str
    """Hash of ``protocol``."""
    engine: str
    """Whose code ran: ``native`` for our attacks, ``reference`` for the published packages."""
    seed: int
    """Of the attacks' random numbers."""
    batch_size: int
    """Images at a time, at the end; of ``auto`` what was found fastest, halved where memory ran out."""
    clean_acc: float
    """Percentage of samples correct without an attack."""
    attacks: tuple[AttackResult, ...]
    worst_case_acc: float
    """Percentage of samples that stand after all attacks, pointwise."""
    checks: tuple[Check, ...]
    partial: bool = False
    """Whether a time limit stopped it: what stands might still fall, so that ``worst_case_acc`` is an upper bound."""
    seconds: float
    """Wall time of predictions, certificates and attacks, without checks; interrupted runs count too. Of processes that
    shared the work, that of the one that worked longest."""
    environment: dict[str, str]
    """Versions, device, threads, git commit, and how many processes worked on it if several."""
    verdicts_sha256: str
    """Hash of the file of verdicts."""
    standing: str = ""
    """Which samples stand, as :func:`pack_standing` writes it (their bits in base64, the first sample in the highest):
    enough to pair models without reading verdicts."""
    teacher: str | None = None
    """The name of the model that a distilled model was taught by."""
    certified: Certificates | None = None
    """What was proved of the samples."""
    draws: int | None = None
    """Fresh draws an image by which a randomised model was judged; None for one answer."""
    sha256: str = ""
    """Hash of everything else; empty in records of version 1."""

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        if self.standing:
            stand = int(unpack_standing(self.standing, self.data.n).sum())
            if round(self.worst_case_acc * self.data.n / 100) != stand:
                raise ValueError(
                    f"worst_case_acc is {self.worst_case_acc:.2f} %, but {stand} of {self.data.n} samples stand; "
                    "the file was changed after it was written"
                )
        return self

    def __repr__(self) -> str:
        return brief(
            "Record",
            about=[self.model.name, f"{self.data.dataset} {self.data.split}", str(self.threat)],
            n=self.data.n,
            clean_acc=self.clean_acc,
            robust_acc=self.worst_case_acc,
            attacks=[attack.label for attack in self.attacks],
            partial=self.partial,
            proved=None if self.certified is None else self.certified.proved,
        )

    __str__ = __repr__

    def stands(self) -> NDArray[np.bool_] | None:
        """Return (n,) bool: which samples stand, in the order of the verdicts; None if the record does not say."""
        return unpack_standing(self.standing, self.data.n) if self.standing else None

    def proves(self) -> NDArray[np.bool_] | None:
        """Return (n,) bool: which samples are certified, in the order of :meth:`stands`; None where nobody asked."""
        return None if self.certified is None else unpack_standing(self.certified.samples, self.data.n)

    def indices(self) -> NDArray[np.int64]:
        """Return the indices (n,) of the samples in their split, rising."""
        return np.concatenate([np.arange(start, stop) for start, stop in self.data.index_ranges])

    @property
    def verdict(self) -> CheckVerdict:
        """The worst of the checks."""
        return max((check.verdict for check in self.checks), key=_SEVERITY.__getitem__, default="PASS")

    def failed(self, scope: CheckScope) -> list[str]:
        """Return the names of the checks of a scope that fail."""
        return [check.name for check in self.checks if check.verdict == "FAIL" and check.scope == scope]

    @property
    def broken(self) -> int:
        """How many samples an attack has broken: those right at first that do not stand."""
        right, standing = (round(acc * self.data.n / 100) for acc in (self.clean_acc, self.worst_case_acc))
        return right - standing

    def sealed(self) -> Record:
        """Return the record with its hash."""
        return self.model_copy(update={"sha256": _seal(self.model_dump(mode="json"))})

    def text(self) -> str:
        """Return the content of the record's file."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def read(cls, content: bytes, *, what: str) -> Record:
        """Return the record in a file's content.

        Args:
            content: JSON.
            what: names the file in messages.

        Raises:
            UserError: it is broken, was changed after it was written, or comes from a newer version.
        """
        values = read_table(content, what=what)
        version = values.get("schema_version", 1)
        if version not in (1, SCHEMA_VERSION):
            raise UserError(f"{what} has schema version {version!r}, newer than {SCHEMA_VERSION}; update gklbench")
        if version == SCHEMA_VERSION and values.get("sha256") != _seal(values):
            raise UserError(f"{what} was changed after it was written: its hash is another")
        values = without_control_characters(values, content)
        try:
            if version == 1:
                values = upgraded(values)
                model = values["model"]
                # Version 1 knew our own architectures alone: nothing is done to an image outside the model.
                identity = model_sha256(weights_sha256=model["weights_sha256"], arch=model["arch"])
                values["model"] = model | {"model_sha256": identity}
            return cls.model_validate(values)
        except ValidationError as error:
            raise user_error(error, what=f"{what} is broken") from None
        except (KeyError, TypeError, AttributeError, IndexError):
            raise UserError(f"{what} is broken: it lacks what a record has") from None
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise UserError(f"{what} is broken: {error}") from None


def _seal(values: Mapping[str, Any]) -> str:
    return canonical_hash({key: value for key, value in values.items() if key != "sha256"})


def record_id(
    *,
    name: str,
    model_sha256: str,
    data_sha256: str,
    threat: str,
    protocol: Sequence[dict[str, Any]],
    engine: str,
    seed: int,
    batch_size: int,
) -> str:
    """Return ``NAME-HASH``: the same for the same model, samples, threat, protocol, engine and seed.

    The verdicts of the published packages (the engine ``reference``) depend on the batch size, so that it counts too.
    """
    key = [model_sha256, data_sha256, threat, list(protocol), engine, seed]
    key += [batch_size] if engine == "reference" else []
    return f"{name}-{canonical_hash(key)[:12]}"


def first_record_id(
    *,
    name: str,
    weights_sha256: str,
    data_sha256: str,
    threat: str,
    protocol: Sequence[dict[str, Any]],
    engine: str,
    seed: int,
) -> str:
    """Return the id that version 1 gave to the record of an evaluation."""
    key = [weights_sha256, data_sha256, threat, list(protocol), engine, seed]
    return f"{name}-{canonical_hash(key)[:12]}"
