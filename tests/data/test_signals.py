"""The lead-lag set: reproducible, asynchronous, alike in each channel, told apart by the order."""

import itertools

import pytest
import torch

from isocline.data.signals import lead_lag
from isocline.errors import InputError


def test_a_row_holds_one_value_of_one_channel() -> None:
    series = lead_lag(12, points=20, dropped=0.5)
    assert len(series) == 12
    assert series.features == ("channel-0", "channel-1", "channel-2")
    for times, values, mask in zip(series.times, series.values, series.mask, strict=True):
        assert times.shape == (30,)
        assert bool((times.diff() >= 0).all())
        assert bool((times >= 0).all())
        assert bool((times < 1).all())
        assert torch.equal(mask.sum(1), torch.ones(30, dtype=torch.int64))
        assert mask.sum(0).tolist() == [10, 10, 10]
        assert not bool(values[~mask].any())


def test_classes_are_even_and_follow_from_the_seed() -> None:
    series, same, other = lead_lag(60, seed=3), lead_lag(60, seed=3), lead_lag(60, seed=4)
    assert torch.bincount(series.labels).tolist() == [10] * 6
    assert torch.equal(series.labels, same.labels)
    assert all(map(torch.equal, series.values, same.values))
    assert not torch.equal(series.labels, other.labels)
    assert not torch.equal(series.times[0], other.times[0])


def test_what_is_left_is_a_part_of_what_was_there() -> None:
    full, part = lead_lag(4, points=20, seed=1), lead_lag(4, points=20, dropped=0.7, seed=1)
    assert torch.equal(full.labels, part.labels)
    for index in range(4):
        row = (full.times[index] == part.times[index].unsqueeze(1)).int().argmax(1)
        assert torch.equal(full.times[index][row], part.times[index])
        assert torch.equal(full.values[index][row], part.values[index])
    assert lead_lag(1, points=2, dropped=0.9).mask[0].sum(0).tolist() == [1, 1, 1]


def test_each_channel_alone_is_the_same_in_every_class() -> None:
    series = lead_lag(3000, points=20)
    values, mask = torch.stack(series.values), torch.stack(series.mask)
    for label, channel in itertools.product(range(6), range(3)):
        chosen = values[series.labels == label][mask[series.labels == label][..., channel]][
            :, channel
        ]
        everyone = values[mask[..., channel]][:, channel]
        assert float(chosen.mean()) == pytest.approx(0.0, abs=0.03)
        assert float(chosen.std()) == pytest.approx(float(everyone.std()), abs=0.03)


def test_the_label_says_which_channel_comes_first() -> None:
    series = lead_lag(60, points=400, noise=0.0)
    orders = list(itertools.permutations(range(3)))
    right = 0
    for index in range(60):
        # Values of channel a against those of b some time before: best where the order says.
        times, values, mask = series.times[index], series.values[index], series.mask[index]
        grid = torch.linspace(0.15, 0.85, 300)
        seen = [mask[:, channel] for channel in range(3)]

        def channel_at(t: torch.Tensor, channel: int, seen=seen, times=times, values=values):
            place = torch.searchsorted(times[seen[channel]], t).clamp(max=399)
            return torch.sign(values[seen[channel], channel][place])

        lags = torch.linspace(-0.12, 0.12, 25)
        late = []
        for channel in range(1, 3):
            match = [(channel_at(grid, 0) * channel_at(grid + lag, channel)).mean() for lag in lags]
            late.append(float(lags[int(torch.stack(match).argmax())]))
        ranks = orders[int(series.labels[index])]
        right += (late[0] > 0) == (ranks[1] > ranks[0])
        right += (late[1] > 0) == (ranks[2] > ranks[0])
    assert right >= 110


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("number", {"number": 0}),
        ("points", {"points": 0}),
        ("channels", {"channels": 1}),
        ("dropped", {"dropped": 1.0}),
        ("lag", {"lag": 0.4}),
        ("noise", {"noise": float("nan")}),
    ],
)
def test_what_is_out_of_range_is_named(name: str, bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"`{name}`"):
        lead_lag(**({"number": 3} | bad))
