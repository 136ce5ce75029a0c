"""robustbench:NAME against that package's own code; in an environment that has it (make zoo)."""

from __future__ import annotations

import shutil
import sys
import warnings
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import CommandLine
from dataset_files import write_cifar
from torch import Tensor, nn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import file_sha256
from robustbench_gkl.models.external import Facts
from robustbench_gkl.models.external.parsing import parse_model
from robustbench_gkl.models.external.robustbench_package import changed_files, package, table
from robustbench_gkl.models.external.robustbench_zoo import RobustBenchSource
from robustbench_gkl.results.published_models import published_models

try:
    INSTALLED = distribution("robustbench")
except PackageNotFoundError:
    pytest.skip("robustbench is not installed here; make zoo tests it", allow_module_level=True)

CIFAR = (3, 32, 32)


def parse(argument: str, zoo_dir: Path) -> RobustBenchSource:
    source = parse_model(argument, zoo_dir=zoo_dir)
    assert isinstance(source, RobustBenchSource)
    return source


def fresh(dataset: str, threat: str, name: str) -> nn.Module:
    """Return the architecture with weights from a fixed seed, those of batch normalisation included."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net: nn.Module = table()[dataset, threat][name]["model"]()
    for key, buffer in net.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return net.eval()


def by_hand(source: RobustBenchSource, folder: Path) -> nn.Module:
    """Return the model as its users load it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net: nn.Module = package().load_model(
            source.model, model_dir=folder, dataset=source.dataset, threat_model=source.threat
        )
    return net


def lay(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    ("place", "wrap"),
    [
        ("cifar10/Linf/Standard", lambda state: {"state_dict": prefixed("module.", state)}),
        ("cifar10/L2/Standard", lambda state: state),
        ("cifar10/Linf/Wong2020Fast", lambda state: {k: v for k, v in state.items() if k not in ("mu", "sigma")}),
        ("cifar10/Linf/Andriushchenko2020Understanding", lambda state: {"last": state, "best": {}}),
        ("cifar100/Linf/Rice2020Overfitting", lambda state: {"state_dict": prefixed("module.model.", state)}),
    ],
)
def test_logits_are_those_of_robustbench_called_by_hand(tmp_path: Path, place: str, wrap: Any) -> None:
    dataset, threat, name = place.split("/")
    net = fresh(dataset, threat, name)
    lay(tmp_path / f"{place}.pt", wrap(net.state_dict()))
    source = parse(f"robustbench:{place}", tmp_path)
    classes = {"cifar10": 10, "cifar100": 100}[dataset]
    model = source.load(num_classes=classes, input_shape=CIFAR)
    images = torch.rand(2, *CIFAR)
    assert torch.equal(model(images), by_hand(source, tmp_path)(images))
    assert torch.equal(model(images), net(images))
    assert not model.training
    identity = source.identity()
    assert identity["checkpoint_sha256"] == file_sha256(tmp_path / f"{place}.pt")
    assert (identity["zoo"], identity["robustbench"]) == (place, INSTALLED.version)


def test_an_ensemble_and_its_files(tmp_path: Path) -> None:
    place = "cifar10/Linf/Chen2020Adversarial"
    net = fresh(*place.split("/"))
    for number, member in enumerate(net.models):  # type: ignore[arg-type]
        lay(tmp_path / f"{place}.pt_m{number}.pt", member.state_dict())
    source = parse(f"robustbench:{place}", tmp_path)
    assert [path.name for path in source.checkpoints()] == [f"Chen2020Adversarial.pt_m{k}.pt" for k in range(3)]
    images = torch.rand(2, *CIFAR)
    model = source.load(num_classes=10, input_shape=CIFAR)
    assert torch.equal(model(images), by_hand(source, tmp_path)(images))
    assert len({value for key, value in source.identity().items() if key.startswith("checkpoint_sha256")}) == 3


