"""Validated, frozen configurations, and the conversion of their errors into one line."""

from __future__ import annotations

import inspect
import reprlib
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from robustbench_gkl.errors import UserError, unknown
from robustbench_gkl.exact import Norm, check_radius, format_fraction, parse_fraction

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from robustbench_gkl.threat import ThreatModel

T = TypeVar("T")

ExactNumber = Annotated[
    Fraction,
    BeforeValidator(lambda value: parse_fraction(value, what="value")),
    PlainSerializer(format_fraction),
]
"""A fraction that is read from ``"8/255"`` or ``0.3`` and written back the same way."""


_MESSAGES = {"missing": "is missing", "extra_forbidden": "there is no such key"}
_SPEAK_FOR_THEMSELVES = ("missing", "extra_forbidden", "value_error", "json_invalid")


def one_line(error: ValidationError, *, what: str, model: type[BaseModel] | None = None) -> UserError:
    """Return pydantic's ``error`` about ``what`` as one line that names each key, its value and what it needs.

    With the ``model`` that was to be made, a key that does not exist gets the ones that do.
    """
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        if item["type"] == "extra_forbidden" and model is not None:
            parts.append(_no_such_key(model, item["loc"]))
            continue
        key = ".".join(str(part) for part in item["loc"] if part not in ("function-before", "function-after"))
        message = _MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, ")
        got = "" if item["type"] in _SPEAK_FOR_THEMSELVES else f", got {reprlib.repr(item['input'])}"
        parts.append(f"{key}: {message}{got}" if key else f"{message}{got}")
    more = f"; and {len(parts) - 5} more" if len(parts) > 5 else ""
    return UserError(f"{what}: " + "; ".join(parts[:5]) + more)


