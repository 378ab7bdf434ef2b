"""What the adjoint suites share: every configuration, one hard problem, and ways to compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import isocline as ic

Gradients = dict[str, Tensor | None]

DIRECT = ic.Direct()

CHECKPOINTED: dict[str, ic.Checkpointed] = {
    "checkpointed": ic.Checkpointed(),
    "no_graphs": ic.Checkpointed(graph_budget=0),
    "some_graphs": ic.Checkpointed(graph_budget=2000),  # a few steps of the problem below
    "slots1": ic.Checkpointed(slots=1),
    "slots2": ic.Checkpointed(slots=2),
    "slots3": ic.Checkpointed(slots=3),
    "slots7": ic.Checkpointed(slots=7),
}

BACKSOLVE: dict[str, ic.Backsolve] = {
    "backsolve": ic.Backsolve(),
    "seminorm": ic.Backsolve(seminorm=True),
}

FORWARD = ic.Forward(chunk=7)  # more directions than that, so that there are several chunks

CONTINUOUS: dict[str, Any] = {
    **BACKSOLVE,
    "backsolve_checkpoints": ic.Backsolve(checkpoints=3),
    "interpolated": ic.Interpolated(),
}
"""Those that solve the adjoint's own equation: right to the tolerance, not to rounding."""

EXACT: dict[str, Any] = {"direct": DIRECT, **CHECKPOINTED, "forward": FORWARD}
ADJOINTS: dict[str, Any] = {**EXACT, **CONTINUOUS}

AGAIN: dict[str, Any] = {name: EXACT[name] for name in EXACT if name != "forward"}
"""Those whose gradients can be differentiated."""

FEW: dict[str, Any] = {
    name: ADJOINTS[name]
    for name in (
        "direct",
        "checkpointed",
        "no_graphs",
        "slots2",
        "forward",
        "backsolve",
        "interpolated",
    )
}
"""One of each kind: for tests whose subject is not the schedule."""

RECOMPUTING = {name: adjoint for name, adjoint in FEW.items() if name != "direct"}
"""Those that run the forward loop without a graph."""

STEPBACK: dict[str, ic.StepBack] = {"stepback": ic.StepBack()}
"""Those that take reversible methods alone: to be called with what `suited` makes of a method."""

METHODS: dict[str, dict[str, Any]] = {
    "tsit5": {"solver": "tsit5", "rtol": 1e-8, "atol": 1e-8},
    "dopri5": {"solver": "dopri5", "rtol": 1e-8, "atol": 1e-8},
    "dop853": {"solver": "dop853", "rtol": 1e-9, "atol": 1e-9},
    "bosh3": {"solver": "bosh3", "rtol": 1e-5, "atol": 1e-5},
    "rk4": {"solver": "rk4", "dt0": 0.04},
}


def suited(adjoint: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a solve, with a reversible method over theirs if the adjoint takes no other.

    As good as the method itself, apart from its order in the output between steps.
    """
    found = dict(options)
    if isinstance(adjoint, ic.StepBack):
        found["solver"] = ic.Reversible(found.get("solver", "tsit5"))
    return found


class Pendulum(nn.Module):
    """A driven, damped, nonlinear oscillator with a learned force; depends on everything."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)

    def forward(self, t: Tensor, y: Tensor, drive: Tensor) -> Tensor:
        force = torch.tanh(self.weight @ y + drive * torch.sin(2.0 * t))
        return force - 0.3 * t * y**2


def fresh_inputs(reverse: bool = False) -> dict[str, Tensor]:
    """Leaves that all require grad, float64; the same numbers on every call."""
    values = {
        "y0": [0.7, -0.4],
        "t0": 0.2,
        "t1": 1.4,
        "ts": [0.5, 0.9, 1.1],
        "weight": [[0.6, -1.1], [0.8, 0.3]],
        "drive": [0.9, -0.5],
        "closed": [0.4, 0.7],
    }
    if reverse:
        values.update(t0=1.4, t1=0.2, ts=[1.1, 0.9, 0.5])
    inputs: dict[str, Tensor] = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in values.items()
    }
    inputs["weight"] = nn.Parameter(inputs["weight"].detach())
    return inputs