def test_imagenet_with_normalisation_in_front(tmp_path: Path) -> None:
    place = "imagenet/Linf/Salman2020Do_R18"
    net = fresh(*place.split("/"))
    state = {key.removeprefix("model."): value for key, value in net.state_dict().items() if key.startswith("model.")}
    lay(tmp_path / f"{place}.pt", {"state_dict": prefixed("module.", state)})
    source = parse("robustbench:Salman2020Do_R18", tmp_path)
    images = torch.rand(2, 3, 64, 64)
    model = source.load(num_classes=1000, input_shape=(3, 64, 64))
    assert torch.equal(model(images), net(images))


def imagenet(**values: Any) -> Facts:
    return Facts(dataset="imagenet", norm="linf", eps=Fraction(4, 255), num_classes=1000, **values)


@pytest.mark.parametrize(
    ("argument", "facts"),
    [
        (
            "cifar10/L2/Standard",
            Facts(dataset="cifar10", norm="l2", eps=Fraction(1, 2), num_classes=10, input_shape=CIFAR),
        ),
        ("Calian2021Defending", None),
        ("Salman2020Do_R18", imagenet(input_shape=(3, 224, 224), resize=256, crop=224, interpolation="bilinear")),
        (
            "Singh2023Revisiting_ViT-S-ConvStem",
            imagenet(input_shape=(3, 224, 224), resize=256, crop=224, interpolation="bicubic"),
        ),
        ("imagenet/Wong2020Fast", imagenet(input_shape=(3, 288, 288), crop=288)),
        ("Mo2022When_ViT-B", imagenet(input_shape=(3, 224, 224), resize=(224, 224), interpolation="bilinear")),
        (
            "imagenet/Debenedetti2022Light_XCiT-S12",
            imagenet(input_shape=(3, 224, 224), resize=224, crop=224, interpolation="bicubic"),
        ),
    ],
)
def test_what_a_model_was_made_for(tmp_path: Path, argument: str, facts: Facts | None) -> None:
    if facts is None:
        with pytest.raises(UserError, match="unknown model of RobustBench"):
            parse(f"robustbench:{argument}", tmp_path).facts()
    else:
        assert parse(f"robustbench:{argument}", tmp_path).facts() == facts


def test_all_models_have_facts(tmp_path: Path) -> None:
    count = 0
    for (dataset, threat), models in table().items():
        for name in models:
            source = parse(f"robustbench:{dataset}/{threat}/{name}", tmp_path)
            facts = source.facts()
            assert (facts.dataset, facts.norm is None) == (dataset, threat == "corruptions")
            assert source.checkpoints()
            count += 1
    assert count == 206


def test_the_published_rows_name_models_that_there_are(tmp_path: Path) -> None:
    """What the table lacks was added to the repository after the release."""
    rows = [row for row in published_models() if row.norm]
    threats = {"linf": "Linf", "l2": "L2"}
    found = [row for row in rows if row.norm and row.name in table()[row.dataset, threats[row.norm]]]
    assert len(found) > len(rows) / 2


def test_a_name_on_several_boards(tmp_path: Path) -> None:
    source = parse("robustbench:Wang2023Better_WRN-28-10", tmp_path)
    with pytest.raises(UserError, match=r"for cifar10 Linf, cifar10 L2, cifar100 Linf; write robustbench:"):
        source.facts()
    narrowed = source.within(dataset="cifar10", norm="l2")
    assert narrowed.facts().eps == Fraction(1, 2)
    assert narrowed.argument == source.argument
    assert narrowed.name == "robustbench-cifar10-L2-Wang2023Better_WRN-28-10"
    assert source.within(dataset="cifar100").facts().num_classes == 100
    assert source.within(dataset="cifar10") == source
    assert parse("robustbench:Salman2020Do_R18", tmp_path).within(dataset="cifar10").facts().dataset == "imagenet"