def _no_such_key(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    *tables, key = map(str, location)
    for table in tables:
        inner = model.model_fields[table].annotation
        assert inspect.isclass(inner)
        assert issubclass(inner, BaseModel)
        model = inner
    return str(unknown(f"key of {'.'.join(tables)}" if tables else "key", key, model.model_fields))


def bind_options(factory: Callable[..., T], options: Mapping[str, object], *, what: str, **fixed: object) -> T:
    """Call ``factory`` with ``fixed`` and ``options``, the latter checked and converted by its annotations.

    Text such as ``"20"`` becomes the annotated type, so options may come from a command line or from TOML. A
    factory with ``**options`` gets those that it does not name as they are.

    Raises:
        UserError: an option that ``factory`` does not have (its options are listed) or of a wrong type or value.
    """
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    parameters = inspect.signature(factory).parameters
    anything = next((name for name, p in parameters.items() if p.kind is p.VAR_KEYWORD), None)
    known = [name for name in parameters if name not in fixed and name != anything]
    values: dict[str, object] = {}
    for key, value in options.items():
        if key not in known and anything is not None:
            values[key] = value
            continue
        if key not in known:
            raise unknown(f"option of {what}", key, known)
        try:
            values[key] = TypeAdapter(hints[key], config=ConfigDict(allow_inf_nan=False)).validate_python(value)
        except ValidationError as error:
            raise one_line(error, what=f"{what}, option {key}") from None
    return factory(**fixed, **values)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class ThreatConfig(_Frozen):
    """The threat model trained for or evaluated under."""

    norm: Norm = "linf"
    eps: ExactNumber = Fraction(8, 255)
    """Radius in the [0, 1] image scale."""

    @model_validator(mode="after")
    def _scale(self) -> ThreatConfig:
        check_radius(self.norm, self.eps)
        return self

    def __str__(self) -> str:
        return f"{self.norm} {format_fraction(self.eps)}" if self.eps else "clean"

    def threat(self) -> ThreatModel:
        """Return the threat model."""
        from robustbench_gkl.threat import ThreatModel

        return ThreatModel(self.norm, self.eps)


class InnerAttackConfig(_Frozen):
    """The attack that crafts the training images."""

    budget: Literal["fixed", "low", "high", "high-as-run"] = "fixed"
    """``fixed``: ``steps`` of ``step_size``. The others are GKL's, relative to the epoch's radius eps_t: ``low`` is two
    steps of eps_t; ``high`` is 2, 3, 4 and 5 steps of eps_t times 1, 2/3, 1/2 and 1/2 in the four quarters of the run;
    ``high-as-run`` is what its published code does instead: always five steps of eps_t / 2."""
    steps: int | None = Field(None, ge=1)
    """Number of steps of a ``fixed`` budget; None for 10."""
    step_size: ExactNumber | None = None
    """Length of a ``fixed`` budget's step in the threat's norm and the [0, 1] scale; None for 2.5 eps_t / steps."""
    start: Literal["auto", "gaussian", "uniform", "none"] = "auto"
    """``gaussian``: the image plus 0.001 N(0, 1); ``uniform``: anywhere in the ball; ``auto``: the loss's own."""
    ramp: float = Field(0.0, ge=0, le=1)
    """Share of the epochs over which the radius grows linearly to eps: eps_t = eps * epoch / (ramp * epochs) there,
    with epochs counted from 1. 0 trains at eps throughout."""

    @model_validator(mode="after")
    def _one_budget(self) -> InnerAttackConfig:
        if self.budget != "fixed" and (self.steps is not None or self.step_size is not None):
            raise ValueError(
                f"the budget {self.budget!r} sets steps and step_size itself; choose them with budget 'fixed'"
            )
        return self

    def steps_in(self, epoch: int, epochs: int) -> int:
        """Return the number of steps in ``epoch`` (from 0) of ``epochs``."""
        if self.budget == "fixed":
            return self.steps or 10
        if self.budget == "high":
            return 2 + (4 * (epoch + 1) - 1) // epochs
        return 2 if self.budget == "low" else 5


class OptimizerConfig(_Frozen):
    """How the weights are updated."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    """The peak of the schedule."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD; the first of AdamW's two decay rates."""
    weight_decay: float = Field(5e-4, ge=0)
    decay_batchnorm: bool = True
    """Whether weight decay acts on scale and shift of batch normalisation too."""
    nesterov: bool = False
    clip: float | None = Field(None, gt=0)
    """Largest Euclidean norm of the whole gradient; None does not clip."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> OptimizerConfig:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs the optimiser 'sgd' and a momentum above 0")
        return self


class ScheduleConfig(_Frozen):
    """The learning rate over the run."""

    name: Literal["constant", "cosine", "one-cycle", "multi-step"] = "cosine"
    """``cosine``: half a cosine from lr to 0; ``one-cycle``: torch's OneCycleLR, by cosines from lr / 25 to lr and
    on to lr / 250000; ``multi-step``: times ``factor`` at each milestone."""
    per: Literal["epoch", "step"] = "epoch"
    """Whether cosine and one-cycle advance after each epoch or after each step."""
    warmup: float = Field(0.0, ge=0)
    """Number of epochs over which the rate first grows linearly from 0, step by step, as a factor on all the rest."""
    milestones: tuple[int, ...] = ()
    """``multi-step``: the epochs, counted from 1, that begin with a lower rate."""
    factor: float = Field(0.1, gt=0, lt=1)
    """``multi-step``: what a milestone multiplies the rate by."""
    pct_start: float = Field(0.025, gt=0, lt=1)
    """``one-cycle``: share of the run in which the rate rises."""
    momentum_range: tuple[float, float] | None = None
    """``one-cycle``: the momentum at the peak rate and at both ends; None keeps the optimiser's. (0.85, 0.95) is what
    torch does by default."""

    @model_validator(mode="after")
    def _milestones_belong(self) -> ScheduleConfig:
        if (self.name == "multi-step") != bool(self.milestones):
            raise ValueError("milestones and the schedule 'multi-step' go together")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}")
        if self.momentum_range is not None and self.name != "one-cycle":
            raise ValueError("momentum_range belongs to the schedule 'one-cycle'")
        return self


class AWPConfig(_Frozen):
    """Adversarial weight perturbation (Wu et al., arXiv 2004.05884)."""

    gamma: float = Field(0.0, ge=0)
    """Length of the perturbation of a layer relative to the norm of its weight; 0 for none."""
    start_epoch: int = Field(10, ge=1)
    """The first epoch, counted from 1, in which weights are perturbed."""


class AveragingConfig(_Frozen):
    """Exponential average of the weights, kept and evaluated beside the live ones."""

    per: Literal["none", "epoch", "step"] = "none"
    """``epoch``: of the state at the end of each epoch, batch-norm statistics included. ``step``: of the parameters
    after each step, with batch-norm statistics copied from the live model."""
    decay: float = Field(0.9, ge=0, lt=1)
    """Weight of the old average. Per step it is at most (1 + t) / (10 + t), t steps after the warm-up."""
    warmup: float = Field(0.0, ge=0, le=1)
    """Share of the run's steps in which the average per step is a copy of the live model."""


class SyntheticConfig(_Frozen):
    """Generated images mixed into every batch."""

    files: tuple[str, ...] = ()
    """Uncompressed .npz files (or folders of .npy files) with ``image`` uint8 (N, H, W, C) and ``label`` (N,)."""
    fraction: float = Field(0.0, ge=0, lt=1)
    """Share of each batch that is generated, rounded down to whole images; such as 0.7. An epoch has as many images as
    there are real training images."""


class SecondViewConfig(_Frozen):
    """A second view of each image, which doubles the batch that a step computes on."""

    augment: str | None = None
    """A registered augmentation such as ``autoaugment``; None for a single view."""
    robust_weight: float = Field(0.5, ge=0)
    """Weight of the second view's adversarial terms; the clean cross-entropy is the mean over both views."""


class ProbeConfig(_Frozen):
    """The PGD attack on the validation images after each epoch, which selects ``best``."""

    steps: int = Field(10, ge=1)


class TrainConfig(_Frozen):
    """Everything that decides what is trained. A recipe is one of these with a name."""

    recipe: str | None = None
    """The recipe that this came from."""
    dataset: str = "cifar10"
    model: str = "preact-resnet18"
    loss: str = "gkl"
    loss_options: dict[str, Any] = {}
    """Options of the loss, such as ``alpha`` and ``beta``."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """In the cross-entropy with the labels."""
    mean: tuple[float, ...] | None = None
    """Normalisation inside the model, one value or one per channel; None for the architecture's own."""
    std: tuple[float, ...] | None = None
    batchnorm_momentum: float | None = Field(None, gt=0, le=1)
    """Weight of the newest batch in the running statistics; None for the architecture's own."""
    sync_batchnorm: bool = False
    """Whether batch normalisation is over a step's whole batch where several processes share it. Without, each one's
    statistics are over its own part, and the running ones are rank 0's."""
    threat: ThreatConfig = ThreatConfig()
    attack: InnerAttackConfig = InnerAttackConfig()
    awp: AWPConfig = AWPConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    averaging: AveragingConfig = AveragingConfig()
    probe: ProbeConfig = ProbeConfig()
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(128, ge=2)
    augment: str = "none"
    second_view: SecondViewConfig = SecondViewConfig()
    cutmix: float = Field(0.0, ge=0, le=1)
    """Share of the batches that CutMix mixes."""
    synthetic: SyntheticConfig = SyntheticConfig()
    precision: Literal["float32", "tf32", "bf16"] = "tf32"
    """``tf32``: float32 with TF32 in CUDA's convolutions and matrix products; ``bf16``: autocast to bfloat16. Losses
    are always float32."""
    train_size: int | None = Field(None, ge=2)
    """Train on the first so many training images only; None for all of them."""
    validation_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the training images held out for model selection; 0 selects on the training images."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _one_mixture(self) -> TrainConfig:
        if self.cutmix and self.second_view.augment is not None:
            raise ValueError("cutmix and second_view.augment cannot be combined; set one of them to 0 or leave it out")
        return self


class Published(_Frozen):
    """What a recipe's authors report, in percent of the full test set."""

    clean: float = Field(ge=0, le=100)
    autoattack: float | None = Field(None, ge=0, le=100)
    source: str


class EvalConfig(_Frozen):
    """Everything that decides what an evaluation measures, but for the model."""

    dataset: str
    split: Literal["test", "train"] = "test"
    n: int | None = Field(None, ge=1)
    """The first so many images of the split; None for all."""
    attacks: tuple[str, ...] = Field(("autoattack",), min_length=1)
    """Attack specs, run in this order on the samples that still stand."""
    threat: ThreatConfig = ThreatConfig()
    engine: Literal["native", "reference"] = "native"
    seed: int = Field(0, ge=0)
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 250
    """Images at a time; ``auto`` for the number that a short probe finds fastest."""
    search_precision: Literal["float32", "tf32", "bf16"] = "float32"
    """In which our own attacks search; what they find is confirmed in float32."""
    compiled: bool = False
    """Search with ``torch.compile``."""
    eps_grid: tuple[ExactNumber, ...] | None = None
    """Several radii that one attack is run at together, rising; None for the threat's alone."""

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, values: Any) -> Any:
        """Without an attack there is no radius: clean accuracy is that of a ball of radius 0."""
        attacks = values.get("attacks") if isinstance(values, Mapping) else None
        if not isinstance(attacks, (tuple, list)) or "none" not in attacks:
            return values
        if len(attacks) > 1:
            raise ValueError("the attack none stands alone; leave out the others, which measure clean accuracy too")
        return {**values, "threat": {"norm": "linf", "eps": 0}}

    @model_validator(mode="after")
    def _own_attacks(self) -> EvalConfig:
        if self.engine == "reference" and (self.compiled or self.search_precision != "float32"):
            raise ValueError("search precision and compilation belong to the native engine; use --engine native")
        if self.engine == "reference" and self.batch_size == "auto":
            raise ValueError("the verdicts of the reference engine depend on its batch_size, which must be a number")
        return self


