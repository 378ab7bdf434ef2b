"""What the suites of irregular series share: recurrences, models, batches, likelihoods."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import isocline as ic
from isocline.irregular import IrregularBatch
from isocline.nn import (
    GRUD,
    ODERNN,
    RNN,
    Bernoulli,
    Gaussian,
    LatentODE,
    Likelihood,
    MLPField,
    PoissonProcess,
    Recurrence,
    RecurrentEncoder,
    RecurrentForecaster,
    SemilinearField,
)

DTYPE = torch.float64
TIGHT: dict[str, Any] = {"solver": "dop853", "rtol": 1e-12, "atol": 1e-12}
# Equal steps: a smooth function of all inputs, whose differences carry no noise of step sizes.
STEADY: dict[str, Any] = {"solver": "rk4", "dt0": 0.3}
FEATURES, HIDDEN, LATENT = 2, 4, 3
M = TypeVar("M", bound=nn.Module)

# --- batches -------------------------------------------------------------------------------------


def ragged(
    lengths: Sequence[int] = (5, 1, 0, 8, 3),
    features: int = FEATURES,
    observed: float = 0.7,
    seed: int = 0,
    dtype: torch.dtype = DTYPE,
    span: tuple[float, float] = (0.1, 1.6),
    until: float | None = None,
    binary: bool = False,
) -> IrregularBatch:
    """Series with times of their own, some values missing, and a row in which nothing was seen."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    low, high = span
    times = [(low + (high - low) * uniform(rows)).sort().values.to(dtype) for rows in lengths]
    values = [3 * uniform(rows, features) - 1.5 for rows in lengths]
    if binary:
        values = [value.sign().clamp(min=0.0) for value in values]
    mask = [uniform(rows, features) < observed for rows in lengths]
    for seen in mask:
        if len(seen) > 3:
            seen[1] = False
    end = None if until is None else torch.full((len(lengths),), until, dtype=dtype)
    return IrregularBatch.collate(times, [value.to(dtype) for value in values], mask, end)


def one_by_one(batch: IrregularBatch) -> list[IrregularBatch]:
    return [batch[[series]] for series in range(len(batch))]


def padded_further(batch: IrregularBatch, rows: int) -> IrregularBatch:
    """The same series, with more padding behind."""

    def more(tensor: Tensor, last: Tensor) -> Tensor:
        return torch.cat([tensor, last.expand(-1, rows, *last.shape[2:])], 1)

    last = batch.times[:, -1:] if batch.rows else batch.times.new_zeros(len(batch), 1)
    nothing = batch.values.new_zeros(len(batch), 1, batch.features)
    return IrregularBatch(
        more(batch.times, last),
        more(batch.values, nothing),
        more(batch.mask, nothing.bool()),
        batch.lengths,
        batch.until,
    )


# --- recurrences ---------------------------------------------------------------------------------


def _ode_rnn(features: int, **settings: Any) -> ODERNN:
    field = MLPField(HIDDEN, 5, depth=1)  # it sees the time since the last row
    return ODERNN(features, HIDDEN, field, **settings)


RECURRENCES: dict[str, Callable[[int], Recurrence]] = {
    "rnn": lambda features: RNN(features, HIDDEN, "rnn", time=False),
    "rnn_dt": lambda features: RNN(features, HIDDEN, "rnn"),
    "gru": lambda features: RNN(features, HIDDEN, time=False),
    "gru_dt": lambda features: RNN(features, HIDDEN, unit=0.3),
    "rnn_bare": lambda features: RNN(features, HIDDEN, "rnn", time=False, mask=False),
    "gru_d": lambda features: GRUD(features, HIDDEN, mean=torch.linspace(-0.5, 0.5, features)),
    "ode_rnn": _ode_rnn,
}
STEPPING = [name for name, make in RECURRENCES.items() if make(1).steps]
FLOWING = [name for name in RECURRENCES if name not in STEPPING]


def stirred(module: M, seed: int = 0) -> M:
    """In float64, with parameters none of which is 0: what starts at 0 hides what it multiplies."""
    generator = torch.Generator().manual_seed(seed)
    module = module.to(DTYPE)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=DTYPE)
            parameter.add_(0.3 * noise)
        for part in module.modules():
            if isinstance(part, GRUD):  # nor may its ramps be flat
                for parameter in (part.input_decay, *part.hidden_decay.parameters()):
                    parameter.abs_()
    return module


def recurrence(name: str, features: int = FEATURES) -> Recurrence:
    torch.manual_seed(0)
    return stirred(RECURRENCES[name](features))


def encoder(name: str, features: int = FEATURES, **settings: Any) -> RecurrentEncoder:
    torch.manual_seed(0)
    return stirred(RecurrentEncoder(RECURRENCES[name](features), LATENT, **settings))


# --- models --------------------------------------------------------------------------------------

LIKELIHOODS: dict[str, Callable[[int], Likelihood]] = {
    "gaussian": lambda features: Gaussian(features, torch.linspace(0.3, 0.8, features)),
    "learnt": lambda features: Gaussian(features, 0.4, learn=True),
    "bernoulli": Bernoulli,
}
EVENTS: dict[str, int | None] = {"values": None, "times": 1, "kinds": FEATURES}
"""Kinds of events beside the values; ``None`` for none."""


def latent_ode(
    reads: str = "gru_dt",
    likelihood: str | None = "gaussian",
    kinds: int | None = None,
    features: int = FEATURES,
    **settings: Any,
) -> LatentODE:
    torch.manual_seed(1)
    process = None
    if kinds is not None:
        net = nn.Sequential(nn.Linear(LATENT, 4), nn.Tanh(), nn.Linear(4, kinds))
        process = PoissonProcess(net, kinds)
    decoder = None if likelihood is None else nn.Linear(LATENT, features)
    model = LatentODE(
        RecurrentEncoder(RECURRENCES[reads](features), LATENT, width=4),
        SemilinearField(LATENT, 4),
        decoder,
        None if likelihood is None else LIKELIHOODS[likelihood](features),
        events=process,
        **{**TIGHT, **settings},
    )
    return stirred(model)


def forecaster(
    reads: str, likelihood: str = "gaussian", features: int = FEATURES
) -> RecurrentForecaster:
    torch.manual_seed(1)
    made = RecurrentForecaster(RECURRENCES[reads](features), LIKELIHOODS[likelihood](features))
    return stirred(made)


MODELS = list(itertools.product(RECURRENCES, ["values"])) + [
    (name, events) for name in ("gru_dt", "ode_rnn") for events in ("times", "kinds")
]
"""Every recurrence as an encoder; events with two of them, which have nothing to do with it."""

ADJOINTS: dict[str, Any] = {
    "checkpointed": None,  # the default
    "slots1": ic.Checkpointed(slots=1),
    "direct": ic.Direct(),
    "backsolve": ic.Backsolve(),
}


def noise_for(batch: IrregularBatch, samples: int = 1, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(batch), samples, LATENT, dtype=DTYPE, generator=generator)


# --- numbers -------------------------------------------------------------------------------------


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def directional(function: Callable[[], Tensor], ways: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Derivative along ways of some tensors, by central differences on five points: O(eps^4)."""
    eps = 1e-3

    def moved(h: float) -> float:
        with torch.no_grad():
            for tensor, way in ways:
                tensor.add_(way, alpha=h)
            value = float(function())
            for tensor, way in ways:
                tensor.sub_(way, alpha=h)
        return value

    near, far = moved(eps) - moved(-eps), moved(2 * eps) - moved(-2 * eps)
    return (8 * near - far) / (12 * eps)
