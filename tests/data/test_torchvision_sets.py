from __future__ import annotations

import functools
import http.server
import logging
import pickle
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from dataset_files import Files, idx, md5, pack_cifar, write_cifar, write_mnist, write_svhn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data import load_dataset
from robustbench_gkl.data.facts import FACTS
from robustbench_gkl.data.torchvision_sets import downloading_alone

PAGE = b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without talking about it, and counts what is fetched."""

    fetched: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.fetched.append(self.path)
        super().do_GET()


class Web:
    """A local web server; ``folder`` is what it serves, ``url`` where."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        handler = type("Counting", (Handler,), {"fetched": self.fetched})
        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
        )
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "web").mkdir()
    server = Web(tmp_path / "web")
    yield server
    server.close()


def publish_cifar(web: Web, patch: pytest.MonkeyPatch) -> Files:
    files = write_cifar(web.folder, patch, reader="CIFAR10", classes=10)
    archive = pack_cifar(web.folder, web.folder, patch, reader="CIFAR10")
    patch.setattr(torchvision.datasets.CIFAR10, "url", f"{web.url}/{archive.name}")
    return files


def publish_mnist(web: Web, patch: pytest.MonkeyPatch, reader: str) -> Files:
    files = write_mnist(web.folder, patch, reader=reader, packed=True)
    patch.setattr(getattr(torchvision.datasets, reader), "mirrors", [f"{web.url}/{reader}/raw/"])
    return files


def publish_svhn(web: Web, patch: pytest.MonkeyPatch) -> Files:
    files = write_svhn(web.folder, patch)
    served = {
        split: [f"{web.url}/{name}", name, checksum]
        for split, (_, name, checksum) in torchvision.datasets.SVHN.split_list.items()
    }
    patch.setattr(torchvision.datasets.SVHN, "split_list", served)
    return files


