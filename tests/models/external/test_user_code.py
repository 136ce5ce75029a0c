"""Models that a user's code makes: imported anywhere and again, hashed, wrong in every way."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models import Classifier
from robustbench_gkl.models.external import parse_model
from robustbench_gkl.models.external.user_code import ModuleSource

LINEAR = "nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))"
NET = f"from torch import nn\nmodule = {LINEAR}\ndef build():\n    return {LINEAR}\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


def load(argument: str, **options: object) -> Classifier:
    source = parse_model(argument)
    assert source is not None
    given = {"num_classes": 5, "input_shape": (3, 4, 4)} | options
    return source.load(**given)  # type: ignore[arg-type]


def identity(argument: str) -> dict[str, str]:
    source = parse_model(argument)
    assert source is not None
    return source.identity()


@pytest.mark.parametrize("attribute", ["build", "module", "Net", "Net.make"])
def test_a_function_a_module_a_class(tmp_path: Path, attribute: str) -> None:
    path = write(
        tmp_path / "net.py",
        f"""
        from torch import nn
        class Net(nn.Module):
            def __init__(self, width=3 * 4 * 4):
                super().__init__()
                self.layer = nn.Linear(width, 5)
            def forward(self, x):
                assert not self.training
                return self.layer(x.flatten(1))
            @staticmethod
            def make():
                return Net()
        module = {LINEAR}
        def build(*, depth=1):
            return {LINEAR}
        """,
    )
    model = load(f"{path}:{attribute}")
    assert not model.training
    assert model.num_classes == 5
    assert model.input_shape == (3, 4, 4)
    assert model(torch.rand(7, 3, 4, 4)).shape == (7, 5)


def test_normalisation_is_in_front(tmp_path: Path) -> None:
    path = write(
        tmp_path / "net.py",
        """
        from torch import nn
        class Means(nn.Module):
            def forward(self, x):
                return x.mean(dim=(2, 3))
        """,
    )
    images = torch.rand(2, 3, 4, 4)
    plain = load(f"{path}:Means", num_classes=3)
    assert torch.equal(plain(images), images.mean(dim=(2, 3)))
    model = load(f"{path}:Means", num_classes=3, mean=(0.1, 0.2, 0.3), std=(0.5,))
    expected = (images.mean(dim=(2, 3)) - torch.tensor([0.1, 0.2, 0.3])) / 0.5
    torch.testing.assert_close(model(images), expected)


def test_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "net.py", NET)
    monkeypatch.chdir(tmp_path)
    source = parse_model("./net.py:build")
    assert source is not None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert isinstance(source.load(num_classes=5, input_shape=(3, 4, 4)), Classifier)
    assert source.identity()["code_sha256"] == hashlib.sha256(NET.encode()).hexdigest()


def test_twice_in_one_process(tmp_path: Path) -> None:
    """The second load sees a changed file, and its own neighbours in place of another folder's."""
    for folder, bias in (("a", 1.0), ("b", 2.0)):
        write(tmp_path / folder / "layers.py", f"BIAS = {bias}\n")
        write(
            tmp_path / folder / "net.py",
            f"""
            from torch import nn
            def build():
                from layers import BIAS
                net = {LINEAR}
                nn.init.constant_(net[1].bias, BIAS)
                return net
            """,
        )
    path_before = list(sys.path)
    images = torch.zeros(1, 3, 4, 4)
    for folder, bias in (("a", 1.0), ("b", 2.0), ("a", 1.0)):
        assert load(f"{tmp_path / folder / 'net.py'}:build")(images).tolist() == [[bias] * 5]
    write(tmp_path / "a" / "layers.py", "BIAS = 33.0\n")
    assert load(f"{tmp_path / 'a' / 'net.py'}:build")(images).tolist() == [[33.0] * 5]
    assert sys.path == path_before


