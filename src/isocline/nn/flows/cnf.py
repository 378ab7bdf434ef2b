"""Continuous normalizing flow: a density carried along by an ODE (Chen et al. 2018, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from ...adjoints import Adjoint
from ...controllers import Controller
from ...errors import InputError, InputTypeError
from ...problem import SaveAt
from ...samples import PerSample
from ...solvers import BlackBox, Solver
from ...state import State
from ...validate import check_time
from ..solving import SolvingModule, Stepping, as_state
from .base import Base, StandardNormal, base_of
from .distributions import FlowDistribution, FlowTransform
from .divergences import ClosedForm, Divergence, ExactDivergence, FlowField
from .dynamics import Dynamics, Guided
from .regularizers import Regularizer, need_norm
from .sampler import Sampler

__all__ = ["CNF", "Flowed"]


class Flowed(NamedTuple):
    """Where a flow took its input.

    Attributes:
        value: the states, shaped as the input.
        log_det: log |det| of the map's Jacobian at each sample, shape (...,).
    """

    value: Tensor
    log_det: Tensor


def _size(name: str, size: Any, least: int) -> Size:
    try:
        found = Size([size] if isinstance(size, int) else size)
    except TypeError:
        raise InputTypeError(name, repr(size), "a whole number or a shape") from None
    if isinstance(size, str) or any(length < least for length in found):
        raise InputError(name, repr(size), "positive sizes")
    return found


class CNF(SolvingModule):
    """A distribution: a base at `t0` that the field carries to the data at `t1`.

    Settings of the solve are plain attributes, and may be changed after training.

    Args:
        field: ``field(t, z) -> dz/dt``, or ``field(t, z, context)`` where a context is given; `t`
            is a 0-d tensor, `z` of shape ``(batch, *shape)``. Each sample's rate must depend on
            that sample alone. Training by flow matching calls it with `t` of shape ``(batch,)``.
        shape: Number of features of a sample, or its shape.
        base: The distribution at `t0`, a `torch.distributions.Distribution` over `shape`, or a
            callable that makes one (a module is trained along). Default: standard normal.
        divergence: How to find the field's divergence. Default: the field's own
            `with_divergence` where it has one, otherwise `ExactDivergence`.
        exact_in_eval: In evaluation mode use the exact divergence, whatever `divergence` is.
        regularizers: Penalties for `log_prob_and_penalty`.
        t0: Time of the base.
        t1: Time of the data.
        null_context: What stands for no context in classifier-free guidance, broadcast against
            the contexts. Default: zeros.
        solver, rtol, atol, adjoint, dt0, controller, norm, max_steps, stepping: As for `ODEBlock`.

    Shape:
        x, z: ``(..., *shape)``; context: ``(..., features)``, broadcast against them.

    Raises:
        InputError: If an argument does not fit the others.
        isocline.SolveError: From its methods, if a solve fails.
    """

    null_context: Tensor

    def __init__(
        self,
        field: nn.Module | FlowField,
        shape: int | Sequence[int],
        *,
        base: Base | None = None,
        divergence: Divergence | None = None,
        exact_in_eval: bool = True,
        regularizers: Sequence[Regularizer] = (),
        t0: float = 0.0,
        t1: float = 1.0,
        null_context: Tensor | None = None,
        solver: str | Solver | BlackBox = "tsit5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        adjoint: Adjoint | None = None,
        dt0: float | None = None,
        controller: Controller | None = None,
        norm: str | Callable[[State], Tensor] | None = None,
        max_steps: int = 16**4,
        stepping: Stepping = "joint",
    ) -> None:
        super().__init__(
            solver=solver,
            rtol=rtol,
            atol=atol,
            adjoint=adjoint,
            dt0=dt0,
            controller=controller,
            norm=norm,
            max_steps=max_steps,
            stepping=stepping,
        )
        self.shape = _size("shape", shape, least=1)
        self.field = field
        self.base = StandardNormal(self.shape) if base is None else base
        self.divergence = self.exact if divergence is None else divergence
        self.exact_in_eval = exact_in_eval
        if not isinstance(regularizers, Sequence):
            raise InputTypeError("regularizers", type(regularizers).__name__, "a sequence of them")
        self.regularizers = tuple(regularizers)
        self.t0 = t0
        self.t1 = t1
        if isinstance(null_context, nn.Parameter):
            self.null_context = null_context
        elif null_context is None or isinstance(null_context, Tensor):
            null = torch.zeros(()) if null_context is None else null_context
            self.register_buffer("null_context", null, persistent=null_context is not None)
        else:
            raise InputTypeError("null_context", type(null_context).__name__, "a tensor")
        self._check()

    def __setattr__(self, name: str, value: Any) -> None:
        # A base or field may be a module or not, and one be put in place of the other.
        if name in ("base", "field") and not isinstance(value, nn.Module):
            self._modules.pop(name, None)
        super().__setattr__(name, value)

    @property
    def exact(self) -> Divergence:
        """The field's own divergence where it knows it, otherwise row by row."""
        return ClosedForm() if hasattr(self.field, "with_divergence") else ExactDivergence()

    def _check(self) -> None:
        if not callable(self.field):
            raise InputTypeError("field", type(self.field).__name__, "a callable field(t, z)")
        for name in ("t0", "t1"):
            check_time(name, getattr(self, name))
        if isinstance(self.divergence, type) or not callable(
            getattr(self.divergence, "noise", None)
        ):
            given = repr(self.divergence)
            raise InputTypeError("divergence", given, "ExactDivergence(), Hutchinson() or such")
        closed = isinstance(self.divergence, ClosedForm)
        if closed and not hasattr(self.field, "with_divergence"):
            raise InputError("divergence", "ClosedForm()", "a field that has `with_divergence`")
        if closed and need_norm(self.regularizers):
            raise InputError(
                "regularizers",
                "one that needs the Jacobian's norm, which a closed form does not know",
                "another divergence",
                "Write `divergence=Hutchinson()` or `ExactDivergence()`.",
            )
        if self.t0 == self.t1:
            raise InputError("t0, t1", f"both {self.t0}", "two different times")

    # --- densities -------------------------------------------------------------------------------

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, *, t: float | None = None
    ) -> Tensor:
        """Log density of `x` in nats, shape (...,); with `t`, of the flow at that time."""
        z, log_det = self.inverse(x, context, t=t)
        log_density: Tensor = self.base_distribution().log_prob(z) + log_det
        return log_density

    def log_prob_and_penalty(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log density, and the weighted sum of the regularisers' integrals, both shape (...,)."""
        z, log_det, penalty = self._flow(x, context, self.t1, self.t0, self.regularizers)
        return self.base_distribution().log_prob(z) + log_det, penalty

    def rsample_and_log_prob(
        self, n: int | Sequence[int], context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples that carry gradients, shape (*n, ..., *shape), and their log densities."""
        base, z = self._draw(n, context)
        x, log_det = self(z, context)
        return x, base.log_prob(z) - log_det

    # --- samples ---------------------------------------------------------------------------------

    def sample(
        self,
        n: int | Sequence[int] = (),
        context: Tensor | None = None,
        *,
        t: float | None = None,
        sampler: Sampler | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Draw samples, without a gradient.

        Args:
            n: How many, for each context: a number or a shape.
            context: What to condition on, shape (..., features).
            t: Time at which to sample the flow, by default `t1`.
            sampler: A method with a budget of evaluations or a grid of times, in place of the
                module's own solver and tolerances.
            guidance: Scale of classifier-free guidance; 1 is none. The field must have been
                trained without context now and then (`FlowMatching(context_dropout=...)`).

        Returns:
            Tensor of shape (*n, ..., *shape).
        """
        with torch.no_grad():
            return self.rsample(n, context, t=t, sampler=sampler, guidance=guidance)

    def rsample(
        self,
        n: int | Sequence[int] = (),
        context: Tensor | None = None,
        *,
        t: float | None = None,
        sampler: Sampler | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """As `sample`, with gradients to the flow, the base and the context."""
        _, z = self._draw(n, context)
        end = self.t1 if t is None else self._time(t)
        if sampler is not None and not isinstance(sampler, Sampler):
            raise InputTypeError("sampler", type(sampler).__name__, "a Sampler")
        settings = {} if sampler is None else sampler.settings(self.t0, end)
        flat, contexts, _ = self._flattened(z, context)
        field = self._guided(contexts, guidance)
        states = self._solve(field, flat, self.t0, end, args=contexts, **settings).ys
        samples: Tensor = states[-1].reshape(z.shape)
        return samples

    def trajectory(
        self, z: Tensor, ts: Tensor | Sequence[float], context: Tensor | None = None
    ) -> Tensor:
        """States at the times `ts` of the path from `z` at `t0`: shape (len(ts), ..., *shape)."""
        flat, contexts, batch = self._flattened(z, context)
        save = SaveAt(ts=ts)
        states = self._solve(self.field, flat, self.t0, self.t1, args=contexts, save=save).ys
        path: Tensor = states.reshape(len(states), *batch, *self.shape)
        return path

    # --- the map ---------------------------------------------------------------------------------

    def forward(
        self, z: Tensor, context: Tensor | None = None, *, t: float | None = None
    ) -> Flowed:
        """From the base to the data, or to time `t`."""
        return Flowed(*self._flow(z, context, self.t0, self.t1 if t is None else self._time(t))[:2])

    def inverse(
        self, x: Tensor, context: Tensor | None = None, *, t: float | None = None
    ) -> Flowed:
        """From the data, or from time `t`, to the base."""
        return Flowed(*self._flow(x, context, self.t1 if t is None else self._time(t), self.t0)[:2])

    def distribution(self, context: Tensor | None = None) -> FlowDistribution:
        """The flow as a `torch.distributions.Distribution`, given a context or without."""
        return FlowDistribution(self, context)

    def transform(self, context: Tensor | None = None) -> FlowTransform:
        """The map from base to data as a `torch.distributions.Transform`."""
        return FlowTransform(self, context)

    def base_distribution(self) -> Distribution:
        """The distribution at `t0`."""
        return base_of(self.base, self.shape)

    @contextmanager
    def using(self, **settings: Any) -> Iterator[CNF]:
        """Change settings inside a block: ``with cnf.using(rtol=1e-8, atol=1e-8): ...``.

        Raises:
            InputError: if there is no such setting.
        """
        known = {*vars(self), *self._modules, *self._parameters, *self._buffers}
        if unknown := sorted(name for name in settings if name not in known or name[0] == "_"):
            raise InputError("settings", ", ".join(unknown), "attributes of a CNF")
        before = {name: getattr(self, name) for name in settings}
        try:
            for name, value in settings.items():
                setattr(self, name, value)
            yield self
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def _flow(
        self,
        x: Tensor,
        context: Tensor | None,
        start: float,
        end: float,
        regularizers: Sequence[Regularizer] = (),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """State at `end`, log-determinant of the way there, and the weighted penalties."""
        self._check()
        flat, contexts, batch = self._flattened(x, context)
        divergence = self.divergence
        if self.exact_in_eval and not self.training:
            divergence = ExactDivergence() if need_norm(regularizers) else self.exact
        dynamics = Dynamics(self.field, divergence, regularizers)
        noise = divergence.noise(flat)
        states = self._solve(
            dynamics, dynamics.start(flat), start, end, args=(PerSample(noise, axis=1), *contexts)
        ).ys
        value, log_det, *integrals = (state[-1] for state in states)
        # Against the direction of time a growing penalty's integral comes out negative.
        penalty = torch.zeros_like(log_det)
        for regularizer, integral in zip(regularizers, integrals, strict=True):
            penalty = penalty + regularizer.weight * (integral if end > start else -integral)
        return value.reshape(batch + self.shape), log_det.reshape(batch), penalty.reshape(batch)

    def _draw(self, n: int | Sequence[int], context: Any) -> tuple[Distribution, Tensor]:
        """The base and samples of it, one for each context n times over."""
        size = _size("n", n, least=1)
        if context is not None and (not isinstance(context, Tensor) or not context.ndim):
            given = "a 0-d tensor" if isinstance(context, Tensor) else type(context).__name__
            raise InputTypeError("context", given, "a tensor of shape (..., features)")
        base = self.base_distribution()
        batch = Size() if context is None else context.shape[:-1]
        draw = base.rsample if base.has_rsample else base.sample
        return base, draw(size + batch)

    def _flattened(
        self, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, tuple[PerSample, ...], Size]:
        """States and contexts with one batch axis, and what that axis stands for."""
        if not isinstance(x, Tensor):
            raise InputTypeError("x", type(x).__name__, "a tensor")
        split = x.ndim - len(self.shape)
        if split < 0 or x.shape[split:] != self.shape:
            raise InputError(
                "x", f"shape {tuple(x.shape)}", f"shape (..., {', '.join(map(str, self.shape))})"
            )
        batch = x.shape[:split]
        if not x.numel():
            raise InputError("x", f"an empty tensor of shape {tuple(x.shape)}", "some elements")
        if context is None:
            return as_state(x.reshape(-1, *self.shape)), (), batch
        if not isinstance(context, Tensor):
            raise InputTypeError("context", type(context).__name__, "a tensor")
        try:
            batch = torch.broadcast_shapes(batch, context.shape[:-1])
            spread = context.expand(*batch, context.shape[-1])
        except (RuntimeError, IndexError) as error:
            given = f"shape {tuple(context.shape)} for states of batch shape {tuple(batch)}"
            raise InputError("context", given, "shape (..., features) that broadcasts") from error
        flat = as_state(x.expand(batch + self.shape).reshape(-1, *self.shape))
        return flat, (PerSample(spread.reshape(-1, context.shape[-1])),), batch

    def _guided(self, contexts: tuple[PerSample, ...], guidance: Any) -> FlowField:
        if guidance is None:
            return self.field
        if not isinstance(guidance, (int, float, Tensor)):
            raise InputTypeError("guidance", repr(guidance), "a number")
        if not contexts:
            raise InputError("guidance", f"{guidance} without a context", "a context to insist on")
        return Guided(self.field, guidance, self.null_context)

    @staticmethod
    def _time(t: float) -> float:
        return check_time("t", t)

    def extra_repr(self) -> str:
        """Describe the flow and its solve."""
        divergence, shape = self.divergence, tuple(self.shape)
        return f"{shape}, t0={self.t0}, t1={self.t1}, {divergence}, {self._describe_solve()}"
