"""Latent ODEs: a generative model of time series with irregular times."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from ...adjoints import Adjoint
from ...errors import InputError
from ...irregular import IrregularBatch
from ...solvers import BlackBox, Solver
from ..fields import MLPField
from .elbo import Elbo, kl_from_prior
from .encoder import Encoder, RecurrentEncoder
from .likelihoods import Gaussian, Likelihood
from .paths import LatentPaths, SeriesStepping
from .poisson import PoissonProcess, draw_events
from .prediction import Prediction, times_of_all
from .rnn import RNN, Cell

__all__ = ["LatentODE"]

# Points of the grid on which the integral of an intensity is inverted to draw events.
_EVENT_GRID = 1000


class LatentODE(LatentPaths):
    """A latent state that follows an ODE, and observations of it (Chen et al. 2018, section 5).

    ``z(t0) ~ N(0, 1)``, ``dz/dt = field(t, z)``, ``x(t_i) ~ likelihood(decoder(z(t_i)))``. An
    encoder reads the observations and gives an approximate posterior of z(t0); the model is trained
    by the evidence lower bound, `elbo`. The times of events may be modelled too: see
    `PoissonProcess`.

    A batch whose series have times of their own is solved once, over the union of the times, and
    each series takes its own from the solution. With ``stepping="per_sample"`` each series is
    solved at its own pace and to its own last time instead. Which costs less depends on the times,
    the field and the device: with ``stepping="auto"`` the first training batches of about one size
    are timed either way, and the others go the cheaper one.

    Both ways answer alike to the tolerance of the solve, but not to the bit, and which one "auto"
    takes depends on a clock. So it is not the default; it times nothing but training steps of a
    module in training mode; and under `torch.use_deterministic_algorithms` it steps jointly.

    Args:
        encoder: From an `IrregularBatch` and t0 to a posterior; see `RecurrentEncoder`.
        field: Called as ``field(t, z)`` with z of shape ``(batch, latent)``.
        decoder: From latent states, ``(..., latent)``, to what the likelihood wants,
            ``(..., likelihood.outputs)``; ``None`` where only event times are modelled.
        likelihood: Of the observed values; ``None`` with the decoder.
        events: Likelihood of event times; ``None`` where they mean nothing.
        t0: Time of the latent state that the encoder infers. Times before it are reached backwards.
        solver, rtol, atol, adjoint: As for `solve`.
        stepping: "joint", "per_sample", or "auto" for the one that is measured to cost less.
        **settings: Further settings of `SolvingModule`.

    Raises:
        InputError: If there is a decoder without a likelihood, or the reverse, or neither of values
            and events is modelled, or there is no such stepping.
    """

    def __init__(
        self,
        encoder: Encoder,
        field: nn.Module,
        decoder: nn.Module | None,
        likelihood: Likelihood | None,
        *,
        events: PoissonProcess | None = None,
        t0: float = 0.0,
        solver: str | Solver | BlackBox = "tsit5",
        rtol: float = 1e-5,
        atol: float = 1e-6,
        adjoint: Adjoint | None = None,
        stepping: SeriesStepping = "joint",
        **settings: Any,
    ) -> None:
        settings |= {"solver": solver, "rtol": rtol, "atol": atol, "adjoint": adjoint}
        super().__init__(field, events, t0, stepping=stepping, **settings)
        if (decoder is None) != (likelihood is None):
            given = "a decoder" if likelihood is None else "a likelihood"
            raise InputError("decoder, likelihood", f"{given} alone", "both, or neither")
        if likelihood is None and events is None:
            raise InputError("likelihood, events", "neither", "at least one of them")
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood

    @classmethod
    def of_sizes(
        cls,
        features: int,
        latent: int = 4,
        hidden: int = 20,
        encoder_hidden: int = 25,
        *,
        cell: Cell = "gru",
        std: float = 0.1,
        learn_std: bool = False,
        **settings: Any,
    ) -> LatentODE:
        """The model of the paper's experiment on spirals, of any size (section 5.1).

        A recurrent network that sees the times, run backwards; a field and a decoder with one
        hidden layer; Gaussian noise.

        Args:
            features: Features of an observation.
            latent: Size of the latent state.
            hidden: Width of the hidden layers of field and decoder.
            encoder_hidden: Size of the encoder's hidden state.
            cell: ``"rnn"`` as in the paper, or ``"gru"``, which is slower and keeps more.
            std: Standard deviation of the noise.
            learn_std: Learn it.
            **settings: As for the class.
        """
        encoder = RecurrentEncoder(RNN(features, encoder_hidden, cell), latent)
        field = MLPField(latent, hidden, depth=1, activation="elu", time=False)
        decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, features))
        likelihood = Gaussian(features, std, learn=learn_std)
        return cls(encoder, field, decoder, likelihood, **settings)

    @property
    def latent(self) -> int:
        """Size of the latent state."""
        return self.encoder.latent

    def encode(self, observed: IrregularBatch) -> Normal:
        """The approximate posterior of ``z(t0)``, of shape ``(batch, latent)``."""
        return self.encoder(observed, self.t0)

    def elbo(
        self,
        observed: IrregularBatch,
        target: IrregularBatch | None = None,
        *,
        samples: int = 1,
        noise: Tensor | None = None,
    ) -> Elbo:
        """The evidence lower bound of each series.

        Args:
            observed: What the encoder reads.
            target: What the likelihood is of, as many series; ``None`` for the same. With a target
                that goes beyond what is observed the model learns to predict.
            samples: Samples of the latent state for each series.
            noise: Standard normal, ``(batch, samples, latent)``, in place of drawn noise.

        Raises:
            InputError: If target and observed are not as many series, or the model has event times
                and the target no `until`, or something before t0.
        """
        target = observed if target is None else target
        if len(target) != len(observed):
            raise InputError("target", f"{len(target)} series", f"{len(observed)}, as observed")
        posterior = self.encode(observed)
        z0 = _draw(posterior, samples, noise)
        log_likelihood = self._log_likelihood(z0, target).mean(-1)
        return Elbo(log_likelihood, kl_from_prior(posterior), posterior)

    def log_marginal(
        self,
        observed: IrregularBatch,
        *,
        samples: int = 100,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """An estimate of the log likelihood of each series, ``(batch,)``, in nats.

        Samples of the posterior, weighted by importance (Burda, Grosse, Salakhutdinov 2016,
        equation 8): in expectation a lower bound, closer than the ELBO, and the closer the more
        samples.

        Args:
            observed: The series.
            samples: How many for each.
            generator: Source of the samples.
        """
        posterior = self.encode(observed)
        z0 = _draw(posterior, samples, None, generator)
        mean, std = posterior.loc.unsqueeze(1), posterior.scale.unsqueeze(1)
        # Constants of both Gaussians cancel.
        prior = -0.5 * z0.square().sum(-1)
        proposal = (-0.5 * ((z0 - mean) / std).square() - std.log()).sum(-1)
        log_weights = self._log_likelihood(z0, observed) + prior - proposal
        return log_weights.logsumexp(1) - math.log(samples)

    def predict(
        self,
        observed: IrregularBatch,
        times: Tensor,
        *,
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Mean and deviation of observations at any times, given those of `observed`.

        Args:
            observed: What the encoder reads.
            times: ``(times,)`` for all series, or ``(batch, times)``; in any order.
            samples: Samples of the latent state; ``None`` for the mean of its posterior alone,
                whose deviation is that of the noise.
            generator: Source of the samples.

        Raises:
            InputError: If the model has event times only.
        """
        likelihood, decoder = self._observing()
        times = times_of_all(times, len(observed))
        posterior = self.encode(observed)
        if samples is None:
            z0 = posterior.loc.unsqueeze(1)
        else:
            z0 = _draw(posterior, samples, None, generator)
        each = likelihood.distribution(decoder(self.paths(z0, times).z))
        mean = each.mean.mean(2)
        # The variance of a mixture: within its parts, and between them.
        between = (each.mean - mean.unsqueeze(2)).square().mean(2)
        variance = each.variance.mean(2) + between
        return Prediction(times, mean, variance.sqrt())

    def reconstruct(self, observed: IrregularBatch, **options: Any) -> Prediction:
        """`predict` at the times of the observations themselves."""
        return self.predict(observed, observed.times, **options)

    def extrapolate(self, observed: IrregularBatch, ahead: Tensor, **options: Any) -> Prediction:
        """`predict` beyond the last observation of each series.

        Args:
            observed: What the encoder reads.
            ahead: ``(times,)`` or ``(batch, times)``: how far beyond, 0 or more; an empty series is
                taken to end at t0.
            **options: As for `predict`.

        Raises:
            InputError: If a time lies before the end.
        """
        if bool((ahead < 0).any()):
            raise InputError("ahead", f"{float(ahead.min()):g}", "times beyond the end, 0 or more")
        last = observed.times.masked_fill(~observed.present, -torch.inf)
        end = last.amax(1) if observed.rows else last.new_full((len(observed),), -torch.inf)
        end = end.where(observed.lengths > 0, self.t0)
        return self.predict(observed, end.unsqueeze(1) + ahead, **options)

    def sample(
        self,
        number: int,
        times: Tensor,
        *,
        noise: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Series from the prior.

        Args:
            number: How many.
            times: ``(times,)``, or ``(number, times)`` for each its own.
            noise: Draw observations; otherwise their means.
            generator: Source of the latent states. The noise of the observations comes from torch's
                default generator.

        Returns:
            ``(number, times, features)``.

        Raises:
            InputError: If the model has event times only.
        """
        likelihood, decoder = self._observing()
        z0 = self._prior(number, generator)
        times = times_of_all(times, number).to(z0.device)
        each = likelihood.distribution(decoder(self.paths(z0, times).z.squeeze(2)))
        return each.sample() if noise else each.mean

    def intensity(self, observed: IrregularBatch, times: Tensor) -> Tensor:
        """Rates of events at the mean of the posterior, ``(batch, times, kinds)``.

        Args:
            observed: What the encoder reads.
            times: ``(times,)`` or ``(batch, times)``.

        Raises:
            InputError: If the model has no event times.
        """
        events = self._counting()
        z0 = self.encode(observed).loc.unsqueeze(1)
        path = self.paths(z0, times_of_all(times, len(observed)))
        return events.rate(path.z.squeeze(2))

    def sample_events(
        self,
        until: float,
        *,
        observed: IrregularBatch | None = None,
        number: int = 1,
        generator: torch.Generator | None = None,
    ) -> IrregularBatch:
        """Event times between t0 and `until`.

        Args:
            until: End of the window.
            observed: One series of events for each of these, from its posterior; ``None`` for
                `number` series from the prior.
            number: How many from the prior.
            generator: Source of the random numbers.

        Raises:
            InputError: If the model has no event times, or the window no length.
        """
        self._counting()
        if not until > self.t0:
            raise InputError("until", str(until), f"a time beyond t0 = {self.t0:g}")
        if observed is None:
            z0 = self._prior(number, generator)
        else:
            z0 = _draw(self.encode(observed), 1, None, generator)
        grid = torch.linspace(self.t0, until, _EVENT_GRID, dtype=z0.dtype, device=z0.device)
        path = self.paths(z0, grid.expand(len(z0), -1))
        assert path.integral is not None
        return draw_events(grid, path.integral.squeeze(2), until, generator)

    def _log_likelihood(self, z0: Tensor, target: IrregularBatch) -> Tensor:
        """``(batch, samples)``, for latent states ``(batch, samples, latent)`` at t0."""
        times, valid, rows = target.times, target.present, target.rows
        if self.events is not None:
            until = self.events.window(target, self.t0)
            times = torch.cat([times, until.unsqueeze(1)], 1)
            valid = torch.cat([valid, torch.ones_like(valid[:, :1])], 1)
        z, integral = self.paths(z0, times, valid)
        total = z.new_zeros(z.shape[0], z.shape[2])
        if self.likelihood is not None:
            likelihood, decoder = self._observing()
            output = decoder(z[:, :rows])
            values, mask = target.values.unsqueeze(2), target.mask.unsqueeze(2)
            total = total + likelihood.log_prob(output, values, mask).sum(1)
        if self.events is not None:
            assert integral is not None
            events = self.events.events(target).unsqueeze(2)
            counted = self.events.log_likelihood(z[:, :rows], events, integral[:, rows])
            total = total + counted
        return total

    def _prior(self, number: int, generator: torch.Generator | None) -> Tensor:
        if number < 1:
            raise InputError("number", str(number), "at least 1")
        like = next(self.parameters())
        shape = (number, 1, self.latent)
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

    def _observing(self) -> tuple[Likelihood, nn.Module]:
        if self.likelihood is None or self.decoder is None:
            raise InputError("the model", "one of event times alone", "one with a decoder")
        return self.likelihood, self.decoder

    def _counting(self) -> PoissonProcess:
        if self.events is None:
            raise InputError("the model", "one without event times", "one with `events=`")
        return self.events

    def extra_repr(self) -> str:
        """Describe the solve."""
        return f"t0={self.t0:g}, {self._describe_solve()}"


def _draw(
    posterior: Normal,
    samples: int,
    noise: Tensor | None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Samples of the latent state, ``(batch, samples, latent)``, with their gradients."""
    mean, std = posterior.loc.unsqueeze(1), posterior.scale.unsqueeze(1)
    shape = (mean.shape[0], samples, mean.shape[2])
    if samples < 1:
        raise InputError("samples", str(samples), "at least 1")
    if noise is None:
        noise = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
    elif noise.shape != shape:
        raise InputError("noise", f"shape {tuple(noise.shape)}", str(shape))
    return mean + std * noise
