"""MNIST: 70,000 handwritten digits of 28x28 pixels (LeCun, Cortes and Burges)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .errors import DataError
from .idx import read_idx
from .images import ImageSet, ImageSplits

__all__ = ["load_mnist"]

SIDE = 28
TRAIN, TEST = 60_000, 10_000
VALIDATION = 5_000
CLASSES = 10

# Mean and standard deviation of the training pixels, scaled to [0, 1].
MEAN, STD = 0.1307, 0.3081


def load_mnist(data_dir: Path | None = None, seed: int = 0) -> ImageSplits:
    """Load MNIST and hold out 5,000 of the 60,000 training images for validation.

    Args:
        data_dir: Folder with the four original files, ``train-images-idx3-ubyte.gz`` and its kin;
            ``None`` to fetch MNIST from OpenML into scikit-learn's cache.
        seed: Which images are held out.

    Returns:
        Images of shape ``(n, 1, 28, 28)``, normalised. Shifts of up to four pixels are usual.

    Raises:
        DataError: If a file is missing or damaged, images and labels differ in number, or the
            download fails.
    """
    train, test = _fetch() if data_dir is None else _read(data_dir)
    order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(seed))
    return ImageSplits(
        train=train.take(order[VALIDATION:]),
        validation=train.take(order[:VALIDATION]),
        test=test,
        classes=CLASSES,
        padding=4,
    )


def _read(folder: Path) -> tuple[ImageSet, ImageSet]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; give --data-dir a folder with the four MNIST files, or "
            "leave it out to have MNIST downloaded"
        )
    return _read_part(folder, "train", TRAIN), _read_part(folder, "t10k", TEST)


def _read_part(folder: Path, part: str, count: int) -> ImageSet:
    image_file = folder / f"{part}-images-idx3-ubyte.gz"
    label_file = folder / f"{part}-labels-idx1-ubyte.gz"
    images = read_idx(image_file, 3)
    labels = read_idx(label_file, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(
            f"{image_file}: images of {images.shape[1]}x{images.shape[2]} pixels, but MNIST's are "
            f"{SIDE}x{SIDE}; this is another data set"
        )
    for file, found in ((image_file, len(images)), (label_file, len(labels))):
        if found != count:
            raise DataError(
                f"{file}: {found:,} samples, but MNIST's {part} part has {count:,}; "
                "download it again"
            )
    if int(labels.max()) >= CLASSES:
        raise DataError(
            f"{label_file}: a label of {int(labels.max())}, but MNIST's go from 0 to "
            f"{CLASSES - 1}; this is another data set"
        )
    return _normalised(images, labels)


def _fetch() -> tuple[ImageSet, ImageSet]:
    # Imported here, for files on disk need none of it.
    from sklearn.datasets import fetch_openml

    try:
        pixels, labels = fetch_openml(
            "mnist_784", version=1, return_X_y=True, as_frame=False, parser="liac-arff"
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"MNIST could not be fetched from openml.org ({error}); give --data-dir a folder with "
            "the four original files, or use --data digits"
        ) from error
    if pixels.shape != (TRAIN + TEST, SIDE * SIDE):
        raise DataError(
            f"openml.org gave MNIST in the shape {pixels.shape}, but "
            f"{(TRAIN + TEST, SIDE * SIDE)} is expected; clear scikit-learn's data cache"
        )
    images = torch.from_numpy(pixels.astype("uint8")).view(-1, SIDE, SIDE)
    target = torch.from_numpy(labels.astype("uint8"))
    return (
        _normalised(images[:TRAIN], target[:TRAIN]),
        _normalised(images[TRAIN:], target[TRAIN:]),
    )


def _normalised(images: Tensor, labels: Tensor) -> ImageSet:
    scaled = images.unsqueeze(1).float().div_(255).sub_(MEAN).div_(STD)
    return ImageSet(scaled, labels.long())