@pytest.mark.parametrize(
    ("argument", "options", "message"),
    [
        ("Standart", {}, r"unknown model of RobustBench 'Standart'; did you mean 'Standard'\? \(https"),
        ("cifar10/Linf/Salman2020Do_R18", {}, "unknown model of RobustBench"),
        ("cifra10/Standard", {}, "unknown data set of RobustBench 'cifra10'; did you mean 'cifar10'"),
        ("cifar10/linf/Standard", {}, "unknown threat of RobustBench 'linf'; did you mean 'Linf'"),
        ("cifar10/Linf/Standard", {"num_classes": 100}, "tells 10 classes apart, and the data set has 100"),
        ("cifar10/Linf/Standard", {"mean": (0.5,), "std": (0.5,)}, "normalises its images itself; leave out the mean"),
        ("cifar10/Linf/Standard", {}, r"Standard\.pt is empty: the download failed"),
        ("cifar10/Linf/Rice2020Overfitting", {}, "Rice2020Overfitting.pt holds the Python object .* never unpickles"),
        ("cifar10/Linf/Ding2020MMA", {}, "cannot be loaded .RuntimeError: Error.* in loading state_dict"),
        (
            "cifar10/Linf/Wong2020Fast",
            {"input_shape": (1, 32, 32)},
            "3 channels, and the data set has 1",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, argument: str, options: dict[str, Any], message: str) -> None:
    folder = tmp_path / "cifar10/Linf"
    folder.mkdir(parents=True)
    (folder / "Standard.pt").touch()
    lay(folder / "Rice2020Overfitting.pt", nn.Linear(2, 2))
    lay(folder / "Ding2020MMA.pt", {"weight": torch.ones(2)})
    given: dict[str, Any] = {"num_classes": 10, "input_shape": CIFAR} | options
    with pytest.raises(UserError, match=message) as caught:
        parse(f"robustbench:{argument}", tmp_path).load(**given)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing answers there
    path = tmp_path / "imagenet/Linf/Salman2020Do_R18.pt"
    with pytest.raises(UserError, match=rf"no checkpoint at {path}, and .*fetch it and put it there") as caught:
        parse("robustbench:Salman2020Do_R18", tmp_path).load(num_classes=1000, input_shape=(3, 64, 64))
    assert "\n" not in str(caught.value)


def test_the_package_is_as_published_and_its_names_are_lent() -> None:
    """Installing this project, as make zoo does, left the package's files as its RECORD has them."""
    assert changed_files(INSTALLED) == []
    package()
    assert "autoattack" not in sys.modules
    assert "pkg_resources" not in sys.modules


def test_files_of_torchattacks_wheel_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the package is overwritten in two files, as torchattacks' wheel does with eleven."""
    site = Path(str(INSTALLED.locate_file("")))
    for part in ("robustbench", f"robustbench-{INSTALLED.version}.dist-info"):
        shutil.copytree(site / part, tmp_path / part)
    monkeypatch.syspath_prepend(str(tmp_path))
    package.cache_clear()
    copy = distribution("robustbench")
    assert Path(str(copy.locate_file(""))) == tmp_path
    gone = {name for name in changed_files(copy) if not name.startswith("robustbench/")}  # the wheel's own tests
    (tmp_path / "robustbench/utils.py").write_text("stale = True\n")
    (tmp_path / "robustbench/eval.py").unlink()
    assert set(changed_files(copy)) - gone == {"robustbench/eval.py", "robustbench/utils.py"}
    with pytest.raises(UserError, match=r"files of robustbench .* --force-reinstall --no-deps robustbench==") as caught:
        package()
    assert "\n" not in str(caught.value)


def test_an_evaluation_prints_the_published_figures(
    here: Path, gklbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(here / "data", monkeypatch, reader="CIFAR10", classes=10)
    lay(here / "models/cifar10/Linf/Wong2020Fast.pt", fresh("cifar10", "Linf", "Wong2020Fast").state_dict())
    result = gklbench("eval", "robustbench:cifar10/Linf/Wong2020Fast", "--attack", "pgd:steps=1", "--device", "cpu")
    assert result.code == 0, result.err
    (line,) = [line for line in result.out.splitlines() if line.startswith("published by RobustBench")]
    (row,) = [row for row in published_models() if (row.name, row.dataset) == ("Wong2020Fast", "cifar10")]
    assert f"clean {row.clean:.2f} %, AutoAttack {row.autoattack:.2f} %" in line
    assert "clean: our 95 % interval on 4 images" in result.out
    assert "robust: not compared, because this is no complete evaluation under autoattack" in result.out
