"""The keys of recipes and evaluations: validated, frozen configurations."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from robustbench_gkl.core.exact import Norm, check_radius, format_fraction, parse_norm
from robustbench_gkl.core.validation import Frozen

if TYPE_CHECKING:
    from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.core.exact import ExactNumber


class ThreatConfig(Frozen):
    """The threat model trained for or evaluated under."""

    norm: Annotated[Norm, BeforeValidator(parse_norm)] = "linf"
    """In which the distance from the original is measured."""
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
        from robustbench_gkl.core.threat import ThreatModel

        return ThreatModel(self.norm, self.eps)


class InnerAttackConfig(Frozen):
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
    fold: Literal["auto", "off"] = "auto"
    """``auto``: attack a twin of the network with batch normalisation folded into convolutions, which is faster and
    equal up to rounding, where the architecture declares that it has one and a first batch agrees."""

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


class OptimizerConfig(Frozen):
    """How the weights are updated."""

    name: Literal["sgd", "adamw"] = "sgd"
    """Stochastic gradient descent with momentum, or AdamW."""
    lr: float = Field(0.1, gt=0)
    """The peak of the schedule."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD; the first of AdamW's two decay rates."""
    weight_decay: float = Field(5e-4, ge=0)
    """As torch's optimiser takes it."""
    no_decay: Literal["none", "batchnorm", "norms-and-biases"] = "none"
    """What weight decay leaves alone: nothing; scale and shift of batch normalisation; or those of every normalisation,
    all biases and all other parameters of one dimension, as is usual with AdamW."""
    nesterov: bool = False
    """Whether SGD's momentum is Nesterov's."""
    clip: float | None = Field(None, gt=0)
    """Largest Euclidean norm of the whole gradient; None does not clip."""

    @model_validator(mode="before")
    @classmethod
    def _former_key(cls, values: Any) -> Any:
        """``decay_batchnorm`` was a flag of version 0.1."""
        if not isinstance(values, Mapping) or "decay_batchnorm" not in values:
            return values
        if "no_decay" in values:
            raise ValueError("decay_batchnorm is the former name of no_decay; give no_decay alone")
        try:
            flag = TypeAdapter(bool).validate_python(values["decay_batchnorm"])
        except ValidationError:
            raise ValueError("decay_batchnorm was true or false; give no_decay in its place") from None
        kept = {key: value for key, value in values.items() if key != "decay_batchnorm"}
        return {**kept, "no_decay": "none" if flag else "batchnorm"}

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> OptimizerConfig:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs the optimiser 'sgd' and a momentum above 0")
        return self


class ScheduleConfig(Frozen):
    """The learning rate over the run."""

    name: Literal["constant", "cosine", "one-cycle", "multi-step"] = "cosine"
    """``cosine``: half a cosine from lr to 0; ``one-cycle``: torch's OneCycleLR, by cosines from lr / 25 to lr and
    on to lr / 250000; ``multi-step``: times ``factor`` at each milestone."""
    per: Literal["epoch", "step"] = "epoch"
    """Whether cosine and one-cycle advance after each epoch or after each step."""
    warmup: float = Field(0.0, ge=0)
    """Number of epochs over which the rate first grows linearly from 0 to lr, step by step. Milestones count them."""
    warmup_kind: Literal["before", "factor"] = "before"
    """``before``: cosine begins at lr when the warm-up ends. ``factor``: cosine and one-cycle are spread over all
    epochs and multiplied by the warm-up, as in version 0.1, whose runs go on so."""
    milestones: tuple[int, ...] = ()
    """``multi-step``: the numbers of epochs after which the rate is lower. After 150 it is that of epoch 151 on, as in
    torch's MultiStepLR; code that lowers it in ``if epoch >= 75`` and counts epochs from 1 does so after 74."""
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
        if self.warmup and self.warmup_kind == "before" and self.name == "one-cycle":
            raise ValueError("the schedule 'one-cycle' rises by itself; set pct_start in place of warmup")
        if self.momentum_range is not None and self.name != "one-cycle":
            raise ValueError("momentum_range belongs to the schedule 'one-cycle'")
        return self


class AWPConfig(Frozen):
    """Adversarial weight perturbation (Wu et al., arXiv 2004.05884)."""

    gamma: float = Field(0.0, ge=0)
    """Length of the perturbation of a layer relative to the norm of its weight; 0 for none."""
    start_epoch: int = Field(10, ge=1)
    """The first epoch, counted from 1, in which weights are perturbed."""


class AveragingConfig(Frozen):
    """Exponential average of the weights, kept and evaluated beside the live ones."""

    per: Literal["none", "epoch", "step"] = "none"
    """``epoch``: of the state at the end of each epoch, batch-norm statistics included. ``step``: of the parameters
    after each step, with batch-norm statistics copied from the live model."""
    decay: float = Field(0.9, ge=0, lt=1)
    """Weight of the old average. Per step it is at most (1 + t) / (10 + t), t steps after the warm-up."""
    warmup: float = Field(0.0, ge=0, le=1)
    """Share of the run's steps in which the average per step is a copy of the live model."""


