"""``robustbench:[DATASET/[THREAT/]]NAME``: RobustBench's zoo, through its own package and its own key fixes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.core.exact import Norm
from robustbench_gkl.core.files import file_sha256
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.external.source import ExternalSource, Facts, legal_name, versions

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.models import Classifier

_NORMS: dict[str, Norm] = {"Linf": "linf", "L2": "l2"}
_EPS = {
    ("cifar10", "linf"): Fraction(8, 255),
    ("cifar10", "l2"): Fraction(1, 2),
    ("cifar100", "linf"): Fraction(8, 255),
    ("imagenet", "linf"): Fraction(4, 255),
}
"""The radii of RobustBench's leaderboards (arXiv 2010.09670)."""
_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
_PREPROCESSING = re.compile(r"(?P<cubic>Bicubic)?(Res(?P<resize>\d+))?(Crop(?P<crop>\d+))?")


@dataclass(frozen=True)
class RobustBenchSource(ExternalSource):
    """A model of RobustBench, whose checkpoint lies where that package puts it or is downloaded by it."""

    kind: ClassVar[str] = "robustbench"
    model: str
    dataset: str | None = None
    threat: str | None = None
    """``Linf``, ``L2`` or ``corruptions``."""
    zoo_dir: Path = field(default=Path("models"), kw_only=True)

    @property
    def name(self) -> str:
        """``robustbench-cifar10-Linf-NAME``, with what the argument says of data set and threat."""
        return legal_name("robustbench", self.dataset or "", self.threat or "", self.model)

    def within(self, *, dataset: str | None = None, norm: str | None = None) -> RobustBenchSource:
        """Return the source, narrowed to a data set and a norm where its argument leaves them open.

        They are ignored where the package's table has the model once only.
        """
        places = self._places()
        if len(places) == 1:
            return self
        threat = next((name for name, value in _NORMS.items() if value == norm), None)
        chosen = [
            (data, kind)
            for data, kind in places
            if (dataset is None or data == dataset) and (threat is None or kind == threat)
        ]
        return replace(self, dataset=chosen[0][0], threat=chosen[0][1]) if len(chosen) == 1 else self

    def identity(self) -> dict[str, str]:
        """Return kind, argument, data set, threat, versions, and the hashes of the checkpoint files there are."""
        dataset, threat = self._place()
        hashes = {
            f"checkpoint_sha256{f'_m{number}' if number else ''}": file_sha256(path)
            for number, path in enumerate(self.checkpoints())
            if path.is_file()
        }
        return self.described() | {"zoo": f"{dataset}/{threat}/{self.model}"} | versions("robustbench", "timm") | hashes

    def checkpoints(self) -> list[Path]:
        """Return where the package looks for the model's checkpoint: one file, or one a member of an ensemble.

        Raises:
            UserError: see :meth:`facts`.
        """
        dataset, threat = self._place()
        path = self.zoo_dir / dataset / threat / f"{self.model}.pt"
        links = self._entry()["gdrive_id"]
        return [Path(f"{path}_m{number}.pt") for number in range(len(links))] if isinstance(links, list) else [path]

    def facts(self) -> Facts:
        """Return data set, threat and preprocessing from the package's table.

        Raises:
            UserError: the package is missing or overwritten; it has no such model, or several of this name.
        """
        dataset, threat = self._place()
        norm = _NORMS.get(threat)
        known = Facts(
            dataset=dataset,
            norm=norm,
            eps=_EPS[dataset, norm] if norm else None,
            num_classes=_CLASSES[dataset],
            input_shape=(3, 32, 32),
        )
        return known if dataset != "imagenet" else replace(known, **self._preprocessing())

    def _preprocessing(self) -> dict[str, Any]:
        """Return the fields of :class:`Facts` that say how an image of ImageNet is made to fit."""
        named = self._entry().get("preprocessing")
        if named is None:
            from robustbench_gkl.models.external.timm_zoo import preprocessing
            from robustbench_gkl.models.timm_models import pretrained_config

            return preprocessing(pretrained_config(self._timm_name()))
        match = _PREPROCESSING.fullmatch(named)
        if match is None:
            raise UserError(f"{self.argument}: its preprocessing {named!r} is unknown; give --resize and --crop")
        resize, crop = (int(match[part]) if match[part] else None for part in ("resize", "crop"))
        side = crop or resize or 224
        return {
            "input_shape": (3, side, side),
            "resize": (side, side) if resize and not crop else resize,
            "crop": crop,
            "interpolation": ("bicubic" if match["cubic"] else "bilinear") if resize else None,
        }

    def load(
        self,
        *,
        num_classes: int,
        input_shape: Shape,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> Classifier:
        """Return the model as RobustBench's ``load_model`` does, but no checkpoint is unpickled.

        See :meth:`ExternalSource.load`. A checkpoint that is not there is downloaded by the package.
        """
        from robustbench_gkl.models.external.robustbench_package import load_from_zoo
        from robustbench_gkl.models.external.wrapping import wrap

        self.refuse_normalisation(mean, std)
        self.facts().check_fits(self.argument, num_classes=num_classes, input_shape=input_shape)
        dataset, threat = self._place()
        net = load_from_zoo(self.model, dataset=dataset, threat=threat, folder=self.zoo_dir, files=self.checkpoints())
        return wrap(
            net,
            what=self.argument,
            num_classes=num_classes,
            input_shape=input_shape,
            mean=None,
            std=None,
            device=device,
        )

    def _timm_name(self) -> str:
        dataset, threat = self._place()
        return f"{self.model.lower().replace('-', '_')}_{dataset}_{threat.lower()}"

    def _entry(self) -> dict[str, Any]:
        from robustbench_gkl.models.external.robustbench_package import table

        entry: dict[str, Any] = table()[self._place()][self.model]
        return entry

    def _place(self) -> tuple[str, str]:
        """Return the data set and the threat that the model is for."""
        places = self._places()
        if len(places) == 1:
            return places[0]
        raise UserError(
            f"RobustBench has {self.model} for {', '.join(' '.join(place) for place in places)}; write "
            f"robustbench:{'/'.join(places[0])}/{self.model} or give the data set and the norm"
        )

    def _places(self) -> list[tuple[str, str]]:
        """Return the (data set, threat) pairs that have the model and are not excluded by the argument."""
        from robustbench_gkl.models.external.robustbench_package import table

        found = table()
        for kind, given, position in (("data set", self.dataset, 0), ("threat", self.threat, 1)):
            choices = {place[position] for place in found}
            if given is not None and given not in choices:
                raise unknown(f"{kind} of RobustBench", given, choices)
        places = [place for place in self._within_argument(found) if self.model in found[place]]
        if not places:
            names = self._names(found)
            raise unknown("model of RobustBench", self.model, names, listing="https://robustbench.github.io lists them")
        return places

    def _within_argument(self, found: dict[tuple[str, str], Any]) -> list[tuple[str, str]]:
        return [
            (dataset, threat)
            for dataset, threat in found
            if self.dataset in (None, dataset) and self.threat in (None, threat)
        ]

    def _names(self, found: dict[tuple[str, str], Any]) -> Iterator[str]:
        return (name for place in self._within_argument(found) for name in found[place])
