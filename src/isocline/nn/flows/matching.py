"""Flow matching: fit the field to straight paths, without solving an ODE in training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import InputError, InputTypeError
from .cnf import CNF
from .coupling import CouplingName, check_coupling, coupled

__all__ = ["FlowMatching"]


class FlowMatching(nn.Module):
    """Conditional flow matching (Lipman et al. 2023; Liu et al. 2023; Tong et al. 2024).

    A point z of the base goes to a point x of the data along (1 - (1 - sigma) s) z + s x, where s
    runs from 0 to 1 with the flow's time; the field is fitted to the velocities of such paths by
    least squares. What comes out is the flow's own field: sampling, likelihood and everything else
    of the `CNF` are those of any other.

    Args:
        flow: The flow; its field is called with `t` of shape ``(batch,)``.
        coupling: Which z goes to which x: "independent", or "optimal-transport" within the
            batch (needs POT), for straighter paths.
        sigma: Standard deviation of the paths' ends about x, at least 0.
        context_dropout: Share of samples whose context is replaced by the flow's `null_context`,
            for classifier-free guidance.
        dtype: Let the network compute in this type by autocast, ``torch.bfloat16`` say; the paths,
            and the state when sampling under autocast, stay in float32.

    Raises:
        InputError: If an argument is out of range.
    """

    def __init__(
        self,
        flow: CNF,
        *,
        coupling: CouplingName = "independent",
        sigma: float = 0.0,
        context_dropout: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(flow, CNF):
            raise InputTypeError("flow", type(flow).__name__, "a CNF")
        check_coupling(coupling)
        if dtype not in (None, torch.bfloat16, torch.float16):
            raise InputError("dtype", str(dtype), "torch.bfloat16, torch.float16 or None")
        shares: tuple[tuple[str, Any], ...] = (
            ("sigma", sigma),
            ("context_dropout", context_dropout),
        )
        for name, value in shares:
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise InputError(name, str(value), "a number in [0, 1)")
        self.flow = flow
        self.coupling = coupling
        self.sigma = sigma
        self.context_dropout = context_dropout
        self.dtype = dtype

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        reduction: Literal["mean", "none"] = "mean",
    ) -> Tensor:
        """The loss, as `loss`: so that a wrapper such as DistributedDataParallel sees it."""
        return self.loss(x, context, reduction)

    def loss(
        self,
        x: Tensor,
        context: Tensor | None = None,
        reduction: Literal["mean", "none"] = "mean",
    ) -> Tensor:
        """Mean squared error of the velocity, in units of the flow's own time.

        Args:
            x: Data, shape (batch, *shape).
            context: What to condition on, shape (batch, features).
            reduction: "mean" over the batch, or "none" for a loss of each sample.

        Returns:
            Tensor of shape () or (batch,): squared errors are averaged over features.
        """
        flow = self.flow
        if x.ndim != 1 + len(flow.shape) or x.shape[1:] != flow.shape:
            expected = f"shape (batch, {', '.join(map(str, flow.shape))})"
            raise InputError("x", f"shape {tuple(x.shape)}", expected)
        if context is not None and len(context) != len(x):
            raise InputError("context", f"{len(context)} rows", f"{len(x)}, as there are of `x`")
        if reduction not in ("mean", "none"):
            raise InputError("reduction", repr(reduction), "'mean' or 'none'")
        with torch.no_grad():
            z = flow.base_distribution().sample(x.shape[:1]).to(x)
            z = coupled(self.coupling, z, x)
            s = torch.rand(len(x), dtype=x.dtype, device=x.device)
            spread = s.view(-1, *(1 for _ in flow.shape))
            point = torch.lerp(z, x, spread) + self.sigma * spread * z
            velocity = (x - (1.0 - self.sigma) * z) / (flow.t1 - flow.t0)
        contexts = () if context is None else (self._dropped(context),)
        t = flow.t0 + (flow.t1 - flow.t0) * s
        with self._autocast(x.device):
            found = flow.field(t, point, *contexts)
        error = (found.to(velocity.dtype) - velocity).reshape(len(x), -1).square().mean(1)
        return error.mean() if reduction == "mean" else error

    def step(
        self, optimizer: torch.optim.Optimizer, x: Tensor, context: Tensor | None = None
    ) -> float:
        """One training step: gradient, update; returns the loss."""
        optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, context)
        loss.backward()
        optimizer.step()
        return loss.item()

    def _dropped(self, context: Tensor) -> Tensor:
        if not self.context_dropout or not self.training:
            return context
        drop = torch.rand(len(context), 1, device=context.device) < self.context_dropout
        return torch.where(drop, self.flow.null_context.to(context), context)

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        # With no dtype of its own it leaves an autocast around it as it is.
        return nullcontext() if self.dtype is None else torch.autocast(device.type, self.dtype)