def validated(model: type[_FrozenT], values: Mapping[str, object], *, what: str) -> _FrozenT:
    """Return ``model`` made of ``values``.

    Raises:
        UserError: what is wrong with which key, in one line.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise one_line(error, what=what, model=model) from None


_FrozenT = TypeVar("_FrozenT", bound=_Frozen)

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _recipe_path(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".toml", ".json"):
        return path
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    return RECIPES / f"{name}.toml"


def read_recipe(name: str) -> dict[str, Any]:
    """Return the training keys of a shipped recipe, or of a file if ``name`` ends in ``.toml`` or ``.json``.

    A run's ``config.json`` is such a file too: its ``train`` table is what is returned. The published figures that
    a recipe may carry are left out; see :func:`published_figures`.

    Raises:
        UserError: no such recipe or file, or one that cannot be read; a run that was imported and not trained.
    """
    values = read_mapping(_recipe_path(name))
    if "train" in values:
        values = values["train"]
        if not isinstance(values, dict):
            raise UserError(f"{name} belongs to an imported run, which says nothing about its training")
    values.pop("published", None)
    return values


def published_figures(name: str) -> Published | None:
    """Return what the authors of a recipe report, or None if the recipe does not say.

    Raises:
        UserError: no such recipe, or a malformed table.
    """
    figures = read_mapping(_recipe_path(name)).get("published")
    return None if figures is None else validated(Published, figures, what=f"recipe {name}, published")


def to_toml(values: Mapping[str, Any], *, table: str = "") -> str:
    """Return nested ``values`` (text, numbers, booleans, lists and tables of them) as TOML; None is left out."""
    import json

    plain = {key: value for key, value in values.items() if value is not None and not isinstance(value, Mapping)}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    text = "".join(f"{line}\n" for line in ([f"[{table}]", *lines] if table and lines else lines))
    inner = [
        to_toml(value, table=f"{table}.{key}" if table else key)
        for key, value in values.items()
        if isinstance(value, Mapping)
    ]
    return "\n".join(part for part in (text, *inner) if part)


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a TOML or JSON file.

    Raises:
        UserError: absent, unreadable or malformed.
    """
    import json

    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid {path.suffix[1:].upper()}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold one table of keys, got {type(values).__name__}")
    return values


def read_assignment(text: str) -> tuple[str, object]:
    """Return the key and the value of ``key=value``; the value is read as TOML where it is valid TOML, else as text.

    Raises:
        UserError: no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set needs key=value, such as optimizer.lr=0.1; got {text!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        return key.strip(), value.strip()


def put_key(values: dict[str, Any], key: str, value: object) -> None:
    """Put ``value`` into nested ``values``; the key ``optimizer.lr`` reaches into a table.

    Raises:
        UserError: a key that leads through something that is no table.
    """
    *tables, last = key.split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {key}: {table} is not a table of keys")
        values = inner
    values[last] = value


def set_key(values: dict[str, Any], assignment: str) -> None:
    """Apply one ``key=value`` to nested ``values``.

    Raises:
        UserError: as :func:`read_assignment` and :func:`put_key`.
    """
    key, value = read_assignment(assignment)
    put_key(values, key, value)
