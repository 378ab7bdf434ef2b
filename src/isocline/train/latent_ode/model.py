"""A model of series by its settings: a latent ODE or a recurrent forecaster, and a classifier."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...irregular import IrregularBatch
from ...nn import (
    Bernoulli,
    Gaussian,
    LatentODE,
    Likelihood,
    MLPField,
    PoissonProcess,
    Prediction,
    Recurrence,
    RecurrentEncoder,
    RecurrentForecaster,
    SemilinearField,
)
from ...nn.series import Rows
from ...nn.series.classifier import make_head
from ..adjoint import make_adjoint
from ..series.models import make_recurrence
from ..series.space import SeriesSpace
from .config import LatentOdeConfig

__all__ = ["Bound", "SeriesModel", "build_model"]


class Bound(NamedTuple):
    """What a model makes of a batch.

    Attributes:
        log_likelihood: ``(batch,)``, in nats; of a latent ODE its expectation.
        kl: ``(batch,)``: divergence of the posterior from the prior; 0 of a forecaster.
        logits: ``(batch, classes)``, or ``None`` without a classifier.
    """

    log_likelihood: Tensor
    kl: Tensor
    logits: Tensor | None


class SeriesModel(nn.Module):
    """A latent ODE or a forecaster, with a classifier on its latent or its last hidden state.

    Args:
        core: The model of the series.
        head: The classifier; ``None`` for none.
    """

    def __init__(
        self, core: LatentODE | RecurrentForecaster, head: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.core = core
        self.head = head

    @property
    def events(self) -> PoissonProcess | None:
        """The likelihood of event times, if it has one."""
        return self.core.events if isinstance(self.core, LatentODE) else None

    @property
    def steps_by_samples(self) -> bool:
        """Whether each series went at its own pace in the last pass."""
        stats = self.core.stats if isinstance(self.core, LatentODE) else None
        return stats is not None and stats.samples is not None

    def bound(
        self, observed: IrregularBatch, target: IrregularBatch | None = None, samples: int = 1
    ) -> Bound:
        """Likelihood of a target, or of what is observed, and what the classifier says."""
        if isinstance(self.core, LatentODE):
            elbo = self.core.elbo(observed, target, samples=samples)
            logits = None if self.head is None else self.head(elbo.posterior.loc)
            return Bound(elbo.log_likelihood, elbo.kl, logits)
        log_likelihood = self.core.log_likelihood(observed, target)
        return Bound(log_likelihood, torch.zeros_like(log_likelihood), self.logits(observed))

    def logits(self, observed: IrregularBatch) -> Tensor | None:
        """What the classifier says, ``(batch, classes)``."""
        return None if self.head is None else self.head(self.summary(observed))

    def summary(self, observed: IrregularBatch) -> Tensor:
        """One vector for each series: the mean of the latent state, or the last hidden state."""
        if isinstance(self.core, LatentODE):
            return self.core.encode(observed).loc
        return self.core.recurrence.trace(Rows.forward(observed), self._fill)[1]

    def predict(
        self,
        observed: IrregularBatch,
        times: Tensor,
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Mean and deviation of observations; a forecaster's are given what comes before each."""
        if isinstance(self.core, LatentODE):
            return self.core.predict(observed, times, samples=samples, generator=generator)
        return self.core.predict(observed, times)

    def values(self, batch: IrregularBatch) -> Tensor:
        """How many values and events of each series are modelled, ``(batch,)``."""
        count = batch.mask.sum((1, 2)) if self.core.likelihood is not None else batch.lengths * 0
        return count if self.events is None else count + self.events.events(batch).sum((1, 2))

    def _fill(self, hidden: Tensor) -> Tensor:
        assert isinstance(self.core, RecurrentForecaster)
        mean: Tensor = self.core.likelihood.distribution(self.core.readout(hidden)).mean
        return mean


def build_model(config: LatentOdeConfig, space: SeriesSpace) -> SeriesModel:
    """Build the model that resolved settings describe, for series of a space."""
    assert config.encoder_hidden is not None
    likelihood = _likelihood(config, space)
    name: str = config.model
    if name == "latent-ode":
        # What encodes sees the times; only the forecaster called rnn does not.
        name = "rnn-dt" if config.encoder == "rnn" else config.encoder
    recurrence = make_recurrence(name, space, config.encoder_hidden)
    if config.model != "latent-ode":
        assert likelihood is not None
        head = _head(config, space, recurrence.hidden)
        return SeriesModel(RecurrentForecaster(recurrence, likelihood), head)
    core = _latent_ode(config, space, recurrence, likelihood)
    return SeriesModel(core, _head(config, space, core.latent))


def _head(config: LatentOdeConfig, space: SeriesSpace, width: int) -> nn.Module | None:
    if not (config.label_weight and space.classes):
        return None
    return make_head(width, space.classes, config.head_width, config.dropout)


def _latent_ode(
    config: LatentOdeConfig,
    space: SeriesSpace,
    recurrence: Recurrence,
    likelihood: Likelihood | None,
) -> LatentODE:
    assert config.latent is not None
    assert config.hidden is not None
    assert config.speed is not None
    latent, hidden = config.latent, config.hidden
    field: nn.Module
    if config.field == "semilinear":
        field = SemilinearField(latent, hidden, speed=config.speed)
    elif config.field == "mlp-time":
        field = MLPField(latent, hidden)
    else:
        field = MLPField(latent, hidden, depth=1, activation="elu", time=False)
    decoder: nn.Module | None = None
    if likelihood is not None:
        decoder = nn.Linear(latent, likelihood.outputs)
        if config.decoder == "mlp":
            decoder = _perceptron(latent, hidden, likelihood.outputs)
    return LatentODE(
        RecurrentEncoder(recurrence, latent),
        field,
        decoder,
        likelihood,
        events=_events(config, space) if config.counts_events else None,
        solver=config.solver,
        rtol=config.tol,
        atol=config.tol,
        norm=config.norm if config.norm == "rms" else None,
        stepping=config.stepping,
        adjoint=make_adjoint(config.adjoint),
    )


def _events(config: LatentOdeConfig, space: SeriesSpace) -> PoissonProcess:
    """Event times whose intensities begin about the mean rates of the data."""
    assert config.latent is not None
    assert config.hidden is not None
    rates = torch.tensor(space.rates).clamp(min=1e-3)
    network = _perceptron(config.latent, config.hidden, len(rates))
    return PoissonProcess(network, len(rates), scale=rates)


def _likelihood(config: LatentOdeConfig, space: SeriesSpace) -> Likelihood | None:
    assert config.std is not None
    if not space.width:
        return None
    if config.likelihood == "bernoulli":
        return Bernoulli(space.width)
    return Gaussian(space.width, config.std, learn=config.learn_std)


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
