"""Event times: likelihood by quadrature, drawn events by their known rate, extremes."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor, nn

from isocline.errors import InputError
from isocline.irregular import IrregularBatch
from isocline.nn import LatentODE, PoissonProcess, RecurrentEncoder
from isocline.nn.series.poisson import draw_events

from .series_cases import DTYPE, RECURRENCES, close, latent_ode, noise_for, ragged, stirred


class Turning(nn.Module):
    """dz/dt = (z2, -z1): a rotation, known at every time."""

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return torch.stack([z[..., 1], -z[..., 0]], -1)


def rotated(z0: Tensor, t: float) -> Tensor:
    c, s = math.cos(t), math.sin(t)
    return torch.stack([c * z0[..., 0] + s * z0[..., 1], -s * z0[..., 0] + c * z0[..., 1]], -1)


def turning(kinds: int, t0: float, features: int) -> LatentODE:
    torch.manual_seed(2)
    process = PoissonProcess(stirred(nn.Linear(2, kinds)), kinds)
    encoder = RecurrentEncoder(RECURRENCES["gru_dt"](features), 2)
    model = LatentODE(encoder, Turning(), None, None, events=process, t0=t0, rtol=1e-11, atol=1e-11)
    return stirred(model)


@pytest.mark.parametrize(("kinds", "t0"), [(1, 0.0), (1, 0.4), (3, 0.4)])
def test_the_likelihood_by_quadrature(kinds: int, t0: float) -> None:
    """``sum log rate - integral of rate`` over the window, which begins at t0."""
    features = 0 if kinds == 1 else kinds
    batch = ragged((4, 0, 1), features, span=(t0, 2.0), until=2.3)
    ends = torch.tensor([2.0, 2.9, 2.1], dtype=DTYPE)
    batch = dataclasses.replace(batch, until=ends)
    model = turning(kinds, t0, features)
    noise = torch.randn(3, 2, 2, dtype=DTYPE)
    with torch.no_grad():
        elbo = model.elbo(batch, samples=2, noise=noise)
        posterior = elbo.posterior
        z0 = posterior.loc.unsqueeze(1) + posterior.scale.unsqueeze(1) * noise
        events = model.events
        assert events is not None
        for series in range(3):
            total = 0.0
            for z in z0[series]:

                def rates(t: float, z: Tensor = z) -> Tensor:
                    return events.intensity(rotated(z, t - t0)).exp()

                for kind in range(kinds):
                    area, _ = scipy.integrate.quad(
                        lambda t, kind=kind: float(rates(t)[kind]),
                        t0,
                        float(ends[series]),
                        epsabs=1e-12,
                    )
                    total -= area
                for row in range(int(batch.lengths[series])):
                    logs = rates(float(batch.times[series, row])).log()
                    happened = batch.mask[series, row] if kinds > 1 else torch.ones(1).bool()
                    total += float(logs[happened].sum())
            assert float(elbo.log_likelihood[series]) == pytest.approx(total / 2, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_rates_have_finite_logarithms_and_slopes(dtype: torch.dtype) -> None:
    """A rate that float32 cannot hold must not become infinite, nor its logarithm NaN."""
    logits = torch.tensor([-1000.0, -200.0, 0.0, 30.0, 200.0], dtype=dtype, requires_grad=True)
    process = PoissonProcess(nn.Identity())
    z = logits.view(-1, 1, 1)
    found = process.log_likelihood(z, torch.ones(5, 1, 1).bool(), torch.zeros(5, 1).to(dtype))
    found.sum().backward()
    expected = logits.detach().clamp(max=50.0)
    torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(process.rate(z).flatten(), expected.exp())
    assert bool(process.rate(z).isfinite().all())
    assert logits.grad is not None
    assert logits.grad.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_the_scale_is_the_rate_where_the_network_says_0() -> None:
    process = PoissonProcess(nn.Identity(), 2, scale=torch.tensor([3.0, 0.5]))
    z = torch.zeros(1, 1, 2)
    torch.testing.assert_close(process.rate(z), torch.tensor([[[3.0, 0.5]]]))
    found = process.log_likelihood(z, torch.tensor([[[True, True]]]), torch.zeros(1, 2))
    assert float(found) == pytest.approx(math.log(3.0 * 0.5))
    again = PoissonProcess(nn.Identity(), 2)
    again.load_state_dict(process.state_dict())
    assert torch.equal(again.rate(z), process.rate(z))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, torch.ones(3)])
def test_a_scale_that_is_no_rate_is_refused(scale: float | torch.Tensor) -> None:
    with pytest.raises(InputError, match="scale"):
        PoissonProcess(nn.Identity(), 2, scale=scale)


def test_events_that_did_not_happen_do_not_count() -> None:
    process = PoissonProcess(nn.Identity(), 2)
    z = torch.tensor([[[1.0, -800.0], [500.0, 2.0]]], requires_grad=True)
    events = torch.tensor([[[True, False], [False, False]]])
    found = process.log_likelihood(z, events, torch.tensor([[0.5, 0.25]]))
    found.backward()
    expected = 1.0 - 0.75
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6)
    assert z.grad is not None
    assert z.grad[0, 0, 0] != 0
    assert not bool(z.grad.flatten()[1:].any())


GRID = torch.linspace(0.5, 4.5, 401, dtype=DTYPE)


def integrals() -> Tensor:
    """Of the rates 3 + 2 sin 4t and 5 exp(-t), from the grid's start."""
    waves = 3 * GRID - 0.5 * torch.cos(4 * GRID)
    decay = -5 * torch.exp(-GRID)
    both = torch.stack([waves, decay], -1)
    return both - both[0]


