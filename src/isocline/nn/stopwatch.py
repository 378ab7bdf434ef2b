"""How long a pass takes, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["PassTimer"]


class PassTimer:
    """Times one pass through a piece of a model, and the first backward pass through it.

    The backward pass is timed by hooks: from the first gradient that arrives at the outputs to the
    one that leaves at the input. Autograd goes back in the reverse order of the forward pass, so
    little else is done between the two. A device that works behind the host's back is waited for
    at each reading.

    Args:
        clock: Seconds since some moment.
        device: Where the work is done.
        report: Is told the seconds, forward and backward together, when the backward pass is
            through; never, if there is none.
    """

    def __init__(
        self, clock: Callable[[], float], device: torch.device, report: Callable[[float], None]
    ) -> None:
        self._clock, self._device, self._report = clock, device, report
        self._forward = 0.0
        self._arrived: float | None = None
        self._done = False

    def entering(self, x: Tensor) -> Tensor:
        """The input, to be used in place of `x`, which has to require a gradient."""
        # A view, so that gradients of `x` that come from elsewhere are not waited for.
        x = x.view_as(x)
        x.register_hook(self._left)
        return x

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Time what is within as the pass."""
        began = self._now()
        yield
        self._forward = self._now() - began

    def leaving(self, outputs: Iterable[Tensor]) -> None:
        """Watch the outputs, as far as they require a gradient."""
        for output in outputs:
            if output.requires_grad:
                output.register_hook(self._came)

    def _came(self, _: Tensor) -> None:
        if self._arrived is None:
            self._arrived = self._now()

    def _left(self, _: Tensor) -> None:
        if self._arrived is not None and not self._done:
            self._done = True  # another backward pass is no new cost
            self._report(self._forward + self._now() - self._arrived)

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return self._clock()