def weights_like(value: Tensor) -> Tensor:
    """Fixed cotangents of mixed sign and size."""
    ramp = torch.arange(1, value.numel() + 1, dtype=torch.float64)
    return torch.cos(1.7 * ramp).view(value.shape)


@dataclass(frozen=True, slots=True)
class Output:
    """What the loss looks at: made from the names of `SaveAt`'s own options."""

    t0: bool = False
    t1: bool | None = None
    ts: bool = False
    steps: bool = False
    dense: bool = False
    fn: bool = False

    def save(self, ts: Tensor) -> ic.SaveAt:
        return ic.SaveAt(
            t0=self.t0,
            t1=self.t1,
            ts=ts if self.ts else None,
            steps=self.steps,
            dense=self.dense,
            fn=(lambda t, y: torch.stack([y.square().sum(), y[0]])) if self.fn else None,
        )


OUTPUTS: dict[str, Output] = {
    "t1": Output(),
    "ts": Output(ts=True),
    "t0_ts_t1": Output(t0=True, ts=True, t1=True),
    "steps": Output(steps=True),
    "steps_ts": Output(steps=True, ts=True, t0=True),
    "fn_ts_t1": Output(fn=True, ts=True, t1=True),
    "fn_steps": Output(fn=True, steps=True),
    "dense": Output(dense=True),
    "dense_everything": Output(t0=True, t1=True, ts=True, steps=True, dense=True),
}


def loss_of(inputs: Mapping[str, Tensor], output: Output, **options: Any) -> Tensor:
    """A scalar of everything that was saved, nonlinear in it."""
    weight, closed = inputs["weight"], inputs["closed"]
    module = Pendulum(weight)

    def field(t: Tensor, y: Tensor, drive: Tensor) -> Tensor:
        return module(t, y, drive) + closed * torch.cos(t) * y.flip(0)

    solution = ic.solve(
        field,
        inputs["y0"],
        inputs["t0"],
        inputs["t1"],
        args=(inputs["drive"],),
        save=output.save(inputs["ts"]),
        **options,
    )
    total = torch.zeros((), dtype=torch.float64)
    if solution.ys is not None:
        total = total + (weights_like(solution.ys) * solution.ys.sin()).sum()
    if output.dense:
        middle = (inputs["ts"] + 0.5 * (inputs["t0"] + inputs["t1"])) / 2.0
        values = solution(middle)
        total = total + (weights_like(values) * values.sin()).sum()
    return total


def gradients_of(
    output: Output, *, reverse: bool = False, times: bool = True, **options: Any
) -> Gradients:
    """Gradients of `loss_of` to every input; without `times`, those record no gradient."""
    inputs = fresh_inputs(reverse)
    if not times:
        for name in ("t0", "t1", "ts"):
            inputs[name].requires_grad_(False)
    loss = loss_of(inputs, output, **options)
    wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, found, strict=True))


def central_differences(
    function: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor], eps: float
) -> Gradients:
    """The gradient of a scalar function by central differences, entry by entry."""
    found: Gradients = {}
    with torch.no_grad():
        for name, tensor in inputs.items():
            gradient = torch.zeros_like(tensor).reshape(-1)
            for i in range(tensor.numel()):
                shift = torch.zeros_like(gradient)
                shift[i] = eps
                step = shift.view(tensor.shape)
                above = function({**inputs, name: tensor + step})
                below = function({**inputs, name: tensor - step})
                gradient[i] = (above - below) / (2 * eps)
            found[name] = gradient.view(tensor.shape)
    return found


def mismatches(
    found: Mapping[str, Tensor | None],
    expected: Mapping[str, Tensor | None],
    rtol: float,
    atol: float = 1e-13,
) -> dict[str, str]:
    """The names whose tensors differ by more than `rtol` of the expected norm; None counts as 0."""
    wrong: dict[str, str] = {}
    for name, want in expected.items():
        got = found[name]
        if got is None or want is None:
            other = want if got is None else got
            if other is not None and other.abs().max() > atol:
                wrong[name] = f"{got} instead of {want}"
            continue
        difference = torch.linalg.vector_norm(got - want)
        if not difference <= rtol * torch.linalg.vector_norm(want) + atol:
            wrong[name] = f"{got.detach()} instead of {want.detach()}"
    return wrong
