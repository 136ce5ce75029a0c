"""Validated, frozen configurations, and the conversion of their errors into one line."""

from __future__ import annotations

import inspect
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


def one_line(error: ValidationError, *, what: str) -> UserError:
    """Return pydantic's ``error`` about ``what`` as one line that names each key, its value and what it needs."""
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in item["loc"] if part not in ("function-before", "function-after"))
        message = item["msg"].removeprefix("Value error, ")
        got = "" if item["type"] in ("missing", "extra_forbidden", "value_error") else f", got {item['input']!r}"
        parts.append(f"{key}: {message}{got}" if key else f"{message}{got}")
    return UserError(f"{what}: " + "; ".join(parts))


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
            values[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            raise one_line(error, what=f"{what}, option {key}") from None
    return factory(**fixed, **values)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ThreatConfig(_Frozen):
    """The threat model trained for or evaluated under."""

    norm: Norm = "linf"
    eps: ExactNumber = Fraction(8, 255)
    """Radius in the [0, 1] image scale."""

    @model_validator(mode="after")
    def _scale(self) -> ThreatConfig:
        check_radius(self.norm, self.eps)
        return self

    def threat(self) -> ThreatModel:
        """Return the threat model."""
        from robustbench_gkl.threat import ThreatModel

        return ThreatModel(self.norm, self.eps)


class InnerAttackConfig(_Frozen):
    """The attack that crafts the training images."""

    steps: int = Field(10, ge=1)
    step_size: ExactNumber | None = None
    """Length of a step in the threat's norm and the [0, 1] scale; None for 2.5 eps / steps."""
    start: Literal["auto", "gaussian", "uniform", "none"] = "auto"
    """``gaussian``: the image plus 0.001 N(0, 1); ``uniform``: anywhere in the ball; ``auto``: the loss's own."""


class OptimizerConfig(_Frozen):
    """Stochastic gradient descent."""

    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    nesterov: bool = False


class ScheduleConfig(_Frozen):
    """The learning rate over the run."""

    name: Literal["constant", "cosine"] = "cosine"


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
    mean: tuple[float, ...] | None = None
    """Normalisation inside the model, one value or one per channel; None for the architecture's own."""
    std: tuple[float, ...] | None = None
    threat: ThreatConfig = ThreatConfig()
    attack: InnerAttackConfig = InnerAttackConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    probe: ProbeConfig = ProbeConfig()
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(128, ge=2)
    augment: str = "none"
    train_size: int | None = Field(None, ge=2)
    """Train on the first so many training images only; None for all of them."""
    validation_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the training images held out for model selection; 0 selects on the training images."""
    seed: int = Field(0, ge=0)


class EvalConfig(_Frozen):
    """Everything that decides what an evaluation measures, but for the model."""

    dataset: str
    split: Literal["test", "train"] = "test"
    n: int | None = Field(None, ge=1)
    """The first so many images of the split; None for all."""
    attacks: tuple[str, ...] = ("autoattack",)
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

    @model_validator(mode="after")
    def _own_attacks(self) -> EvalConfig:
        if self.engine == "reference" and (self.compiled or self.search_precision != "float32"):
            raise ValueError("search precision and compilation belong to the native engine; use --engine native")
        return self


def validated(model: type[_FrozenT], values: Mapping[str, object], *, what: str) -> _FrozenT:
    """Return ``model`` made of ``values``.

    Raises:
        UserError: what is wrong with which key, in one line.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise one_line(error, what=what) from None


_FrozenT = TypeVar("_FrozenT", bound=_Frozen)

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(name: str) -> dict[str, Any]:
    """Return the keys of a shipped recipe, or of a recipe file if ``name`` ends in ``.toml`` or ``.json``.

    Raises:
        UserError: no such recipe or file, or one that cannot be read.
    """
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        if name not in recipe_names():
            raise unknown("recipe", name, recipe_names())
        path = RECIPES / f"{name}.toml"
    return read_mapping(path)


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
    except ValueError as error:
        raise UserError(f"{path} is not valid {path.suffix[1:].upper()}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold one table of keys, got {type(values).__name__}")
    return values


def set_key(values: dict[str, Any], assignment: str) -> None:
    """Apply one ``key=value`` to nested ``values``; ``optimizer.lr=0.1`` reaches into a table.

    The value is read as TOML where it is valid TOML, else as text.

    Raises:
        UserError: no ``=``, or a key that leads through something that is no table.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set needs key=value, such as optimizer.lr=0.1; got {assignment!r}")
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    *tables, last = key.strip().split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {key}: {table} is not a table of keys")
        values = inner
    values[last] = value
