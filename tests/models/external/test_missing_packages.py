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
    [
        ("timm:resnet18", "timm", "timm"),
        ("hf:owner/repo", "huggingface_hub", "hub"),
        ("robustbench:cifar10/Linf/Standard", "robustbench", "robustbench"),
    ],
)
def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, argument: str, module: str, extra: str) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    if module == "robustbench":
        pytest.importorskip("torchattacks", reason="its wheel brings the stale copy")
        if any(dist.name == "robustbench" for dist in importlib.metadata.distributions()):
            pytest.skip("robustbench is installed here")
        monkeypatch.delitem(sys.modules, module)
    source = parse_model(argument)
    assert source is not None
    for act in (source.facts, lambda: source.load(num_classes=10, input_shape=(3, 32, 32))):
        with pytest.raises(UserError, match=rf"pip install 'gklbench\[{extra}\]'") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_a_stale_copy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchattacks' wheel carries robustbench's modules without its metadata."""
    if any(dist.name == "robustbench" for dist in importlib.metadata.distributions()):
        pytest.skip("robustbench is installed here")
    there = importlib.util.find_spec("robustbench") is not None
    expected = "the old copy in torchattacks' wheel" if there else "which is not installed"
    source = parse_model("robustbench:Standard")
    assert source is not None
    with pytest.raises(UserError, match=expected):
        source.facts()
