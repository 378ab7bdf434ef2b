"""Training objectives of flows beside the likelihood itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

__all__ = ["reverse_kl"]


class _Sampled(Protocol):
    def rsample_and_log_prob(self, n: int, /) -> tuple[Tensor, Tensor]: ...


def reverse_kl(flow: _Sampled, log_target: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """KL(q || p) up to the log-normaliser of p, estimated by `n` samples of q: density matching.

    Args:
        flow: q; samples and their log densities must carry gradients (`CNF`, `PlanarFlow`).
        log_target: log p without its normaliser, (n, ...) -> (n,).
        n: number of samples.

    Returns:
        Mean of log q - log p, shape (); its least value is minus the log-normaliser.
    """
    x, log_density = flow.rsample_and_log_prob(n)
    return (log_density - log_target(x)).mean()