PUBLISH: dict[str, Callable[[Web, pytest.MonkeyPatch], Files]] = {
    "cifar10": publish_cifar,
    "mnist": lambda web, patch: publish_mnist(web, patch, "MNIST"),
    "fashion-mnist": lambda web, patch: publish_mnist(web, patch, "FashionMNIST"),
    "svhn": publish_svhn,
}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Point every download at a port where nobody listens."""
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    published = torchvision.datasets
    for reader in (published.CIFAR10, published.CIFAR100):
        monkeypatch.setattr(reader, "url", f"{url}/{reader.filename}")
    for reader in (published.MNIST, published.FashionMNIST):
        monkeypatch.setattr(reader, "mirrors", [f"{url}/one/", f"{url}/two/"])
    served = {
        split: [f"{url}/{name}", name, checksum] for split, (_, name, checksum) in published.SVHN.split_list.items()
    }
    monkeypatch.setattr(published.SVHN, "split_list", served)


def failure(name: str, data_dir: Path) -> str:
    """Return the message with which a data set cannot be loaded."""
    with pytest.raises(UserError) as caught:
        load_dataset(name, data_dir=data_dir).load("train")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"cannot load {name}: ")
    assert str(data_dir) in message
    return message


@pytest.mark.parametrize("name", PUBLISH)
def test_a_download_happens_once_and_in_silence(
    name: str,
    web: Web,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = PUBLISH[name](web, monkeypatch)
    dataset = load_dataset(name, data_dir=tmp_path / "new" / "data")
    with caplog.at_level(logging.INFO, "robustbench_gkl.data"):
        loaded = dataset.load("test")
    np.testing.assert_array_equal(loaded.images.numpy(), files.images["test"])
    np.testing.assert_array_equal(loaded.labels.numpy(), files.labels["test"])
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in caplog.records] == [
        f"{name} is not complete in {tmp_path / 'new' / 'data'}: downloading it"
    ]
    fetched = len(web.fetched)
    assert fetched > 0
    assert dataset.load("test").sha256 == loaded.sha256
    assert len(web.fetched) == fetched


@pytest.mark.parametrize("name", PUBLISH)
def test_a_web_page_is_no_data(name: str, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PUBLISH[name](web, monkeypatch)
    for path in web.folder.rglob("*"):
        if path.is_file():
            path.write_bytes(PAGE)
    assert "a web page came instead of" in failure(name, tmp_path / "data")


@pytest.mark.parametrize("name", PUBLISH)
def test_a_wrong_checksum_is_no_data(name: str, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PUBLISH[name](web, monkeypatch)
    for path in web.folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes() + b"x")
    assert "corrupted" in failure(name, tmp_path / "data")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("cifar10", "cifar-10-python.tar.gz", "."),
        ("cifar100", "cifar-100-python.tar.gz", "."),
        ("mnist", "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images", "MNIST/raw"),
        ("fashion-mnist", "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images", "FashionMNIST/raw"),
        ("svhn", "train_32x32.mat", "."),
    ],
)
def test_without_a_network_the_error_says_what_goes_where(name: str, file: str, folder: str, tmp_path: Path) -> None:
    message = failure(name, tmp_path)
    assert f"expected {file}" in message
    assert f" in {tmp_path / folder}: " in message
    assert "refused" in message
    assert "(from http://127.0.0.1" in message


@pytest.mark.usefixtures("offline")
def test_a_batch_without_the_published_checksum_is_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path / "exploded").touch, ()

    for name in ("CIFAR10", "CIFAR100"):
        reader = getattr(torchvision.datasets, name)
        folder = tmp_path / reader.base_folder
        folder.mkdir()
        for file, _ in (*reader.train_list, *reader.test_list, (reader.meta["filename"], None)):
            (folder / file).write_bytes(pickle.dumps(Bomb()))
        failure(name.lower(), tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.usefixtures("offline")
def test_an_archive_put_there_by_hand_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_mnist(tmp_path, monkeypatch, reader="MNIST", packed=True)
    write_cifar(tmp_path, monkeypatch, reader="CIFAR100", classes=100)
    pack_cifar(tmp_path, tmp_path, monkeypatch, reader="CIFAR100")
    shutil.rmtree(tmp_path / torchvision.datasets.CIFAR100.base_folder)
    np.testing.assert_array_equal(
        load_dataset("mnist", data_dir=tmp_path).load("train").images.numpy(), files.images["train"]
    )
    assert len(load_dataset("cifar100", data_dir=tmp_path).load("train")) == 10


def test_intact_files_are_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch, reader="CIFAR10", classes=10)
    before = {path: md5(path) for path in tmp_path.rglob("*") if path.is_file()}
    load_dataset("cifar10", data_dir=tmp_path).load("train")
    assert {path: md5(path) for path in tmp_path.rglob("*") if path.is_file()} == before


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (IMAGES, b"", "ValueError"),
        (IMAGES, idx(np.zeros((10, 28, 28)))[:5000], "RuntimeError"),
        (IMAGES, PAGE, "AssertionError"),
        (IMAGES, idx(np.zeros((10, 32, 32))), "images must be (1, 28, 28), got (1, 32, 32)"),
        (IMAGES, idx(np.zeros((9, 28, 28))), "9 images need as many int64 labels"),
        (LABELS, idx(np.full(10, 10)), "labels must lie in 0..9, got 10..10"),
    ],
)
def test_damaged_files_are_named(
    file: str, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path, monkeypatch, reader="MNIST")
    (tmp_path / "MNIST" / "raw" / file).write_bytes(content)
    said = failure("mnist", tmp_path)
    assert message in said
    assert f"{tmp_path / 'MNIST' / 'raw'}: remove damaged files there" in said


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("")
    assert "FileExistsError" in failure("cifar10", path)


def test_one_process_downloads_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    entered = threading.Event()

    def enter() -> None:
        with downloading_alone(tmp_path):
            entered.set()

    thread = threading.Thread(target=enter)
    with downloading_alone(tmp_path):
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    thread.join()


def test_class_names_agree_with_torchvision() -> None:
    assert list(FACTS["fashion-mnist"].classes) == torchvision.datasets.FashionMNIST.classes
    hundred = FACTS["cifar100"].classes
    assert len(hundred) == 100
    assert sorted(hundred) == list(hundred)
