"""Gradients against central differences: bounds, forecasts and classes; parameters and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from isocline.irregular import IrregularBatch
from isocline.nn.series import SeriesClassifier

from .series_cases import (
    ADJOINTS,
    DTYPE,
    EVENTS,
    LIKELIHOODS,
    MODELS,
    RECURRENCES,
    STEADY,
    TIGHT,
    directional,
    forecaster,
    latent_ode,
    noise_for,
    ragged,
    recurrence,
    stirred,
)

WEIGHTS = torch.tensor([1.0, -0.6, 1.7, 0.8], dtype=DTYPE)


class Setting:
    """A scalar function of a module's parameters and of observed values."""

    def __init__(self, module: nn.Module, batch: IrregularBatch) -> None:
        self.module = module
        self.batch = dataclasses.replace(batch, values=batch.values.clone().requires_grad_())
        assert self.batch.values.is_leaf
        self.tensors: dict[str, Tensor] = {
            "values": self.batch.values,
            **dict(module.named_parameters()),
        }

    def way(self, name: str) -> Tensor:
        generator = torch.Generator().manual_seed(len(name))
        way = torch.randn(self.tensors[name].shape, dtype=DTYPE, generator=generator)
        return way * self.batch.mask if name == "values" else way

    def slopes(self, function: Callable[[], Tensor]) -> dict[str, float]:
        tensors = list(self.tensors.values())
        found = torch.autograd.grad(function(), tensors, allow_unused=True)
        return {
            name: 0.0 if gradient is None else float((gradient * self.way(name)).sum())
            for name, gradient in zip(self.tensors, found, strict=True)
        }

    def check(self, function: Callable[[], Tensor]) -> dict[str, float]:
        """Along random ways, the tensors of each part together: a sum of errors is no zero."""
        found = self.slopes(function)
        for part in {name.split(".")[0] for name in found}:
            names = [name for name in found if name.split(".")[0] == part]
            expected = directional(function, [(self.tensors[n], self.way(n)) for n in names])
            slope = sum(found[name] for name in names)
            assert slope == pytest.approx(expected, rel=1e-6, abs=1e-7), part
        return found


def bound(setting: Setting, samples: int = 2) -> Tensor:
    """Of bound and divergence in unequal parts, so that neither can stand in for the other."""
    batch = setting.batch
    elbo = setting.module.elbo(batch, samples=samples, noise=noise_for(batch, samples))
    return (WEIGHTS * (elbo.log_likelihood - 0.7 * elbo.kl)).sum()


def four(events: str = "values", binary: bool = False) -> IrregularBatch:
    early = (-0.6 if events == "values" else 0.0, 1.4)  # to both sides of t0
    until = None if events == "values" else 1.5
    return ragged((4, 1, 0, 6), span=early, until=until, binary=binary)


@pytest.mark.parametrize(("reads", "events"), MODELS)
def test_of_the_bound(reads: str, events: str) -> None:
    likelihood = None if events == "times" else "learnt"
    model = latent_ode(reads, likelihood, EVENTS[events], **STEADY)
    setting = Setting(model, four(events))
    slopes = setting.check(lambda: bound(setting))
    assert all(slopes.values()), "everything has a part in the bound"


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_of_the_bound_by_likelihood(likelihood: str) -> None:
    model = latent_ode("gru_dt", likelihood, 1, **STEADY)
    setting = Setting(model, four("times", binary=likelihood == "bernoulli"))
    if likelihood == "bernoulli":
        setting.module.likelihood.log_prob = smooth_bernoulli
    setting.check(lambda: bound(setting))


def smooth_bernoulli(output: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Torch's formula takes any value; the differences leave 0 and 1."""
    each = values * output - nn.functional.softplus(output)
    return (each * mask).sum(-1)


@pytest.mark.parametrize("reads", RECURRENCES)
@pytest.mark.parametrize("apart", [False, True])
def test_of_forecasts(reads: str, apart: bool) -> None:
    """What is missing is filled in with predictions, whose gradients belong to it."""
    setting = Setting(forecaster(reads, "learnt"), four())
    target = ragged((2, 3, 1, 4), seed=5) if apart else None
    setting.check(lambda: WEIGHTS @ setting.module.log_likelihood(setting.batch, target))


@pytest.mark.parametrize("reads", RECURRENCES)
def test_of_classes(reads: str) -> None:
    model = stirred(
        SeriesClassifier(recurrence(reads), 3)
    )  # the ramps of a deeper head have corners
    setting = Setting(model, four())
    setting.check(lambda: WEIGHTS @ torch.logsumexp(model(setting.batch, 1.7), -1))


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("reads", ["gru_dt", "ode_rnn"])
def test_by_every_adjoint(reads: str, adjoint: str) -> None:
    """The solve through time and those in an encoder's gaps, whichever adjoint each of them has."""

    def slopes(name: str) -> dict[str, float]:
        model = latent_ode(reads, "learnt", 1, adjoint=ADJOINTS[name])
        model.rtol = model.atol = 1e-9
        if reads == "ode_rnn":
            inner = model.encoder.recurrence
            inner.solver, inner.rtol, inner.atol = "dop853", 1e-9, 1e-9
            inner.adjoint, inner.dt0 = ADJOINTS[name], None
        setting = Setting(model, four("times"))
        return setting.slopes(lambda: bound(setting, samples=1))

    assert slopes(adjoint) == pytest.approx(slopes("direct"), rel=1e-7, abs=1e-7)


def test_of_steps_of_their_own_length() -> None:
    model = latent_ode("gru_dt", "learnt", 1, **TIGHT)
    setting = Setting(model, four("times"))
    setting.tensors = {
        name: setting.tensors[name] for name in ("values", "encoder.head.0.weight", "decoder.bias")
    }
    setting.check(lambda: bound(setting))


def test_of_predictions_to_what_was_observed() -> None:
    """Mean and deviation of a mixture of samples, and of the posterior's mean alone."""
    setting = Setting(latent_ode("gru_d", "learnt", **STEADY), four())
    times = torch.tensor([-0.4, 0.0, 2.1], dtype=DTYPE)
    for samples in (None, 3):

        def spread(samples: int | None = samples) -> Tensor:
            generator = torch.Generator().manual_seed(7)
            said = setting.module.predict(
                setting.batch, times, samples=samples, generator=generator
            )
            return (WEIGHTS[:, None, None] * (said.mean.sin() + said.std.log())).sum()

        setting.check(spread)


def test_nothing_observed_gives_no_nan() -> None:
    """A batch of empty series has no times at all, yet the encoder has a prior to learn."""
    for events, until in (("values", None), ("times", 1.0)):
        model = latent_ode("gru_dt", "learnt", EVENTS[events])
        elbo = model.elbo(ragged((0, 0), until=until))
        elbo.value().sum().backward()
        reached = [p.grad for p in model.parameters() if p.grad is not None]
        assert reached
        assert all(bool(gradient.isfinite().all()) for gradient in reached)
        if events == "values":
            assert torch.equal(elbo.log_likelihood, torch.zeros(2, dtype=DTYPE))
        else:
            assert bool((elbo.log_likelihood < 0).all()), "nothing happened, though it might have"
