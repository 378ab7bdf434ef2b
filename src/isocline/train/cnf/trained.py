"""A trained flow, in the units of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...nn import CNF
from ..checkpoint import load_weights, read_checkpoint
from ..errors import ConfigError
from ..rundir import RunDirectory
from .config import CnfConfig, TrainedFlowConfig
from .flow import build_flow
from .measure import EVALUATION_BATCH, evaluating
from .module import weights_prefix
from .space import Space

__all__ = ["TrainedFlow", "load_flow"]


@dataclass(frozen=True)
class TrainedFlow:
    """Densities, samples and paths of a flow, without gradients.

    Points are ``(n, features)`` in the data's units, on the CPU. They are taken some thousand at a
    time, so that any number fits.

    Attributes:
        flow: The flow, in its own units.
        space: The way between its units and the data's.
    """

    flow: CNF
    space: Space

    def log_prob(self, x: Tensor, fraction: float = 1.0) -> Tensor:
        """Log density in nats, ``(n,)``: of the data, or when a fraction of the time has passed."""
        z = self.space.standardise(x)
        t = self._time(fraction)
        with evaluating(self.flow) as flow:
            parts = [flow.log_prob(part.to(self.device), t=t).cpu() for part in self._parts(z)]
        return torch.cat(parts) - self.space.log_scale

    def sample(self, n: int) -> Tensor:
        """Draw `n` samples with the global generator."""
        base = self.base(n)
        with evaluating(self.flow) as flow:
            ends = [
                flow.trajectory(z.to(self.device), [flow.t1])[-1].cpu() for z in self._parts(base)
            ]
        return self.space.restore(torch.cat(ends))

    def base(self, n: int) -> Tensor:
        """Draw `n` points of the base, in the flow's units."""
        with torch.no_grad():
            return self.flow.base_distribution().sample(torch.Size([n])).cpu()

    def trajectory(self, base: Tensor, fractions: Sequence[float]) -> Tensor:
        """Where points of the base are after fractions of the time: ``(times, n, features)``.

        Args:
            base: Points in the flow's units, such as `base` draws.
            fractions: In ``[0, 1]``, rising.
        """
        times = [self._time(fraction) for fraction in fractions]
        with evaluating(self.flow) as flow:
            paths = [flow.trajectory(z.to(self.device), times).cpu() for z in self._parts(base)]
        return self.space.restore(torch.cat(paths, dim=1))

    def _time(self, fraction: float) -> float:
        flow = self.flow
        # The ends exactly, which a product may miss by a rounding error.
        return flow.t1 if fraction == 1 else flow.t0 + fraction * (flow.t1 - flow.t0)

    def _parts(self, points: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = points.split(EVALUATION_BATCH)
        return parts

    @property
    def device(self) -> torch.device:
        """Where the flow computes."""
        return next(self.flow.parameters()).device


def load_flow(path: Path, options: TrainedFlowConfig) -> tuple[TrainedFlow, CnfConfig]:
    """Load the flow of the run in the folder `path`.

    Args:
        path: Folder of a run of `train_cnf`.
        options: Which weights, and how to solve.

    Raises:
        ConfigError: If there is no such run, it is of another kind, or has no such weights.
    """
    run = RunDirectory(path)
    config = run.read_config(CnfConfig)
    file = run.checkpoint(options.checkpoint)
    try:
        space = Space.from_dict(read_checkpoint(file)["hyper_parameters"]["space"])
    except KeyError as error:
        raise ConfigError(f"{file} is no checkpoint of a flow ({error} is missing)") from error
    flow = build_flow(config, space.features)
    load_weights(flow, run, options.checkpoint, weights_prefix(config))
    flow.solver = options.solver or flow.solver
    if options.tol is not None:
        flow.rtol = flow.atol = options.tol
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return TrainedFlow(flow.eval(), space), config