@pytest.mark.parametrize("kinds", [1, 2])
def test_drawn_events_follow_the_rate(kinds: int) -> None:
    """Counts are Poisson's, and in the time of the integral events lie evenly."""
    number, wanted = 2000, integrals()[:, :kinds]
    generator = torch.Generator().manual_seed(11)
    drawn = draw_events(GRID, wanted.expand(number, -1, -1), 4.5, generator)
    assert len(drawn) == number
    assert drawn.until is not None
    assert torch.equal(drawn.until, torch.full((number,), 4.5, dtype=DTYPE))
    assert drawn.features == (0 if kinds == 1 else kinds)
    assert kinds == 1 or bool((drawn.mask.sum(-1) == drawn.present).all())
    assert torch.equal(drawn.values, drawn.mask.to(DTYPE))
    for kind in range(kinds):
        happened = drawn.present if kinds == 1 else drawn.mask[..., kind]
        mean = float(wanted[-1, kind])
        counts = happened.sum(1)
        low, high = int(mean - 2 * mean**0.5), int(mean + 2 * mean**0.5)
        edges = [-0.5, *(k + 0.5 for k in range(max(low, 0), high)), math.inf]
        observed = [int(((counts > a) & (counts <= b)).sum()) for a, b in itertools.pairwise(edges)]
        law = scipy.stats.poisson(mean)
        shares = [law.cdf(b) - law.cdf(a) for a, b in itertools.pairwise(edges)]
        assert scipy.stats.chisquare(observed, [number * share for share in shares]).pvalue > 1e-3
        times = drawn.times[happened].numpy()
        level = scipy.interpolate.CubicSpline(GRID.numpy(), wanted[:, kind].numpy())(times)
        assert scipy.stats.kstest(level / mean, "uniform").pvalue > 1e-3
        # From one event to the next the integral grows by as much as waiting takes.
        one = drawn.times[0][happened[0]]
        assert bool((one.diff() >= 0).all())


