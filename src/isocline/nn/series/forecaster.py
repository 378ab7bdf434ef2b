"""Recurrent forecasters: the models that a latent ODE is compared with."""

from __future__ import annotations

from torch import Tensor, nn

from ...errors import InputError
from ...irregular import IrregularBatch
from .likelihoods import Likelihood
from .prediction import Prediction, times_of_all
from .recurrence import Recurrence
from .rows import Rows, merge_times

__all__ = ["RecurrentForecaster"]


class RecurrentForecaster(nn.Module):
    """Predicts each row from those before it, and beyond the last runs on its own predictions.

    With an `RNN` without and with times it is the two baselines of Chen et al. 2018, section 5.1,
    with an `ODERNN` the autoregressive model of Rubanova et al. 2019, section 3.1, with a `GRUD` a
    forecaster whose hidden state decays.

    Args:
        recurrence: What reads the rows.
        likelihood: Of the observed values.
        readout: From the hidden state to what the likelihood wants; ``None`` for a linear layer.
    """

    def __init__(
        self, recurrence: Recurrence, likelihood: Likelihood, readout: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.likelihood = likelihood
        self.readout = readout or nn.Linear(recurrence.hidden, likelihood.outputs)

    def log_likelihood(
        self, observed: IrregularBatch, target: IrregularBatch | None = None
    ) -> Tensor:
        """Log likelihood of each series, ``(batch,)``, in nats.

        Args:
            observed: What is read.
            target: What the likelihood is of, at times of its own, which is not read; ``None`` for
                the observations themselves, each given those before it.

        Raises:
            InputError: If target and observed are not as many series.
        """
        if target is None:
            hidden, _ = self.recurrence.trace(Rows.forward(observed), self._most_likely)
            target, output = observed, self.readout(hidden)
        else:
            if len(target) != len(observed):
                raise InputError("target", f"{len(target)} series", f"{len(observed)}, as observed")
            # Closed up, so that no time of the padding becomes a step of the recurrence.
            target = target.select(target.present)
            output = self._outputs(observed, target.times)
        return self.likelihood.log_prob(output, target.values, target.mask).sum(1)

    def predict(self, observed: IrregularBatch, times: Tensor) -> Prediction:
        """Mean and deviation of observations at any times, given all observations *before* each.

        Args:
            observed: What is read.
            times: ``(times,)`` for all series, or ``(batch, times)``; in any order.
        """
        times = times_of_all(times, len(observed))
        each = self.likelihood.distribution(self._outputs(observed, times))
        return Prediction(times, each.mean, each.stddev)

    def _outputs(self, observed: IrregularBatch, times: Tensor) -> Tensor:
        """The readout at `times`, ``(batch, times)``, before what is observed there."""
        merged, index = merge_times(observed, times)
        hidden, _ = self.recurrence.trace(Rows.forward(merged), self._most_likely)
        wanted = index.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        output: Tensor = self.readout(hidden.gather(1, wanted))
        return output

    def _most_likely(self, hidden: Tensor) -> Tensor:
        """What is read in place of a feature that is missing: its predicted mean."""
        mean: Tensor = self.likelihood.distribution(self.readout(hidden)).mean
        return mean
