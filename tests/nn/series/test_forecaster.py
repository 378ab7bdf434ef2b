"""Forecasters: each row from those before it, with predictions in place of what is missing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from isocline.irregular import IrregularBatch
from isocline.nn import RecurrentForecaster

from .series_cases import DTYPE, RECURRENCES, close, forecaster, ragged

TIMES = torch.tensor([1.3, -0.7, 0.2, 0.2, 2.0], dtype=DTYPE)


def by_hand(model: RecurrentForecaster, one: IrregularBatch) -> list[torch.distributions.Normal]:
    """What is said before each row of a single series; a silent row is a step, and no more."""
    inner, said = model.recurrence, []
    memory, now = inner.start(1, one.values), None
    for row in range(one.rows):
        time, values, mask = one.times[:, row], one.values[:, row], one.mask[:, row]
        memory = inner.advance(memory, torch.zeros_like(time) if now is None else time - now)
        each = model.likelihood.distribution(model.readout(inner.hidden_state(memory)))
        said.append(each)
        if inner.steps or bool(mask.any()):
            memory = inner.observe(memory, torch.where(mask, values, each.mean), mask)
        # Until something is observed no time passes.
        now = time if inner.steps or bool(one.mask[:, : row + 1].any()) else None
    return said


@torch.no_grad()
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("reads", RECURRENCES)
def test_what_is_missing_is_predicted(reads: str, likelihood: str) -> None:
    model = forecaster(reads, likelihood)
    batch = ragged((6, 4), observed=0.5, binary=likelihood == "bernoulli")
    bounds, said = model.log_likelihood(batch), model.predict(batch, batch.times)
    for series in range(2):
        expected, one = by_hand(model, batch[[series]]), batch[[series]]
        total = sum(
            (each.log_prob(one.values[:, row]) * one.mask[:, row]).sum()
            for row, each in enumerate(expected)
        )
        close(bounds[series], total)
        for row, each in enumerate(expected):
            close(said.mean[series, row], each.mean[0])
            close(said.std[series, row], each.stddev[0])


@torch.no_grad()
@pytest.mark.parametrize("reads", RECURRENCES)
def test_forecasters_predict_from_what_came_before(reads: str) -> None:
    """At the time of a row that row has not been seen; of several rows at once none has."""
    model, batch = forecaster(reads), ragged((6, 2, 0))
    said = model.predict(batch, batch.times[:, [3]])
    before = batch.select(batch.times < batch.times[:, [3]])
    close(said.mean[0], model.predict(before, batch.times[:, [3]]).mean[0])
    later = dataclasses.replace(batch, values=batch.values.clone())
    later.values[0, 3:] += later.mask[0, 3:].to(DTYPE)
    close(model.predict(later, batch.times[:, [3]]).mean[0], said.mean[0], 0.0)
    shuffled = model.predict(batch, TIMES.abs()[[4, 2, 0]])
    close(shuffled.mean, model.predict(batch, TIMES.abs()[[0, 2, 4]]).mean.flip(1))
    close(said.std, model.likelihood.std.expand_as(said.std), 0.0)
    # A full series' own likelihood is that of its predictions.
    full = ragged((5,), observed=2.0)
    full = full.select(~full.times.diff(prepend=full.times[:, :1] - 1).le(0) & full.mask.all(-1))
    own = model.predict(full, full.times)
    each = torch.distributions.Normal(own.mean, own.std).log_prob(full.values).sum((1, 2))
    close(model.log_likelihood(full), each)


@torch.no_grad()
@pytest.mark.parametrize("reads", ["gru_d", "ode_rnn"])
def test_a_forecast_does_not_depend_on_what_else_is_asked(reads: str) -> None:
    """Also not on a time before the first row, where a recurrence's clock began to run."""
    model, batch = forecaster(reads), ragged((4, 0, 2))
    inner = model.recurrence
    if reads == "ode_rnn":
        inner.solver, inner.rtol, inner.atol, inner.dt0 = "dop853", 1e-12, 1e-12, None
    wanted = torch.tensor([1.7], dtype=DTYPE)
    alone = model.predict(batch, wanted).mean
    more = torch.tensor([-1.0, 0.5, 1.0, 1.7, 1.65, 3.0], dtype=DTYPE)
    close(model.predict(batch, more).mean[:, [3]], alone)