def test_in_a_package_and_by_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "ownpkg/__init__.py", "")
    write(tmp_path / "ownpkg/parts/__init__.py", "")
    write(tmp_path / "ownpkg/parts/linear.py", f"from torch import nn\ndef make():\n    return {LINEAR}\n")
    write(tmp_path / "ownpkg/nets.py", "from .parts.linear import make\ndef build():\n    return make()\n")
    write(tmp_path / "ownpkg/unused.py", "raise RuntimeError\n")
    by_file = f"{tmp_path / 'ownpkg/nets.py'}:build"
    assert isinstance(load(by_file), Classifier)
    monkeypatch.chdir(tmp_path)
    assert isinstance(load("ownpkg.nets:build"), Classifier)
    found = identity("ownpkg.nets:build")
    assert found["kind"] == "module"
    assert found["argument"] == "ownpkg.nets:build"
    assert found["code_sha256"] == identity(by_file)["code_sha256"]
    names = ("ownpkg/nets.py", "ownpkg/parts/__init__.py", "ownpkg/parts/linear.py")
    assert found["code_files"] == ", ".join(names)
    lines = "".join(f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    assert found["code_sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_the_hash_covers_the_neighbours_that_are_imported(tmp_path: Path) -> None:
    path = write(tmp_path / "net.py", f"import layers\n{NET}")
    write(tmp_path / "layers.py", "def f():\n    from deeper import g\n")
    write(tmp_path / "deeper.py", "def g(): pass\n")
    write(tmp_path / "other.py", "")
    before = identity(f"{path}:build")
    assert before["code_files"] == "deeper.py, layers.py, net.py"
    write(tmp_path / "other.py", "changed = 1\n")
    assert identity(f"{path}:build") == before
    write(tmp_path / "deeper.py", "def g(): return 1\n")
    assert identity(f"{path}:build")["code_sha256"] != before["code_sha256"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_the_sort\n", r"net\.py, line 1: ModuleNotFoundError: .*; install it \(pip install nothing"),
        ("x = 1\ny = 1 / 0\n", r"net\.py, line 2: ZeroDivisionError: division by zero"),
        ("def build(:\n", r"net\.py, line 1: SyntaxError: invalid syntax"),
        ("import helper\n", r"helper\.py, line 2: ValueError: no good"),
        ("import sys\nsys.exit(3)\n", r"net\.py ends the program when it is imported; put what runs under if __name__"),
        ("def biuld(): pass\nclass Other: pass\n", r"unknown name in net\.py 'build'; did you mean 'biuld'\?"),
        ("build = 3\n", "is a int; name a module, a class or a function"),
        ("def build(width, depth, *, x=1): pass\n", r"needs arguments \(width, depth\); name a function without any"),
        ("class build:\n    def __init__(self, k): pass\n", r"needs arguments \(k\)"),
        ("def build(): return {}\n", r"must return a torch\.nn\.Module, got a dict; build the module and load"),
        ("def build(): return None\n", r"must return a torch\.nn\.Module, got a NoneType"),
        ("def build():\n    raise OSError('lost\\nand found')\n", r"net\.py, line 2: OSError: lost and found"),
        ("from torch import nn\ndef build(): return nn.Linear(4, 5)\n", r"must return logits of 2x5 for two .*2x3x4x5"),
        ("from torch import nn\ndef build(): return nn.Conv2d(1, 5, 3)\n", r"net\.py: RuntimeError: .*channels"),
        (NET.replace("5))", "10))"), "must return logits of 2x5 for two images of 3x4x4, got 2x10 of float32"),
        (
            "from torch import nn\nclass build(nn.Module):\n    def forward(self, x): return x, x\n",
            "returns a tuple and not a tensor; return the logits alone",
        ),
        (
            "from torch import nn\nclass build(nn.Module):\n    def forward(self, x):\n        return x.nothing\n",
            r"net\.py, line 4: AttributeError: 'Tensor' object has no attribute 'nothing'",
        ),
        (
            "from torch import nn\nclass build(nn.Module):\n    def forward(self, x): return x.argmax(1)\n",
            "must return logits of 2x5 .*got 2x4x4 of int64",
        ),
    ],
)
def test_what_goes_wrong_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "net.py", text)
    write(tmp_path / "helper.py", "x = 1\nraise ValueError('no good')\n")
    with pytest.raises(UserError, match=message) as caught:
        load(f"{path}:build")
    assert "\n" not in str(caught.value)


def test_an_installed_package_is_imported_once(tmp_path: Path) -> None:
    """Its own files are hashed, and nothing that it imports from other packages; nor is it imported anew."""
    path = write(tmp_path / "net.py", NET)
    before = sys.modules.get("torchvision")
    for _ in range(2):
        model = load("torchvision.models:squeezenet1_1", num_classes=1000, input_shape=(3, 64, 64))
        assert isinstance(model, Classifier)
        load(f"{path}:build")
        assert before in (None, sys.modules["torchvision"])
        before = sys.modules["torchvision"]
    source = parse_model("torchvision.models:squeezenet1_1")
    assert isinstance(source, ModuleSource)
    code = source.code()
    assert code.tops() == {"torchvision"}
    assert source.identity()["code_files"] == f"torchvision/models/__init__.py and {len(code.family()) - 1} others"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("math:pi", "has no Python source to hash"),
        ("json.nothing:x", "no module 'json.nothing'; check the name"),
        ("json:nothing", "unknown name in __init__.py 'nothing'"),
        ("json.decoder.x:y", "cannot import json.decoder.x"),
    ],
)
def test_modules_that_are_none(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(argument)
    assert "\n" not in str(caught.value)


def test_bad_constants_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "net.py", NET)
    with pytest.raises(UserError, match="mean needs 1 or 3 values"):
        load(f"{path}:build", mean=(0.5, 0.5), std=(1.0,))


def test_weights_are_the_code_s_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    path = write(
        tmp_path / "net.py",
        """
        from pathlib import Path
        import torch
        from torch import nn
        def build():
            net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
            net.load_state_dict(torch.load(Path(__file__).parent / "weights.pt", weights_only=True))
            return net
        """,
    )
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(load(f"{path}:build")(images), net(images))
