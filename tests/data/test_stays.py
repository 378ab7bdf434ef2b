import pytest
import torch

from isocline.data import simulated_stays
from isocline.errors import InputError


def test_the_same_seed_gives_the_same_stays_and_another_gives_others() -> None:
    one, same, other = simulated_stays(5, 3), simulated_stays(5, 3), simulated_stays(5, 4)
    for mine, theirs in zip(one.times, same.times, strict=True):
        assert torch.equal(mine, theirs)
    assert any(not torch.equal(a, b) for a, b in zip(one.times, other.times, strict=True))


def test_they_have_what_makes_clinical_series_hard() -> None:
    stays = simulated_stays(400)
    times, mask, values = torch.cat(stays.times), torch.cat(stays.mask), torch.cat(stays.values)
    assert float(times.min()) >= 0.0
    assert float(times.max()) <= 48.0
    shares = mask.float().mean(0)
    assert float(shares.max()) > 5 * float(shares.min())  # some are measured often, some rarely
    assert stays.lengths.unique().numel() > 20
    lactate = stays.features.index("lactate")
    assert bool((values[:, lactate][mask[:, lactate]] > 0).all())
    assert stays.labels is not None
    assert 0.1 < float(stays.labels.float().mean()) < 0.35


def test_the_sick_have_other_values_and_are_measured_more_often() -> None:
    stays = simulated_stays(400)
    batch, died = stays.batch(), stays.labels == 1
    heart = batch.mask[..., 0].double()
    mean = (batch.values[..., 0] * heart).sum(1) / heart.sum(1)
    assert float(mean[died].mean()) > float(mean[~died].mean()) + 5.0
    lengths = stays.lengths.double()
    assert float(lengths[died].mean()) > 1.1 * float(lengths[~died].mean())


def test_no_stays_is_an_error() -> None:
    with pytest.raises(InputError, match="number"):
        simulated_stays(0)