def test_where_nothing_can_happen_nothing_does() -> None:
    still = draw_events(GRID, torch.zeros(3, 401, 1, dtype=DTYPE), 4.5)
    assert still.lengths.tolist() == [0, 0, 0]
    late = integrals()[:, :1].clamp(min=float(integrals()[200, 0])).expand(50, -1, -1)
    drawn = draw_events(GRID, late, 4.5)
    assert float(drawn.times[drawn.present].min()) >= float(GRID[200])
    two = draw_events(GRID, torch.zeros(3, 401, 2, dtype=DTYPE), 4.5)
    assert (two.rows, two.features) == (0, 2)


def test_series_of_events_from_a_model() -> None:
    """From the prior and from a posterior, reproducibly, in the window; and as many as expected."""
    model = latent_ode("gru_dt", None, 1, features=0, t0=0.3, solver="tsit5", rtol=1e-5, atol=1e-6)
    observed = ragged((3, 0, 1), features=0, span=(0.3, 1.0), until=1.0)
    with torch.no_grad():
        for options in ({"observed": observed}, {"number": 3}):
            one, other = (
                model.sample_events(2.0, generator=torch.Generator().manual_seed(5), **options)
                for _ in range(2)
            )
            assert torch.equal(one.times, other.times)
            assert len(one) == 3
            assert float(one.times[one.present].min()) >= 0.3
            assert one.until is not None
            assert one.until.tolist() == [2.0] * 3
        many = observed[[0] * 1500]
        counts = model.sample_events(2.0, observed=many).lengths.to(DTYPE)
        grid = torch.linspace(0.3, 2.0, 200, dtype=DTYPE)
        z0 = model.encode(observed).rsample((1500,))[:, :1]
        rates = model.events.rate(model.paths(z0, grid.expand(1500, -1)).z.squeeze(2))
        expected = torch.trapezoid(rates.squeeze(-1), grid, dim=1)
    error = math.hypot(float(counts.std()), float(expected.std())) / math.sqrt(1500)
    assert abs(float(counts.mean() - expected.mean())) < 4 * error


def test_intensities() -> None:
    model, batch = latent_ode("gru_dt", None, 2, t0=0.5), ragged((3, 0, 2), until=2.0)
    times = torch.tensor([1.5, 0.5, 0.1], dtype=DTYPE)
    with torch.no_grad():
        rates = model.intensity(batch, times)
        assert rates.shape == (3, 3, 2)
        z0 = model.encode(batch).loc
        close(rates[:, 1], model.events.intensity(z0).exp())
        close(model.intensity(batch, times.expand(3, -1)), rates)


def test_a_window_begins_at_t0() -> None:
    """Events before it were counted without the integral over the time in which they happened."""
    model = latent_ode("gru_dt", None, 1, features=0, t0=0.5)
    batch = ragged((3, 1), features=0, span=(0.6, 1.0), until=1.2)
    noise = noise_for(batch)
    assert bool(model.elbo(batch, noise=noise).log_likelihood.isfinite().all())
    ended = ragged((0, 0), features=0, until=0.4)
    for wrong in (batch.shifted(-0.4), ended):
        with pytest.raises(InputError, match=r"^`target`.*t0"):
            model.elbo(wrong)
    with pytest.raises(InputError, match=r"^`target`.*until"):
        model.elbo(IrregularBatch.collate([batch.times[0]]))


def test_numbers_rounded_to_the_start_are_not_before_it() -> None:
    """In float32 0.7 is a little less than 0.7, and was refused as a time before t0."""
    for t0 in (0.1, 0.3, 0.7):
        model = latent_ode("gru_dt", None, 1, features=0, t0=t0, rtol=1e-4, atol=1e-4).float()
        times = torch.tensor([t0, 1.0])
        batch = IrregularBatch.collate([times], until=torch.tensor([1.0]))
        assert bool(model.elbo(batch).log_likelihood.isfinite().all())
        assert bool(model.intensity(batch, times).isfinite().all())
        assert len(model.sample_events(1.0)) == 1
        assert model.nfe_backward == 0
        assert len(model._solves) == 1, "nothing lies before t0"
