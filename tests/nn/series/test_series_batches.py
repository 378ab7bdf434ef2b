"""A series has a result of its own, whatever stands beside it, in any order, however padded."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.irregular import IrregularBatch
from isocline.nn.series import (
    ODERNN,
    LatentODE,
    RecurrentEncoder,
    RecurrentForecaster,
    SeriesClassifier,
)
from isocline.nn.series.rows import merge_times

from .series_cases import (
    DTYPE,
    EVENTS,
    RECURRENCES,
    close,
    encoder,
    forecaster,
    latent_ode,
    noise_for,
    one_by_one,
    padded_further,
    ragged,
    recurrence,
    stirred,
)

ORDER = [3, 0, 4, 2, 1]


def five(events: str = "values") -> IrregularBatch:
    until = None if events == "values" else 3.0
    batch = ragged(until=until)
    # One series long after, or before, the others.
    by = torch.tensor([0.0, 1.2, 0.0, 0.3, 0.0], dtype=DTYPE)
    if events == "values":
        by[4] = -2.5
    return batch.shifted(by)


def answers(model: object, batch: IrregularBatch, series: list[int]) -> dict[str, Tensor]:
    """All that a model says, with noise that belongs to the series."""
    times = torch.linspace(-0.4, 1.2, 3, dtype=DTYPE) + 0.5 * torch.arange(5)[:, None]
    times = times[series]
    with torch.no_grad():
        if isinstance(model, RecurrentEncoder):
            posterior = model(batch, -0.2)
            return {"mean": posterior.loc, "std": posterior.scale}
        if isinstance(model, SeriesClassifier):
            return {"logits": model(batch), "later": model(batch, times[:, 0])}
        if isinstance(model, RecurrentForecaster):
            said = model.predict(batch, times)
            target = ragged((2, 0, 3, 4, 1), seed=9)[series]
            return {
                "mean": said.mean,
                "std": said.std,
                "own": model.log_likelihood(batch),
                "target": model.log_likelihood(batch, target),
            }
        assert isinstance(model, LatentODE)
        noise = noise_for(ragged(), 2)[series]
        elbo = model.elbo(batch, samples=2, noise=noise)
        found = {"likelihood": elbo.log_likelihood, "kl": elbo.kl}
        if model.likelihood is not None:
            said = model.predict(batch, times)
            found |= {"mean": said.mean, "std": said.std}
            found["ahead"] = model.extrapolate(batch, times[:, -1:]).mean
        if model.events is not None:
            found["rates"] = model.intensity(batch, times)
        return found


def model_of(kind: str, reads: str, events: str = "values") -> object:
    if kind == "encoder":
        return encoder(reads)
    if kind == "classifier":
        return stirred(SeriesClassifier(recurrence(reads), 3))
    if kind == "forecaster":
        return forecaster(reads)
    return latent_ode(reads, None if events == "times" else "gaussian", EVENTS[events])


CASES = [("latent", "gru_dt", events) for events in EVENTS] + [
    (kind, reads, "values")
    for kind in ("encoder", "forecaster", "classifier")
    for reads in RECURRENCES
]


@pytest.mark.parametrize(("kind", "reads", "events"), CASES)
def test_alone_permuted_and_padded(kind: str, reads: str, events: str) -> None:
    model, batch = model_of(kind, reads, events), five(events)
    together = answers(model, batch, list(range(5)))
    assert all(bool(answer.isfinite().all()) for answer in together.values())
    for series, single in enumerate(one_by_one(batch)):
        for name, answer in answers(model, single, [series]).items():
            close(answer[0], together[name][series])
    for name, answer in answers(model, padded_further(batch[ORDER], 3), ORDER).items():
        close(answer, together[name][ORDER])


@pytest.mark.parametrize("reads", ["gru_dt", "ode_rnn"])
def test_padding_of_a_target_is_no_time_of_it(reads: str) -> None:
    """Padding at other times than the last row's became steps of a recurrence."""
    batch, target = ragged((4, 6, 2)), ragged((2, 5, 1), seed=4)
    other = dataclasses.replace(target, times=target.times.where(target.present, 0.2))
    for model in (forecaster(reads), latent_ode(reads)):
        with torch.no_grad():
            if isinstance(model, LatentODE):
                noise = noise_for(batch)
                plain = model.elbo(batch, target, noise=noise).log_likelihood
                found = model.elbo(batch, other, noise=noise).log_likelihood
            else:
                plain, found = (model.log_likelihood(batch, t) for t in (target, other))
        close(found, plain)


@pytest.mark.parametrize("reads", RECURRENCES)
def test_what_was_not_observed_is_not_read(reads: str) -> None:
    """NaN under a mask of False went into the network."""
    batch = five()
    given = batch.values.where(batch.mask, torch.nan)
    marked = dataclasses.replace(batch, values=given)
    for kind in ("encoder", "forecaster", "classifier"):
        model = model_of(kind, reads)
        plain, found = (answers(model, b, list(range(5))) for b in (batch, marked))
        assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize("reads", RECURRENCES)
def test_a_row_that_observes_nothing_changes_nothing(reads: str) -> None:
    """But for recurrences that move in steps: to them it is a step.

    Before the first row it started a GRU-D's clock and an ODE-RNN's flow, so that a forecast
    depended on what else was asked for.
    """
    made = recurrence(reads)
    if isinstance(made, ODERNN):
        made.solver, made.rtol, made.atol, made.dt0 = "dop853", 1e-12, 1e-12, None
    batch = ragged((4,), seed=1)
    assert not bool(batch.mask[0, 0].all())
    blank = torch.tensor([0.02, 0.7, 1.58], dtype=DTYPE)
    more, index = merge_times(batch, blank[None])
    assert index.tolist() == [[0, int((batch.times < 0.7).sum()) + 1, more.rows - 1]]
    model = stirred(SeriesClassifier(made, 3))
    with torch.no_grad():
        apart = float((model(more, 1.8) - model(batch, 1.8)).abs().max())
    assert (apart > 1e-6) if made.steps else (apart < 1e-10)


def test_the_union_of_times_gives_what_each_series_alone_would() -> None:
    """Each series solved by hand over its own times, at both sides of t0 and with equal times."""
    batch = ragged((4, 6, 2), span=(-1.0, 1.0))
    batch.times[1, 2] = batch.times[1, 3]
    batch.times[0, 1] = batch.times[1, 3]
    batch = dataclasses.replace(batch, times=batch.times.sort(1).values)
    model = latent_ode("gru_dt", t0=0.1)
    with torch.no_grad():
        z0 = model.encode(batch).loc
        said = model.reconstruct(batch).mean
        for series in range(3):
            for row in range(int(batch.lengths[series])):
                end = float(batch.times[series, row])
                z = ic.solve(
                    model.field, z0[[series]], 0.1, end, solver="dop853", rtol=1e-12, atol=1e-12
                ).ys[-1]
                close(said[series, row], model.decoder(z)[0])
