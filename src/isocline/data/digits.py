"""The 8x8 handwritten digits that come with scikit-learn: 1,797 images, nothing to download."""

from __future__ import annotations

import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split

from .images import ImageSet, ImageSplits

__all__ = ["load_digits"]

# Parts of the whole: about 1,257 images to train on, 180 to validate, 360 to test.
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1


def load_digits(seed: int = 0) -> ImageSplits:
    """Load the digits, split by class in fixed proportions, and normalise them.

    Args:
        seed: Which split; the same seed gives the same split everywhere.

    Returns:
        Images of shape ``(n, 1, 8, 8)``, with the mean and standard deviation of the training part
        taken out of all three parts. Shifts of up to one pixel make sense at this size.
    """
    raw, target = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(raw).float().view(-1, 1, 8, 8)
    labels = torch.from_numpy(target).long()
    every = list(range(len(labels)))
    rest, test = train_test_split(
        every, test_size=TEST_FRACTION, stratify=target, random_state=seed
    )
    train, validation = train_test_split(
        rest,
        test_size=round(VALIDATION_FRACTION * len(every)),
        stratify=target[rest],
        random_state=seed,
    )
    mean, std = images[train].mean(), images[train].std()
    whole = ImageSet((images - mean) / std, labels)
    return ImageSplits(
        train=whole.take(torch.tensor(train)),
        validation=whole.take(torch.tensor(validation)),
        test=whole.take(torch.tensor(test)),
        classes=10,
        padding=1,
    )
