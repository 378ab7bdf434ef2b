"""Likelihoods: how observations scatter around what a decoder says."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Normal

from ...errors import InputError

__all__ = ["Bernoulli", "Gaussian", "Likelihood"]


class Likelihood(nn.Module, ABC):
    """The distribution of an observation, given the decoder's output.

    Args:
        features: Features of an observation.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 1:
            raise InputError("features", str(features), "at least 1")
        self.features = features

    @property
    def outputs(self) -> int:
        """How many numbers the decoder has to give."""
        return self.features

    @abstractmethod
    def distribution(self, output: Tensor) -> Distribution:
        """One distribution for each feature, independent of each other.

        Args:
            output: The decoder's, ``(..., outputs)``.

        Returns:
            A distribution of shape ``(..., features)``.
        """

    def log_prob(self, output: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Log probability of what was observed, summed over the features, ``(...)``."""
        self._check(output, values)
        each: Tensor = self.distribution(output).log_prob(values)
        return each.masked_fill(~mask, 0.0).sum(-1)

    def _check(self, output: Tensor, values: Tensor) -> None:
        """Raise where broadcasting would make something of tensors that do not belong together."""
        for name, given, wanted in (
            ("output", output.shape[-1], self.outputs),
            ("values", values.shape[-1], self.features),
        ):
            if given != wanted:
                raise InputError(name, f"{given} on the last axis", str(wanted))

    def extra_repr(self) -> str:
        """Describe the size, as torch's own layers do."""
        return str(self.features)


class Gaussian(Likelihood):
    """Gaussian noise with one standard deviation for each feature.

    Args:
        features: Features of an observation.
        std: Standard deviation of the noise, for all features or ``(features,)``.
        learn: Learn it, from `std` on.

    Raises:
        InputError: If a standard deviation is not positive and finite.
    """

    def __init__(self, features: int, std: float | Tensor = 0.1, *, learn: bool = False) -> None:
        super().__init__(features)
        log_std = torch.as_tensor(std, dtype=torch.get_default_dtype()).log()
        if log_std.shape not in ((), (1,), (features,)) or not bool(log_std.isfinite().all()):
            raise InputError("std", str(std), f"positive, a number or of shape ({features},)")
        self.log_std: Tensor
        if learn:
            self.log_std = nn.Parameter(log_std.expand(features).clone())
        else:
            self.register_buffer("log_std", log_std.expand(features).clone())

    @property
    def std(self) -> Tensor:
        """``(features,)``."""
        return self.log_std.exp()

    def distribution(self, output: Tensor) -> Normal:
        """The decoder's output is the mean."""
        return Normal(output, self.std.expand_as(output), validate_args=False)

    def log_prob(self, output: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """As in the base class; the same formula in fewer operations, for it runs in training."""
        self._check(output, values)
        deviation = (values - output) / self.std
        each = -0.5 * deviation.square() - (self.log_std + 0.5 * math.log(2.0 * math.pi))
        return each.masked_fill(~mask, 0.0).sum(-1)


class Bernoulli(Likelihood):
    """Observations of 0 or 1; the decoder's output is their logit."""

    def distribution(self, output: Tensor) -> BernoulliDistribution:
        """The decoder's output is the logit of a 1."""
        return BernoulliDistribution(logits=output, validate_args=False)
