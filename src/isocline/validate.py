"""Checks of what the user hands to `solve`.

Each failure names the argument, what was given, and what is expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .controllers import PID, Constant
from .controllers.base import Controller
from .errors import InputError, InputTypeError
from .solvers import by_name
from .solvers.base import Solver
from .solvers.external import BlackBox, Boxed, boxed
from .state import Packing, State, tree_leaves
from .transforms import everywhere, mapped

__all__ = [
    "check_black_box",
    "check_controller",
    "check_finite_state",
    "check_max_steps",
    "check_solver",
    "check_step",
    "check_stepping",
    "check_time",
    "check_tolerance",
    "check_ts",
]


def check_finite_state(y0: State) -> None:
    """Raise unless every element of the initial state is finite."""
    for leaf in tree_leaves(y0):
        finite = leaf.detach().isfinite()
        if everywhere(finite):
            continue
        if mapped(finite):
            raise InputError("y0", "NaN or infinity in a member of a vmap", "finite values")
        index = tuple((~finite).nonzero()[0].tolist())
        value = leaf.detach()[index].item()
        raise InputError("y0", f"{value} at index {index}", "finite values")


def check_time(name: str, t: Any, *, infinite: bool = False) -> float:
    """A time as a float.

    Raises:
        InputTypeError: unless it is a real number or a one-element real tensor.
        InputError: unless it is finite, or, where it may be, infinite.
    """
    if isinstance(t, Tensor):
        if t.numel() != 1 or t.is_complex():
            raise InputError(name, f"{t.dtype} of shape {tuple(t.shape)}", "a real scalar")
        _check_common(name, t)
        value = float(t.detach())
    else:
        value = _number(name, t, "a number or a 0-d tensor")
    if math.isnan(value) or (math.isinf(value) and not infinite):
        hint = "" if math.isnan(value) else "An event that ends the solve would allow it."
        raise InputError(name, str(value), "a finite time", hint if name == "t1" else "")
    return value


def check_ts(ts: Any, t0: float, t1: float) -> tuple[float, ...]:
    """Output times as floats, in the order of the solve and within its span."""
    if ts is None:
        return ()
    if isinstance(ts, Tensor):
        if ts.ndim != 1 or ts.is_complex():
            raise InputError("save.ts", f"shape {tuple(ts.shape)}", "real times of shape (T,)")
        _check_common("save.ts", ts)
        times = tuple(map(float, ts.detach().tolist()))
    else:
        expected = "a sequence of numbers or a 1-d tensor"
        if isinstance(ts, (str, bytes)) or not isinstance(ts, Iterable):
            raise InputTypeError("save.ts", type(ts).__name__, expected)
        times = tuple(_number("save.ts", t, expected) for t in ts)
    if not times:
        raise InputError("save.ts", "no times", "at least one time")
    sign = 1 if t1 >= t0 else -1
    for i, t in enumerate(times):
        if not math.isfinite(t):
            raise InputError("save.ts", f"{t} at index {i}", "finite times")
        if not sign * t0 <= sign * t <= sign * t1:
            raise InputError(
                "save.ts", f"{t} at index {i}", f"times between t0 = {t0} and t1 = {t1}"
            )
        if i and sign * t < sign * times[i - 1]:
            order = "rising" if sign > 0 else "falling"
            raise InputError(
                "save.ts",
                f"{times[i - 1]} followed by {t} at index {i}",
                f"{order} times, as the solve goes from {t0} to {t1}",
            )
    return times


def check_tolerance(name: str, value: Any, packing: Packing) -> float | Tensor:
    """A tolerance as a float or a packed vector.

    Args:
        name: "rtol" or "atol".
        value: a number, a tensor that broadcasts against each leaf, or a structure like y0's.
        packing: layout of the state.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not (value >= 0 and math.isfinite(value)):
            raise InputError(name, str(value), "a finite number, zero or more")
        return float(value)
    leaves: list[Any] | None = None
    if isinstance(value, Tensor):
        leaves = [value] * len(packing.shapes)
    if leaves is None and not packing.single and packing.fits(value):
        leaves = packing.leaves(value)
    if leaves is None or not all(map(_real, leaves)):
        expected = "a number or a tensor" + ("" if packing.single else ", or a structure like y0")
        raise InputTypeError(name, type(value).__name__, expected)
    real = packing.time_dtype
    pieces = []
    for leaf, shape in zip(leaves, packing.shapes, strict=True):
        tensor = torch.as_tensor(leaf, dtype=real, device=packing.device).detach()
        try:
            pieces.append(tensor.expand(shape).reshape(-1))
        except RuntimeError:
            raise InputError(
                name, f"shape {tuple(tensor.shape)}", f"a shape that broadcasts to {tuple(shape)}"
            ) from None
    vector = torch.cat(pieces)
    if not everywhere((vector >= 0) & vector.isfinite()):
        raise InputError(name, "a tensor with negative or non-finite values", "zero or more")
    return vector


