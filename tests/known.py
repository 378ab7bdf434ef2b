"""Problems whose solution is known in closed form, and fields that watch how they are called."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.solvers.implicit.solver import ImplicitRungeKutta

SOLVERS = list(ic.solvers.SOLVERS.values())
ADAPTIVE = [method for method in SOLVERS if method().adaptive]


@functools.cache
def kind_of(method: type[ic.Solver]) -> tuple[Any, ...]:
    """What decides which code takes the steps of a method, whatever its coefficients are."""
    solver = method()
    family = method.__mro__[1]
    form: tuple[Any, ...] = ()
    if isinstance(table := getattr(solver, "tableau", None), ic.solvers.Tableau):
        form = (table.fsal, len(table.error), bool(table.extra_a))
    elif isinstance(solver, ImplicitRungeKutta):
        form = (len(solver.coefficients.blocks) > 1,)
    return (method if family is object else family, solver.adaptive, *form)


# Of each kind the one of the highest order.
KINDS = list({kind_of(method): method for method in SOLVERS}.values())


def one_of_each_kind(methods: list[type[ic.Solver]]) -> list[Any]:
    """Methods for tests of what stands around a step: at once one of each kind, the rest slow.

    What each method owes by itself is in `tests/solvers`, over all of them.
    """
    slow = pytest.mark.slow
    return [
        pytest.param(method, marks=[] if method in KINDS else slow, id=method.__name__)
        for method in methods
    ]


def called(solver: Any) -> str:
    """A solver in the name of a test, which is to be the same in every process."""
    return solver if isinstance(solver, str) else getattr(solver, "name", type(solver).__name__)


def in_reach(method: type[ic.Solver], tol: float) -> bool:
    """Whether some thousands of steps do: their number goes as tol ** (-1 / error_order)."""
    return bool(tol ** (-1 / method().error_order) <= 1e3)


def within_reach(method: type[ic.Solver], tol: float, steps: float = 1e2) -> dict[str, float]:
    """Tolerances for `solve`: `tol`, or the least for which an adaptive method needs few steps.

    Their number is `steps` up to a constant of the problem.
    """
    order = method().error_order
    tol = max(tol, steps**-order) if order else tol
    return {"rtol": tol, "atol": tol}


def promise(method: type[ic.Solver], tol: float) -> float:
    """What a tolerance bounds the error by, up to a factor.

    Steps go as tol^(1 / k), with k the order of the error estimate, and the error as the steps to
    the method's order: a power of the tolerance where the estimate is of a higher order than that.
    """
    return float(tol ** min(1.0, method().order / max(1, method().error_order)))


def swing(t: Tensor, y: Tensor) -> Tensor:
    """y' = cos(t) (y2, -y1): a rotation by the angle sin t. States of shape (..., 2)."""
    return torch.cos(t) * torch.stack([y[..., 1], -y[..., 0]], -1)


def swung(t: Any, y0: Any = (1.0, 0.0), t0: float = 0.0) -> Tensor:
    """The exact solution of `swing` through (t0, y0), at time(s) t: shape (*t.shape, 2)."""
    angle = torch.sin(torch.as_tensor(t, dtype=torch.float64)) - math.sin(t0)
    start = torch.as_tensor(y0, dtype=torch.float64)
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * start[0] + s * start[1], c * start[1] - s * start[0]], -1)


PHASES = torch.arange(5, dtype=torch.float64) * (2 * math.pi / 5)


def knotted(t: Tensor, y: Tensor) -> Tensor:
    """Four equations, coupled, nonlinear and non-autonomous, with solution `unknotted`.

    Five samples at different phases, shape (5, 4): the error of one, at one time, may happen to
    vanish. It separates: the rates of the first half of the state depend on the second half alone,
    and the other way round, as methods that preserve structure ask for.
    """
    q1, q2, p1, p2 = y.unbind(-1)
    sin, cos = torch.sin(t + PHASES), torch.cos(t + PHASES)
    return torch.stack(
        [
            p1 * p2 * torch.exp(-sin),
            p1 * p2,
            cos * q2**2 * torch.exp(-q1),
            -sin * q2 * torch.exp(-q1),
        ],
        -1,
    )


def unknotted(t: Any) -> Tensor:
    """The exact solution of `knotted`, at time(s) t: shape (*t.shape, 5, 4)."""
    angle = torch.as_tensor(t, dtype=torch.float64)[..., None] + PHASES
    s, c = angle.sin(), angle.cos()
    return torch.stack([s, s.exp(), s.exp(), c], -1)


def fixed(method: type, dt0: float, **options: Any) -> dict[str, Any]:
    """Arguments of `solve` for constant steps."""
    return {"solver": method(), "controller": ic.Constant(**options), "dt0": dt0}


def either(method: type, span: float, **options: Any) -> dict[str, Any]:
    """Adaptive steps where the method can, else three constant steps and a rest."""
    if method().adaptive:
        return {"solver": method(), "controller": ic.PID(**options)}
    return fixed(method, abs(span) / 3.4, **options)


class Watched:
    """A field that remembers every time it was called with, and how often."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func
        self.times: list[Tensor] = []
        self.values: list[float] = []

    def __call__(self, t: Tensor, y: Any, *args: Any) -> Any:
        self.times.append(t)
        self.values.append(t.item())
        return self.func(t, y, *args)


class OneBuffer:
    """A field that writes all its answers into one tensor, as a C library's wrapper would."""

    def __init__(self, func: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.func = func
        self.buffer: Tensor | None = None

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        answer = self.func(t, y).detach()
        if self.buffer is None:
            self.buffer = torch.empty_like(answer)
        return self.buffer.copy_(answer)


class Logged:
    """A controller that writes down what another is asked and what it answers."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.log: list[tuple[float, float, bool, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def init(self, error_order: int) -> Any:
        return self.inner.init(error_order)

    def decide(self, h: float, error_ratio: float, state: Any) -> Any:
        decision = self.inner.decide(h, error_ratio, state)
        self.log.append((h, error_ratio, decision.accept, decision.h))
        return decision


def order_of(counts: list[int], errors: list[float], corrected: bool) -> float:
    """p of the least-squares fit log error = const - p log n, corrected by + a / n if wanted.

    The correction takes up the next power of the step length, which a method of high order still
    feels where rounding already begins; the largest error of a grid is too uneven for it.
    """
    n = np.asarray(counts, float)
    columns = [-np.log(n), np.ones_like(n), 1 / n][: 3 if corrected else 2]
    return float(np.linalg.lstsq(np.stack(columns, 1), np.log(errors), rcond=None)[0][0])
