"""MNIST files: the real ones, and every kind of damage."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch

from isocline.data import DataError, load_mnist, read_idx

REPOSITORY = Path(__file__).resolve().parents[2]
MNIST = Path(os.environ.get("ISOCLINE_MNIST", REPOSITORY.parent / "shared" / "data" / "mnist"))


def _idx(
    path: Path,
    values: np.ndarray,
    *,
    shape: tuple[int, ...] | None = None,
    magic: bytes | None = None,
) -> Path:
    shape = values.shape if shape is None else shape
    magic = bytes((0, 0, 8, values.ndim)) if magic is None else magic
    content = magic + struct.pack(f">{len(shape)}I", *shape) + values.tobytes()
    path.write_bytes(gzip.compress(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder in MNIST's form; the counts are far below MNIST's."""
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        _idx(
            tmp_path / f"{part}-images-idx3-ubyte.gz",
            rng.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        )
        _idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(12, dtype=np.uint8) % 10)
    return tmp_path


@pytest.fixture
def small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, taken for whole."""
    for name, value in (("TRAIN", 12), ("TEST", 12), ("VALIDATION", 3)):
        monkeypatch.setattr(f"isocline.data.mnist.{name}", value)
    return folder


def test_reads_images_of_a_folder(small: Path) -> None:
    splits = load_mnist(small, seed=1)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [9, 3, 12]
    with gzip.open(small / "t10k-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read()[16:], np.uint8).reshape(12, 1, 28, 28)
    expected = torch.from_numpy((raw / 255 - 0.1307) / 0.3081).float()
    torch.testing.assert_close(splits.test.images, expected)
    assert splits.test.labels.tolist() == [index % 10 for index in range(12)]
    assert torch.equal(load_mnist(small, seed=1).train.images, splits.train.images)


# The files are not part of the project: where they are, they are read.
if MNIST.is_dir():

    def test_reads_the_original_files() -> None:
        splits = load_mnist(MNIST)
        sizes = [len(part) for part in (splits.train, splits.validation, splits.test)]
        assert sizes == [55_000, 5_000, 10_000]
        whole = torch.cat([splits.train.images, splits.validation.images])
        assert abs(float(whole.mean())) < 1e-3
        assert abs(float(whole.std()) - 1) < 1e-3
        assert splits.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda path: path.unlink(), "no such file.*--data-dir"),
        (_cut, "ends too early.*download it again"),
        (_flip, "not a sound gzip file"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "not a sound gzip file"),
        (lambda path: path.write_bytes(gzip.compress(b"")), r"magic number is 0x\(empty\)"),
        (lambda path: _idx(path, np.zeros(5, np.uint8)), "0x00000801, but 0x00000803"),
        (
            lambda path: _idx(path, np.zeros((1, 2, 2), np.uint8), magic=b"\0\0\x0d\3"),
            "0x00000d03, but 0x00000803",
        ),
        (
            lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\3\0\0")),
            "6 bytes, but the header alone takes 16",
        ),
        (
            lambda path: _idx(path, np.zeros((2, 4, 4), np.uint8), shape=(3, 4, 4)),
            r"holds 32 values, but its header says 3 x 4 x 4 = 48",
        ),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(
    tmp_path: Path, damage: Callable[[Path], object], found: str
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    path = _idx(tmp_path / "some-images.gz", values)
    assert read_idx(path, 3).shape == (4, 28, 28)
    damage(path)
    with pytest.raises(DataError, match=f"some-images.gz: .*{found}"):
        read_idx(path, 3)


def test_a_folder_in_the_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path, 3)


def test_counts_other_than_mnists_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"train-images.*12 samples, but MNIST's train part has"):
        load_mnist(folder)


def test_labels_and_images_must_agree_in_number(small: Path) -> None:
    _idx(small / "train-labels-idx1-ubyte.gz", np.zeros(11, np.uint8))
    with pytest.raises(DataError, match=r"train-labels.*11 samples"):
        load_mnist(small)


def test_images_of_another_size_are_refused(small: Path) -> None:
    _idx(small / "t10k-images-idx3-ubyte.gz", np.zeros((12, 8, 8), np.uint8))
    with pytest.raises(DataError, match=r"t10k-images.*8x8 pixels, but MNIST's are 28x28"):
        load_mnist(small)


def test_labels_beyond_nine_are_refused(small: Path) -> None:
    _idx(small / "t10k-labels-idx1-ubyte.gz", np.arange(12, dtype=np.uint8))
    with pytest.raises(DataError, match=r"t10k-labels.*label of 11"):
        load_mnist(small)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder.*--data-dir"):
        load_mnist(tmp_path / "nowhere")


def test_fetches_from_openml_without_a_folder(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    asked: list[tuple[object, ...]] = []

    def fetch(*args: object, **options: object) -> tuple[np.ndarray, np.ndarray]:
        asked.append((*args, options["version"]))
        return rng.integers(0, 256, (24, 784)).astype(float), np.array(["3"] * 24, dtype=object)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    splits = load_mnist(None)
    assert asked == [("mnist_784", 1)]
    assert len(splits.test) == 12
    assert set(splits.test.labels.tolist()) == {3}


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*args: object, **options: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    with pytest.raises(DataError, match=r"no route to host.*--data-dir"):
        load_mnist(None)
