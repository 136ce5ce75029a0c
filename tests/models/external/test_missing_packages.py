"""An extra that is not installed is one line with the command that installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

import pytest

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models.external import parse_model


@pytest.mark.parametrize(
    ("argument", "module", "extra"),
    [("timm:resnet18", "timm", "timm"), ("hf:owner/repo", "huggingface_hub", "hub")],
)
def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, argument: str, module: str, extra: str) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert_named(argument, rf"pip install 'gklbench\[{extra}\]'")


def test_robustbench_missing_or_torchattacks_copy_of_it() -> None:
    """torchattacks' wheel carries the package's modules without its metadata."""
    if any(found.name == "robustbench" for found in importlib.metadata.distributions()):
        pytest.skip("robustbench is installed here")
    there = importlib.util.find_spec("robustbench") is not None
    why = "the old copy in torchattacks' wheel" if there else "which is not installed"
    assert_named("robustbench:cifar10/Linf/Standard", rf"{why}\): pip install 'gklbench\[robustbench\]'")


def assert_named(argument: str, message: str) -> None:
    source = parse_model(argument)
    assert source is not None
    for act in (source.facts, lambda: source.load(num_classes=10, input_shape=(3, 32, 32))):
        with pytest.raises(UserError, match=message) as caught:
            act()
        assert "\n" not in str(caught.value)