def _check_common(name: str, time: Tensor) -> None:
    """Raise if the members of a `vmap` have times of their own: they take common steps."""
    if mapped(time):
        raise InputError(
            name,
            "times that differ between the members of a vmap",
            "times that all members share",
            "Solve over a common span instead: with s from 0 to 1, t = t0 + s * (t1 - t0), the "
            "field is (t1 - t0) * field(t, y).",
        )


def _number(name: str, value: Any, expected: str) -> float:
    """A real number as a float; what only happens to convert, like "1" or True, is refused."""
    try:
        if not isinstance(value, (str, bytes, bool)):
            return float(value)
    except (TypeError, ValueError):
        pass
    given = repr(value) if isinstance(value, (str, bytes, bool)) else type(value).__name__
    raise InputTypeError(name, given, expected)


def _real(leaf: Any) -> bool:
    """Whether a leaf of a tolerance is a real number or tensor."""
    if isinstance(leaf, Tensor):
        return not leaf.is_complex()
    return isinstance(leaf, (int, float)) and not isinstance(leaf, bool)


def check_solver(solver: Solver | BlackBox | str) -> Solver:
    """The solver, looked up if it was named, and in a box if it is a black one."""
    if isinstance(solver, str):
        return by_name(solver)
    box = boxed(solver)
    if box is not None:
        return box
    if isinstance(solver, type):
        hint = f"Write `{solver.__name__}()`."
        raise InputTypeError("solver", f"the class {solver.__name__}", "an instance", hint)
    if not callable(getattr(solver, "bind", None)):
        raise InputTypeError(
            "solver", type(solver).__name__, "a solver such as Tsit5(), or its name"
        )
    return solver  # type: ignore[return-value]


def check_black_box(solver: Solver, **settings: object) -> None:
    """Raise if a black box is given settings of steps that it takes by itself."""
    if not isinstance(solver, Boxed):
        return
    for name, value in settings.items():
        if value is not None:
            given = value if isinstance(value, str | float | int) else type(value).__name__
            raise InputError(
                name,
                f"{given} with {solver.name}",
                "None: a black box chooses and judges its steps by itself",
                f"Leave `{name}` out, or choose a solver of isocline, such as Tsit5.",
            )


def check_controller(
    controller: Controller | None, solver: Solver, dt0: float | None
) -> Controller:
    """The controller; by default PID where the solver estimates its error, else Constant."""
    if controller is None:
        controller = PID() if solver.adaptive else Constant()
    if isinstance(controller, type) or not callable(getattr(controller, "decide", None)):
        given = controller if isinstance(controller, type) else type(controller)
        raise InputTypeError("controller", given.__name__, "PID(), Constant() or such")
    if controller.adaptive and not solver.adaptive:
        raise InputError(
            "controller",
            f"{type(controller).__name__} with {solver.name}, which has no error estimate",
            "a constant step for this solver",
            "Leave `controller` out and pass `dt0=`, or choose an adaptive solver such as Tsit5.",
        )
    if not controller.adaptive and dt0 is None:
        raise InputError(
            "dt0",
            "None",
            f"the length of the step: {solver.name} with {type(controller).__name__} "
            "does not choose it",
            "Pass `dt0=`, or choose an adaptive solver such as Tsit5.",
        )
    return controller


def check_step(dt0: Any, t0: float, t1: float) -> float | None:
    """The first step as a positive length; a signed one must point from t0 to t1."""
    if dt0 is None:
        return None
    value = check_time("dt0", dt0)
    if value == 0 or (value < 0 and t1 >= t0):
        raise InputError(
            "dt0", str(value), "a positive length (or, where t1 < t0, a negative step)"
        )
    return abs(value)


def check_stepping(stepping: Any) -> str:
    """How the batch steps, "joint" or "per_sample"."""
    if stepping not in ("joint", "per_sample"):
        raise InputError("stepping", repr(stepping), '"joint" or "per_sample"')
    return str(stepping)


def check_max_steps(max_steps: Any) -> int:
    """The step limit, a positive integer."""
    if not isinstance(max_steps, int) or isinstance(max_steps, bool):
        raise InputTypeError("max_steps", repr(max_steps), "a positive integer")
    if max_steps < 1:
        raise InputError("max_steps", str(max_steps), "a positive integer")
    return max_steps