class SyntheticConfig(Frozen):
    """Generated images mixed into every batch."""

    files: tuple[str, ...] = ()
    """Uncompressed .npz files (or folders of .npy files) with ``image`` uint8 (N, H, W, C) and ``label`` (N,)."""
    fraction: float = Field(0.0, ge=0, lt=1)
    """Share of each batch that is generated, rounded down to whole images; such as 0.7. An epoch has as many images as
    there are real training images."""


class SecondViewConfig(Frozen):
    """A second view of each image, which doubles the batch that a step computes on."""

    augment: str | None = None
    """A registered augmentation such as ``autoaugment``; None for a single view."""
    robust_weight: float = Field(0.5, ge=0)
    """Weight of the second view's adversarial terms; the clean cross-entropy is the mean over both views."""


class ProbeConfig(Frozen):
    """The accuracies on the validation images, which select ``best``. Without such images nothing is measured."""

    steps: int = Field(10, ge=0)
    """Steps of the PGD attack; 0 measures clean accuracy alone."""
    every: int = Field(1, ge=1)
    """Epochs from one measurement to the next; the last epoch is always measured."""
    n: int | None = Field(None, ge=1)
    """At most so many of the validation images, drawn by their number alone; None for all of them."""

    def due(self, epoch: int, epochs: int) -> bool:
        """Return True if ``epoch`` (from 0) of ``epochs`` ends with a measurement."""
        return (epoch + 1) % self.every == 0 or epoch + 1 == epochs


ModelName = Annotated[str | None, BeforeValidator(lambda name: name or None)]
"""A MODEL argument; None, or empty text, for none."""


class TrainConfig(Frozen):
    """Everything that decides what is trained. A recipe is one of these with a name."""

    recipe: str | None = None
    """The recipe that this came from."""
    dataset: str = "cifar10"
    """A name from ``gklbench list datasets``."""
    model: str = "preact-resnet18"
    """A name from ``gklbench list models``."""
    loss: str = "gkl"
    """A name from ``gklbench list losses``."""
    loss_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the loss, such as ``alpha`` and ``beta``."""
    teacher: ModelName = None
    """For losses that read a teacher: a MODEL as in ``eval``, on the student's images and with its own preprocessing.
    It is frozen and in eval mode."""
    init: ModelName = None
    """A MODEL of the same architecture, whose weights the run starts from; None for fresh ones."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """In the cross-entropy with the labels."""
    mean: tuple[float, ...] | None = None
    """Normalisation inside the model, one value or one per channel; None for the architecture's own."""
    std: tuple[float, ...] | None = None
    """Goes with ``mean``."""
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
    """Passes over the training images."""
    batch_size: int = Field(128, ge=2)
    """Images of a step, over all processes together; generated ones are among them."""
    augment: str = "none"
    """``none``, ``crop``, ``crop-flip``, ``crop-flip-cutout``, ``resized-crop-flip``, ``autoaugment`` or a plugin's."""
    second_view: SecondViewConfig = SecondViewConfig()
    cutmix: float = Field(0.0, ge=0, le=1)
    """Share of the batches that CutMix mixes."""
    synthetic: SyntheticConfig = SyntheticConfig()
    precision: Literal["float32", "tf32", "bf16"] = "tf32"
    """``tf32``: float32 with TF32 in CUDA's convolutions and matrix products; ``bf16``: autocast to bfloat16. The
    teacher's passes have it too; losses are always float32."""
    train_size: int | None = Field(None, ge=2)
    """Train on the first so many training images only; None for all of them."""
    validation_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the training images held out for model selection; 0 holds out none and selects nothing."""
    seed: int = Field(0, ge=0)
    """Of all random numbers: weights, order, augmentation, attack."""

    @model_validator(mode="after")
    def _one_mixture(self) -> TrainConfig:
        if self.cutmix and self.second_view.augment is not None:
            raise ValueError("cutmix and second_view.augment cannot be combined; set one of them to 0 or leave it out")
        return self


class ModelOptions(Frozen):
    """What is done to images in front of a model from outside; None for what the model has of its own."""

    mean: tuple[float, ...] | None = None
    """Normalisation, one value or one per channel, in the [0, 1] scale."""
    std: tuple[float, ...] | None = None
    resize: int | None = Field(None, ge=1)
    """Pixels that the shorter side is brought to, before all else."""
    crop: int | None = Field(None, ge=1)
    """Pixels of the square that is then cut from the centre."""

    @model_validator(mode="after")
    def _mean_and_std(self) -> ModelOptions:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std are given together or not at all")
        return self

    def given(self) -> dict[str, Any]:
        """Return the options that are not None."""
        return self.model_dump(mode="json", exclude_none=True)


class EvalConfig(Frozen):
    """Everything that decides what an evaluation measures, but for the model."""

    dataset: str
    """A name from ``gklbench list datasets``."""
    split: Literal["test", "train"] = "test"
    """Which of its images."""
    n: int | None = Field(None, ge=1)
    """The first so many images of the split; None for all."""
    attacks: tuple[str, ...] = Field(("autoattack",), min_length=1)
    """Attack specs, run in this order on the samples that still stand."""
    threat: ThreatConfig = ThreatConfig()
    engine: Literal["native", "reference"] = "native"
    """Our attacks, or the published packages."""
    seed: int = Field(0, ge=0)
    """Of the attacks' random numbers."""
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
