"""Likelihoods, intervals and the divergence from the prior, against torch and scipy."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Bernoulli as Coin
from torch.distributions import Normal, kl_divergence

from isocline.irregular import IrregularBatch
from isocline.nn import Bernoulli, Gaussian, Likelihood, Prediction, kl_annealing
from isocline.nn.series.elbo import kl_from_prior

from .series_cases import DTYPE, LIKELIHOODS, close, latent_ode, noise_for, ragged, stirred

SHAPE = (4, 3, 2)


def case(name: str) -> tuple[Likelihood, Tensor, Tensor, Tensor]:
    output, mask = 2 * torch.randn(SHAPE, dtype=DTYPE), torch.rand(SHAPE) < 0.6
    values = torch.randn(SHAPE, dtype=DTYPE)
    if name == "bernoulli":
        values = (values > 0).to(DTYPE)
    return stirred(LIKELIHOODS[name](2)), output, values.where(mask, 0.0), mask


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_probabilities_of_what_was_observed(name: str) -> None:
    likelihood, output, values, mask = case(name)
    if isinstance(likelihood, Gaussian):
        each = Normal(output, likelihood.log_std.exp()).log_prob(values)
    else:
        each = Coin(logits=output).log_prob(values)
    expected = torch.stack(
        [row[seen].sum() for row, seen in zip(each.view(-1, 2), mask.view(-1, 2), strict=True)]
    )
    close(likelihood.log_prob(output, values, mask), expected.view(4, 3), 1e-13)
    close(Likelihood.log_prob(likelihood, output, values, mask), expected.view(4, 3), 1e-13)
    said = likelihood.distribution(output)
    assert said.batch_shape == SHAPE
    assert not bool(likelihood.log_prob(output, values, torch.zeros_like(mask)).any())


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_extreme_logits(logit: float) -> None:
    output = torch.tensor([[logit]], requires_grad=True)
    seen = torch.ones(1, 1).bool()
    for value in (0.0, 1.0):
        found = Bernoulli(1).log_prob(output, torch.tensor([[value]]), seen)
        wrong = (value == 1.0) == (logit < 0)
        assert float(found.detach()) == pytest.approx(-abs(logit) if wrong else 0.0)
        (slope,) = torch.autograd.grad(found, output)
        assert float(slope) == pytest.approx((value - (logit > 0)) if wrong else 0.0)


def test_a_learnt_deviation_is_learnt() -> None:
    torch.manual_seed(0)
    likelihood = Gaussian(2, torch.tensor([0.1, 5.0]), learn=True).to(DTYPE)
    values = torch.tensor([0.7, 2.0], dtype=DTYPE) * torch.randn(400, 2, dtype=DTYPE)
    mask = torch.rand(400, 2) < 0.7
    optimizer = torch.optim.LBFGS(
        likelihood.parameters(), max_iter=60, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        lost = -likelihood.log_prob(torch.zeros_like(values), values.where(mask, 0.0), mask).sum()
        lost.backward()
        return lost

    optimizer.step(loss)
    best = [float(values[mask[:, d], d].square().mean().sqrt()) for d in range(2)]
    assert likelihood.std.tolist() == pytest.approx(best, rel=1e-4)
    assert list(Gaussian(2).parameters()) == []
    assert Gaussian(3, 0.2).std.tolist() == pytest.approx([0.2] * 3)


@given(st.floats(1e-9, 1 - 1e-9))
def test_intervals(level: float) -> None:
    mean, std = (
        torch.tensor([[[0.3, -2.0]]], dtype=DTYPE),
        torch.tensor([[[0.1, 4.0]]], dtype=DTYPE),
    )
    lower, upper = Prediction(torch.zeros(1, 1), mean, std).interval(level)
    low, high = scipy.stats.norm.interval(level, mean.numpy(), std.numpy())
    torch.testing.assert_close(lower, torch.as_tensor(low), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(upper, torch.as_tensor(high), rtol=1e-6, atol=1e-9)


def test_the_divergence_from_the_prior() -> None:
    posterior = Normal(torch.randn(5, 3, dtype=DTYPE), torch.rand(5, 3, dtype=DTYPE) + 1e-3)
    prior = Normal(torch.zeros(3, dtype=DTYPE), torch.ones(3, dtype=DTYPE))
    close(kl_from_prior(posterior), kl_divergence(posterior, prior).sum(-1), 1e-13)
    model, batch = latent_ode(), ragged()
    elbo = model.elbo(batch)
    close(elbo.kl, kl_divergence(elbo.posterior, prior).sum(-1), 1e-13)
    close(elbo.value(), elbo.log_likelihood - elbo.kl)
    close(elbo.value(0.3), elbo.log_likelihood - 0.3 * elbo.kl)
    close(elbo.posterior.loc, model.encode(batch).loc)


class Known(nn.Module):
    """An encoder that answers with one distribution."""

    latent = 3

    def __init__(self, answer: Normal) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, batch: IrregularBatch, t0: float) -> Normal:
        return self.answer


def test_a_bound_lies_below_the_evidence() -> None:
    """Of a linear Gaussian model, in which both are known; likelihood and prior fit together."""
    model = latent_ode(rtol=1e-9, atol=1e-9)
    model.dynamics.field.bounded = None
    batch = ragged((3,), observed=2.0)
    A, C, b = model.field.linear.weight, model.decoder.weight, model.decoder.bias
    with torch.no_grad():
        rows = [C @ torch.linalg.matrix_exp(A * t) for t in batch.times[0].tolist()]
        design, std = torch.cat(rows), model.likelihood.std.repeat(3)
        target = (batch.values[0] - b).flatten()
        covariance = design @ design.T + torch.diag(std**2)
        evidence = torch.distributions.MultivariateNormal(torch.zeros_like(target), covariance)
        truth = float(evidence.log_prob(target))
        precision = torch.eye(3, dtype=DTYPE) + design.T @ (design / std[:, None] ** 2)
        best = torch.linalg.solve(precision, design.T @ (target / std**2))
        noise = noise_for(batch, 20000)
        elbo = model.elbo(batch, samples=20000, noise=noise)
        assert float(elbo.value()) < truth
        # Joint density over the true posterior's is the evidence, at any latent state.
        root = torch.linalg.cholesky(torch.linalg.inv(precision))
        z0 = best + noise @ root.T
        output = model.decoder(model.paths(z0, batch.times).z)
        values, mask = batch.values.unsqueeze(2), batch.mask.unsqueeze(2)
        likelihoods = model.likelihood.log_prob(output, values, mask).sum(1)[0]
        prior = -0.5 * z0[0].square().sum(-1) - 1.5 * math.log(2 * math.pi)
        posterior = torch.distributions.MultivariateNormal(best, precision_matrix=precision)
        each = likelihoods + prior - posterior.log_prob(z0[0])
    assert each.tolist() == pytest.approx([truth] * len(each), rel=1e-6)
    # A proposal a little wider than the posterior: weights without long tails.
    wide = Normal(best.unsqueeze(0), 1.5 * posterior.variance.sqrt().unsqueeze(0))
    model.encoder = Known(wide)
    with torch.no_grad():
        estimate = model.log_marginal(batch, samples=20000)
        assert float(estimate) == pytest.approx(truth, abs=0.05)
        assert float(model.elbo(batch, samples=2000).value()) < truth - 0.1


def test_annealing() -> None:
    assert [kl_annealing(i, 0) for i in (0, 5)] == [1.0, 1.0]
    assert [kl_annealing(i, 3) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [kl_annealing(i, 1, wait=2) for i in range(5)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    weights = [kl_annealing(i, 17, wait=4) for i in range(40)]
    assert weights == sorted(weights)
    assert weights[-1] == 1.0
