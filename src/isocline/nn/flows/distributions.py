"""A flow as `torch.distributions` has it, so that it composes with Pyro, zuko and the like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, TransformedDistribution, constraints
from torch.distributions.transforms import Transform

if TYPE_CHECKING:
    from .cnf import CNF, Flowed

__all__ = ["FlowDistribution", "FlowTransform"]


class _Pair(NamedTuple):
    """What a transform remembers of its last call."""

    x: Tensor
    y: Tensor
    log_det: Tensor
    when: tuple[Any, ...]


class FlowTransform(Transform):
    """The map of a flow from base to data, invertible, with its log-determinant.

    Map and log-determinant come out of one solve: the last pair is remembered, whichever way it
    was found, so that asking for one after the other costs nothing more. It is forgotten as soon
    as it could mislead: when a parameter has changed, or when a graph is wanted that it lacks.

    Args:
        flow: the flow.
        context: what it is conditioned on, shape (..., features), or None.
        cache_size: pairs to remember, 0 or 1. Kept for `torch.distributions`' sake: with 1 the
            inverse of a result is looked up, even if the flow has been trained since.
    """

    bijective = True
    sign = +1  # only asked for in one dimension, where a flow cannot reverse the order

    def __init__(self, flow: CNF, context: Tensor | None = None, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.domain = self.codomain = constraints.independent(constraints.real, len(flow.shape))
        self.flow = flow
        self.context = context
        self._pair: _Pair | None = None

    def with_cache(self, cache_size: int = 1) -> FlowTransform:
        """The same transform with another size of cache."""
        if cache_size == self._cache_size:
            return self
        return FlowTransform(self.flow, self.context, cache_size)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FlowTransform)
            and self.flow is other.flow
            and self.context is other.context
        )

    def __hash__(self) -> int:
        return hash((id(self.flow), id(self.context)))

    def _call(self, x: Tensor) -> Tensor:
        flowed: Flowed = self.flow(x, self.context)
        self._remember(x, flowed.value, flowed.log_det)
        return flowed.value

    def _inverse(self, y: Tensor) -> Tensor:
        flowed = self.flow.inverse(y, self.context)
        self._remember(flowed.value, y, -flowed.log_det)
        return flowed.value

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Log-determinant of the map at `x`, which it takes to `y`: shape (...,)."""
        pair = self._pair
        if pair is not None and pair.x is x and pair.y is y and pair.when == self._now():
            return pair.log_det
        return -self.flow.inverse(y, self.context).log_det

    def _remember(self, x: Tensor, y: Tensor, log_det: Tensor) -> None:
        self._pair = _Pair(x, y, log_det, self._now())

    def _now(self) -> tuple[Any, ...]:
        """What the pair depends on besides x: whether graphs are recorded, and the parameters."""
        tensors = [*self.flow.parameters(), *self.flow.buffers()]
        versions = tuple((id(t), None if t.is_inference() else t._version) for t in tensors)
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), versions

    def forward_shape(self, shape: Any) -> Size:
        """The shape of the result: that of the input, broadcast against the context."""
        return self._broadcast(shape)

    def inverse_shape(self, shape: Any) -> Size:
        """As `forward_shape`."""
        return self._broadcast(shape)

    def _broadcast(self, shape: Any) -> Size:
        if self.context is None:
            return Size(shape)
        split = len(shape) - len(self.flow.shape)
        batch = torch.broadcast_shapes(Size(shape[:split]), self.context.shape[:-1])
        return Size(batch + Size(shape[split:]))

    def __getstate__(self) -> dict[str, Any]:
        # A pair belongs to one call, and may hold its graph: a copy starts without.
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {**state, "_pair": None, "_cached_x_y": (None, None)}

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map and its log-determinant, in one solve (zuko's name for it)."""
        flowed: Flowed = self.flow(x, self.context)
        return flowed.value, flowed.log_det


class FlowDistribution(TransformedDistribution):
    """A flow as a distribution; it gives samples and their log densities in one solve too.

    Args:
        flow: the flow.
        context: what it is conditioned on, shape (..., features), or None.
        base: the flow's base over the batch that is wanted; by default that of the context.
        validate_args: as for every distribution.
    """

    def __init__(
        self,
        flow: CNF,
        context: Tensor | None = None,
        base: Distribution | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if base is None:
            base = flow.base_distribution()
            base = base if context is None else base.expand(context.shape[:-1])
        self.flow, self.context = flow, context
        super().__init__(base, [FlowTransform(flow, context)], validate_args=validate_args)

    def rsample_and_log_prob(self, shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Samples, and their log densities (zuko's name for it)."""
        z = self.base_dist.rsample(Size(shape))
        x, log_det = self.flow(z, self.context)
        return x, self.base_dist.log_prob(z) - log_det

    def expand(self, batch_shape: Any, _instance: Any = None) -> Distribution:
        """The same distribution over a larger batch."""
        base = self.base_dist.expand(Size(batch_shape))
        return FlowDistribution(self.flow, self.context, base, self._validate_args)
