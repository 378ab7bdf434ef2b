"""The digits: sizes, proportions, normalisation, one split for one seed."""

import torch

from isocline.data import load_digits


def test_split_is_fixed_stratified_and_complete() -> None:
    splits = load_digits(3)
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [1257, 180, 360]
    for part in parts:
        assert part.images.shape[1:] == (1, 8, 8)
        shares = torch.bincount(part.labels, minlength=10) / len(part)
        assert float((shares - 0.1).abs().max()) < 0.01
    again = load_digits(3)
    assert torch.equal(again.test.images, splits.test.images)
    assert not torch.equal(load_digits(4).test.labels, splits.test.labels)


def test_parts_do_not_overlap() -> None:
    splits = load_digits()
    rows = torch.cat(
        [part.images.flatten(1) for part in (splits.train, splits.validation, splits.test)]
    )
    assert len(torch.unique(rows, dim=0)) == len(rows) == 1797


def test_training_part_is_normalised() -> None:
    images = load_digits().train.images
    assert abs(float(images.mean())) < 1e-4
    assert abs(float(images.std()) - 1) < 1e-4
