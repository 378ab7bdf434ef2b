"""The evidence lower bound, in its parts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Normal

from ...errors import InputError

__all__ = ["Elbo", "kl_annealing", "kl_from_prior"]


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound of each series, in nats.

    Attributes:
        log_likelihood: ``(batch,)``: mean over samples of the latent state of the log likelihood of
            all observations.
        kl: ``(batch,)``: of the posterior from the prior.
        posterior: Of the latent state.
    """

    log_likelihood: Tensor
    kl: Tensor
    posterior: Normal

    def value(self, kl_weight: float = 1.0) -> Tensor:
        """``log_likelihood - kl_weight kl``, ``(batch,)``: a lower bound where the weight is 1."""
        return self.log_likelihood - kl_weight * self.kl


def kl_from_prior(posterior: Normal) -> Tensor:
    """``KL(posterior || N(0, 1))``, summed over the last axis."""
    mean, std = posterior.loc, posterior.scale
    return 0.5 * (mean.square() + std.square() - 1.0).sum(-1) - std.log().sum(-1)


def kl_annealing(iteration: int, over: int, wait: int = 0) -> float:
    """Weight of the KL divergence while it is faded in: linearly from 0 to 1.

    At first the encoder has nothing to say, and a full divergence would keep it from learning to
    (Bowman et al. 2016, section 3.1).

    Args:
        iteration: From 0.
        over: Iterations that it takes; 0 for a weight of 1 from the start.
        wait: Iterations with weight 0 before.

    Raises:
        InputError: If one of them is negative.
    """
    for name, value in (("iteration", iteration), ("over", over), ("wait", wait)):
        if value < 0:
            raise InputError(name, str(value), "0 or more")
    if iteration < wait:
        return 0.0
    return min(1.0, (iteration - wait + 1) / (over + 1))
