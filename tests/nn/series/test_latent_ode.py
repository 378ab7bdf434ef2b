"""What a latent ODE is asked for: times of any kind, noise, predictions and samples."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from isocline.nn import LatentODE

from .series_cases import (
    DTYPE,
    close,
    latent_ode,
    noise_for,
    ragged,
)

TIMES = torch.tensor([1.3, -0.7, 0.2, 0.2, 2.0], dtype=DTYPE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def test_times_in_any_order_shared_or_not() -> None:
    model, batch = latent_ode(t0=0.2), ragged()
    said = model.predict(batch, TIMES)
    assert said.times.shape == (5, 5)
    assert said.mean.shape == said.std.shape == (5, 5, 2)
    close(model.predict(batch, TIMES.expand(5, -1)).mean, said.mean)
    order = TIMES.argsort()
    close(model.predict(batch, TIMES[order]).mean, said.mean[:, order])
    close(said.mean[:, 2], said.mean[:, 3], 0.0)
    close(said.mean[:, 2], model.decoder(model.encode(batch).loc))  # at t0 itself
    own = TIMES + torch.arange(5, dtype=DTYPE)[:, None]
    each = model.predict(batch, own)
    for series in range(5):
        close(each.mean[series], model.predict(batch, own[series]).mean[series])
    for none in (torch.zeros(0, dtype=DTYPE), torch.zeros(5, 0, dtype=DTYPE)):
        assert model.predict(batch, none).mean.shape == (5, 0, 2)
    assert model.predict(batch, torch.tensor([0.2], dtype=DTYPE)).mean.shape == (5, 1, 2)


@torch.no_grad()
@pytest.mark.parametrize("reads", ["gru_dt", "ode_rnn"])
def test_a_shift_of_all_times_is_a_shift_of_t0(reads: str) -> None:
    """The field does not see the time: only the distance from t0 matters."""
    batch = ragged(span=(-0.5, 1.0), until=None)
    here, there = latent_ode(reads, t0=0.1), latent_ode(reads, t0=7.1)
    noise = noise_for(batch)
    elbos = here.elbo(batch, noise=noise), there.elbo(batch.shifted(7.0), noise=noise)
    close(elbos[0].log_likelihood, elbos[1].log_likelihood, 1e-9)
    close(elbos[0].kl, elbos[1].kl, 1e-9)
    said = here.predict(batch, TIMES), there.predict(batch.shifted(7.0), TIMES + 7.0)
    close(said[0].mean, said[1].mean, 1e-9)


@torch.no_grad()
def test_one_solve_to_each_side_of_t0() -> None:
    model, batch = latent_ode(), ragged()
    model.predict(batch, TIMES.abs())
    assert len(model._solves) == 1
    model.predict(batch, TIMES)
    assert len(model._solves) == 2
    assert model.nfe == sum(int(stats.nfe_forward) for stats in model._solves)


@torch.no_grad()
@pytest.mark.parametrize("t0", [0.0, 0.1, 0.3, 0.7])
def test_times_of_either_type(t0: float) -> None:
    """In float32 0.7 is a little less than 0.7, and was refused as a time beyond the solve."""
    single = latent_ode(t0=t0, solver="tsit5", rtol=1e-5, atol=1e-5).float()
    batch = ragged(dtype=torch.float32)
    times = torch.tensor([t0, t0 + 0.5, 2.0])
    said = single.predict(batch, times)
    assert len(single._solves) == 1, "nothing lies before t0"
    double = dataclasses.replace(batch, times=batch.times.double())
    for observed, asked in ((double, times.double()), (batch, times.double()), (double, times)):
        mean = single.predict(observed, asked).mean
        assert mean.dtype == torch.float32
        torch.testing.assert_close(mean, said.mean, rtol=1e-3, atol=1e-3)
    whole = single.predict(batch, torch.tensor([1, 2])).mean
    torch.testing.assert_close(
        whole, single.predict(batch, torch.tensor([1.0, 2.0])).mean, rtol=1e-4, atol=1e-4
    )
    assert single.elbo(double).value().dtype == torch.float32
    exact = latent_ode(t0=t0).predict(ragged(), times.double()).mean
    torch.testing.assert_close(said.mean.double(), exact, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_noise_is_given_or_drawn() -> None:
    model, batch = latent_ode("gru_dt", "gaussian", 1), ragged(until=2.0)
    noise = noise_for(batch, 3)
    together = model.elbo(batch, samples=3, noise=noise).log_likelihood
    apart = [model.elbo(batch, noise=noise[:, [k]]).log_likelihood for k in range(3)]
    close(together, torch.stack(apart).mean(0))
    close(model.elbo(batch, samples=3, noise=noise).log_likelihood, together, 0.0)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model.elbo(batch).log_likelihood)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@torch.no_grad()
def test_a_target_of_its_own() -> None:
    model, batch = latent_ode(), ragged()
    target, noise = ragged((1, 0, 4, 2, 7), seed=8), noise_for(batch)
    found = model.elbo(batch, target, noise=noise)
    close(found.kl, model.elbo(batch, noise=noise).kl)
    posterior = model.encode(batch)
    z0 = posterior.loc + posterior.scale * noise[:, 0]
    path = model.paths(z0.unsqueeze(1), target.times).z.squeeze(2)
    each = torch.distributions.Normal(model.decoder(path), model.likelihood.std)
    expected = each.log_prob(target.values).where(target.mask, 0.0).sum((1, 2))
    close(found.log_likelihood, expected)


@torch.no_grad()
def test_the_deviation_of_a_prediction_is_that_of_a_mixture() -> None:
    model, batch = latent_ode(), ragged((2, 0))
    times, many = torch.tensor([0.5, 1.5], dtype=DTYPE), 400
    said = model.predict(batch, times, samples=many, generator=generator())
    noise = torch.randn(2, many, 3, dtype=DTYPE, generator=generator())
    posterior = model.encode(batch)
    z0 = posterior.loc.unsqueeze(1) + posterior.scale.unsqueeze(1) * noise
    means = model.decoder(model.paths(z0, times.expand(2, -1)).z)
    close(said.mean, means.mean(2))
    within = model.likelihood.std.square()
    close(said.std, (means.var(2, correction=0) + within).sqrt())
    alone = model.predict(batch, times)
    close(alone.std, model.likelihood.std.expand_as(alone.std))
    again = model.predict(batch, times, samples=many, generator=generator())
    assert torch.equal(said.mean, again.mean)


@torch.no_grad()
def test_extrapolation_begins_where_a_series_ends() -> None:
    model, batch = latent_ode(t0=0.4), ragged((3, 0, 5), span=(-2.0, -1.0))
    ahead = torch.tensor([0.0, 0.7], dtype=DTYPE)
    said = model.extrapolate(batch, ahead)
    ends = [float(batch.times[0, 2]), 0.4, float(batch.times[2, 4])]
    for series, end in enumerate(ends):
        assert said.times[series].tolist() == pytest.approx([end, end + 0.7])
    close(said.mean, model.predict(batch, said.times).mean)
    each = torch.tensor([[0.1], [0.2], [0.3]], dtype=DTYPE)
    found = model.extrapolate(batch, each).times.squeeze(1).tolist()
    assert found == pytest.approx([e + a for e, a in zip(ends, [0.1, 0.2, 0.3], strict=True)])
    nothing = model.extrapolate(ragged((0, 0)), ahead)
    assert nothing.times.tolist() == [[0.4, 1.1]] * 2
    drawn = (model.extrapolate(batch, ahead, samples=3, generator=generator()) for _ in range(2))
    assert torch.equal(*(said.mean for said in drawn))
    assert torch.equal(model.reconstruct(batch).times, batch.times)


@torch.no_grad()
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_samples_from_the_prior(likelihood: str) -> None:
    model = latent_ode("gru_dt", likelihood)
    times = torch.tensor([-0.5, 0.0, 1.0], dtype=DTYPE)
    clean, again = (model.sample(4, times, noise=False, generator=generator()) for _ in range(2))
    assert clean.shape == (4, 3, 2)
    assert torch.equal(clean, again)
    z0 = torch.randn(4, 1, 3, dtype=DTYPE, generator=generator())
    close(clean[:, 1], model.likelihood.distribution(model.decoder(z0[:, 0])).mean)
    noisy = model.sample(3000, times)
    if likelihood == "bernoulli":
        assert bool(((noisy == 0) | (noisy == 1)).all())
    own = times + torch.arange(4, dtype=DTYPE)[:, None]
    apart = model.sample(4, own, noise=False, generator=generator())
    close(apart[0], clean[0])
    assert model.sample(1, times[:0]).shape == (1, 0, 2)
    spread = model.likelihood.distribution(
        model.decoder(model.paths(torch.randn(3000, 1, 3, dtype=DTYPE), times.expand(3000, -1)).z)
    ).mean.squeeze(2)
    error = 5 * (noisy.var(0) / 3000 + spread.var(0) / 3000).sqrt()
    assert bool(((noisy.mean(0) - spread.mean(0)).abs() < error).all())


def test_the_model_of_the_paper() -> None:
    model = LatentODE.of_sizes(2, t0=0.5, rtol=1e-3, learn_std=True, std=0.3)
    assert (model.latent, model.t0, model.rtol) == (4, 0.5, 1e-3)
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert sizes["dynamics.field.layers.0.weight"] == (20, 4)
    assert sizes["decoder.0.weight"] == (20, 4)
    assert sizes["likelihood.log_std"] == (2,)
    assert model.events is None
    assert model.field is model.dynamics.field
    assert "t0=0.5, solver='tsit5'" in repr(model)
