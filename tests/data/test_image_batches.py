"""Batches: coverage, seeds, processes, resumption, random crops."""

import pytest
import torch

from isocline.data import Batches, DataError, ImageSet, Slices, random_crop


def _numbered(count: int) -> ImageSet:
    labels = torch.arange(count)
    return ImageSet(labels.float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4), labels)


def _labels(batches: Batches) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def test_an_epoch_visits_each_sample_once_and_drops_the_rest() -> None:
    batches = Batches(_numbered(10), 3, seed=0)
    seen = _labels(batches)
    assert len(seen) == len(batches) == 3
    assert len({label for labels in seen for label in labels}) == 9
    assert all(image.mean() == label for image, label in zip(*next(iter(batches)), strict=True))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    data = _numbered(64)
    assert _labels(Batches(data, 8, seed=1)) == _labels(Batches(data, 8, seed=1))
    assert _labels(Batches(data, 8, seed=1)) != _labels(Batches(data, 8, seed=2))
    assert _labels(Batches(data, 8, seed=1)) != _labels(Batches(data, 8, seed=1, epoch=1))


def test_processes_share_out_one_global_batch() -> None:
    data = _numbered(16)
    whole = _labels(Batches(data, 8, seed=0))
    parts = [_labels(Batches(data, 4, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole


def test_an_epoch_goes_on_where_it_stopped() -> None:
    data = ImageSet(torch.randn(40, 1, 6, 6), torch.arange(40))
    whole = list(Batches(data, 8, seed=0, padding=2))
    interrupted = Batches(data, 8, seed=0, padding=2)
    iterator = iter(interrupted)
    next(iterator), next(iterator)
    state = interrupted.state_dict()
    resumed = Batches(data, 8, seed=0, padding=2)
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == 3
    for (images, labels), (expected, wanted) in zip(rest, whole[2:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, wanted)
    assert len(list(resumed)) == 5


def test_state_after_a_whole_epoch_starts_the_next_at_its_beginning() -> None:
    batches = Batches(_numbered(8), 4, seed=0)
    iterator = iter(batches)
    next(iterator), next(iterator)
    following = Batches(_numbered(8), 4, seed=0, epoch=1)
    following.load_state_dict(batches.state_dict())
    assert len(list(following)) == 2


def test_limit_and_too_few_samples() -> None:
    assert len(Batches(_numbered(10), 2, seed=0, limit=3)) == 3
    with pytest.raises(DataError, match=r"5 training samples do not fill one batch of 4 .* 2 proc"):
        Batches(_numbered(5), 4, seed=0, world_size=2)


def test_slices_keep_order_and_the_short_end() -> None:
    slices = Slices(_numbered(7), 3)
    assert [labels.tolist() for _, labels in slices] == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(slices) == 3


def test_random_crop_shifts_each_image_by_itself() -> None:
    images = torch.rand(200, 2, 6, 6) + 1
    images[0, 0, 0, 0] = 0.25
    cropped = random_crop(images, 2, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (2,) * 4, value=0.25)
    offsets = set()
    for image, whole in zip(cropped, padded, strict=True):
        fits = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(image, whole[:, top : top + 6, left : left + 6])
        ]
        assert len(fits) == 1
        offsets.update(fits)
    assert len(offsets) == 25


def test_images_and_labels_must_agree() -> None:
    with pytest.raises(DataError, match="3 images came with 2 labels"):
        ImageSet(torch.zeros(3, 1, 2, 2), torch.zeros(2))
