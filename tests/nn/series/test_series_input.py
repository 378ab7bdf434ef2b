"""Wrong input: an `InputError` whose message names the argument."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from isocline.errors import InputError, InputTypeError
from isocline.irregular import IrregularBatch
from isocline.nn import (
    GRUD,
    ODERNN,
    RNN,
    Bernoulli,
    Gaussian,
    LatentODE,
    MLPField,
    PoissonProcess,
    Prediction,
    RecurrentEncoder,
    RecurrentForecaster,
    SemilinearField,
    kl_annealing,
)
from isocline.nn.series import SeriesClassifier

from .series_cases import RECURRENCES, forecaster, latent_ode, ragged, recurrence

T = torch.tensor([0.5, 1.0])
NAN = torch.tensor([0.0, math.nan])


def values() -> LatentODE:
    return latent_ode()


def times() -> LatentODE:
    return latent_ode("gru_dt", None, 1, features=0)


def built(decoder: Any, likelihood: Any, events: Any = None) -> LatentODE:
    encoder = RecurrentEncoder(RNN(2, 3), 3)
    return LatentODE(encoder, MLPField(3), decoder, likelihood, events=events)


def kinds(number: int) -> LatentODE:
    return latent_ode("gru_dt", None, number, features=2)


def said() -> Prediction:
    return Prediction(T[None], torch.zeros(1, 2, 1), torch.ones(1, 2, 1))


Call = Callable[[], Any]
CALLS: dict[str, tuple[str, Call]] = {
    "rnn features": ("features", lambda: RNN(-1, 3)),
    "rnn hidden": ("hidden", lambda: RNN(2, 0)),
    "rnn cell": ("cell", lambda: RNN(2, 3, "lstm")),  # type: ignore[arg-type]
    "gru-d features": ("features", lambda: GRUD(0)),
    "gru-d hidden": ("hidden", lambda: GRUD(2, 0)),
    "gru-d mean": ("mean", lambda: GRUD(2, 3, mean=torch.zeros(3))),
    "ode-rnn features": ("features", lambda: ODERNN(-2, 3)),
    "ode-rnn hidden": ("hidden", lambda: ODERNN(2, 0)),
    "encoder latent": ("latent", lambda: RecurrentEncoder(RNN(2), 0)),
    "encoder width": ("width", lambda: RecurrentEncoder(RNN(2), 2, width=0)),
    "gaussian features": ("features", lambda: Gaussian(0)),
    "bernoulli features": ("features", lambda: Bernoulli(-1)),
    "std zero": ("std", lambda: Gaussian(2, 0.0)),
    "std negative": ("std", lambda: Gaussian(2, torch.tensor([1.0, -1.0]))),
    "std nan": ("std", lambda: Gaussian(2, math.nan)),
    "std of a shape": ("std", lambda: Gaussian(2, torch.ones(3))),
    "std of many shapes": ("std", lambda: Gaussian(2, torch.ones(2, 2))),
    "poisson kinds": ("kinds", lambda: PoissonProcess(nn.Linear(3, 1), 0)),
    "decoder alone": ("decoder, likelihood", lambda: built(nn.Linear(3, 2), None)),
    "likelihood alone": ("decoder, likelihood", lambda: built(None, Gaussian(2))),
    "no likelihood": ("likelihood, events", lambda: built(None, None)),
    "outputs": ("outputs", lambda: SeriesClassifier(RNN(2), 0)),
    "classifier width": ("width", lambda: SeriesClassifier(RNN(2), 2, width=0)),
    "dropout": ("dropout", lambda: SeriesClassifier(RNN(2), 2, dropout=1.0)),
    "level 0": ("level", lambda: said().interval(0.0)),
    "level 1": ("level", lambda: said().interval(1.0)),
    "level nan": ("level", lambda: said().interval(math.nan)),
    "target of others": ("target", lambda: values().elbo(ragged(), ragged((1, 2)))),
    "target too wide": ("values", lambda: values().elbo(ragged((3,)), ragged((3,), 3))),
    "target too narrow": ("values", lambda: values().elbo(ragged((3,)), ragged((3,), 1))),
    "samples": ("samples", lambda: values().elbo(ragged(), samples=0)),
    "samples of a prediction": ("samples", lambda: values().predict(ragged(), T, samples=0)),
    "noise": ("noise", lambda: values().elbo(ragged(), noise=torch.zeros(5, 1, 2))),
    "noise of samples": ("noise", lambda: values().elbo(ragged(), noise=torch.zeros(5, 2, 3))),
    "times for others": ("times", lambda: values().predict(ragged(), torch.zeros(2, 3))),
    "times of a shape": ("times", lambda: values().predict(ragged(), torch.zeros(5, 3, 1))),
    "times not finite": ("times", lambda: values().predict(ragged(), NAN)),
    "ahead": ("ahead", lambda: values().extrapolate(ragged(), torch.tensor([0.1, -0.1]))),
    "number": ("number", lambda: values().sample(0, T)),
    "number of series of events": ("number", lambda: times().sample_events(1.0, number=-1)),
    "until": ("until", lambda: times().sample_events(0.0)),
    "until nan": ("until", lambda: times().sample_events(math.nan)),
    "no until": ("target", lambda: times().elbo(ragged((3,), 0))),
    "kinds of events": ("features of the batch", lambda: kinds(3).elbo(ragged(until=2.0))),
    "no events": ("the model", lambda: values().intensity(ragged(), T)),
    "no events to draw": ("the model", lambda: values().sample_events(1.0)),
    "no values": ("the model", lambda: times().predict(ragged(features=0), T)),
    "no values to draw": ("the model", lambda: times().sample(2, T)),
    "forecast target": ("target", lambda: forecaster("gru").log_likelihood(ragged(), ragged((1,)))),
    "forecast times": ("times", lambda: forecaster("gru").predict(ragged(), torch.zeros(4, 1))),
    "forecast nan": ("times", lambda: forecaster("gru").predict(ragged(), NAN)),
    "iteration": ("iteration", lambda: kl_annealing(-1, 3)),
    "over": ("over", lambda: kl_annealing(1, -3)),
    "wait": ("wait", lambda: kl_annealing(1, 3, wait=-1)),
    "semilinear dim": ("dim", lambda: SemilinearField(0)),
    "semilinear hidden": ("hidden", lambda: SemilinearField(2, -1)),
    "semilinear speed": ("speed", lambda: SemilinearField(2, speed=-0.1)),
    "semilinear speed inf": ("speed", lambda: SemilinearField(2, speed=math.inf)),
    "semilinear speed nan": ("speed", lambda: SemilinearField(2, speed=math.nan)),
}


@pytest.mark.parametrize("case", CALLS)
def test_what_is_wrong_is_named(case: str) -> None:
    name, call = CALLS[case]
    with pytest.raises(
        InputError, match=rf"^`{re.escape(name)}`: given (?s:.+); expected "
    ) as caught:
        call()
    assert caught.value.argument == name


@pytest.mark.parametrize("reads", RECURRENCES)
def test_a_batch_of_other_features(reads: str) -> None:
    """Torch's own message spoke of input sizes of a network that the user never saw."""
    batch = ragged(features=3)
    for model in (
        SeriesClassifier(recurrence(reads), 2),
        lambda b: RecurrentEncoder(recurrence(reads), 2)(b, 0.0),
        RecurrentForecaster(recurrence(reads), Gaussian(2)).log_likelihood,
    ):
        with pytest.raises(InputError, match=r"^`features of the batch`: given 3; expected 2"):
            model(batch)


def test_a_decoder_that_does_not_fit() -> None:
    """One output for two features was spread over both."""
    model = built(nn.Linear(3, 1), Gaussian(2))
    batch = IrregularBatch.regular(T, torch.zeros(1, 2, 2))
    with pytest.raises(InputError, match=r"^`output`"):
        model.elbo(batch)


@pytest.mark.parametrize("given", [[0.5, 1.0], 0.5, None])
def test_times_that_are_no_tensor(given: Any) -> None:
    for model in (values(), forecaster("gru")):
        with pytest.raises(InputTypeError, match=r"^`times`"):
            model.predict(ragged(), given)
