"""`check_gradient`: which adjoint to take, by trying them on the problem at hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from ._solve import _check_adjoint, _check_args, _check_save, solve
from .adjoints import Adjoint
from .diagnosis.gradient_report import GradientReport
from .diagnosis.grading import every_adjoint, grade
from .diagnosis.trial import Projection, Question
from .errors import InputError, InputTypeError
from .solution import Solution
from .state import Packing, State
from .validate import check_finite_state, check_solver, check_time

__all__ = ["check_gradient"]

_OURS = {"field", "y0", "t0", "t1", "args", "adjoint", "progress", "throw"}
"""What `solve` takes, and the settings of a check do not include."""


def check_gradient(
    field: Callable[..., State],
    y0: State,
    t0: float | Tensor,
    t1: float | Tensor,
    *,
    adjoint: Adjoint | None = None,
    adjoints: Literal["all"] | Sequence[Adjoint] | None = None,
    loss: Callable[[Solution], Tensor] | None = None,
    args: tuple[Any, ...] = (),
    repeats: int = 3,
    **settings: Any,
) -> GradientReport:
    """How right the gradient of a solve is, by one adjoint or by all, and what each costs.

    The gradient of a loss in y0, in the times that require grad, and in each tensor that the field
    depends on, is compared (1) with the exact gradient of the discrete solve, which `Direct` finds
    on the same steps, and (2) with the gradient at tolerances a thousand times smaller, in float64
    where the field can be had in it. The first says what the adjoint adds; the second, what the
    solve's own tolerance leaves as well. Beside them stand time, evaluations and peak memory.

        >>> net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        >>> print(ic.check_gradient(lambda t, y: net(y), y0, 0.0, 1.0, adjoints="all"))

    All of it is done with copies of what the field holds, so that gradients, buffers, counters and
    the random state stay as they are. A field that cannot be copied is evaluated itself, and its
    buffers are put back. On CUDA the count of `torch.cuda.max_memory_allocated` starts anew.

    Args:
        field, y0, t0, t1, args: as for `solve`. y0 is taken to require a gradient.
        adjoint: the one to check; by default, unless `adjoints` names others, that which `solve`
            would choose.
        adjoints: more of them, or "all": one of each kind. Those that cannot differentiate this
            problem have a row that says why. Forward mode is left out where there are many inputs.
        loss: a scalar of the `Solution`; by default a fixed pseudo-random combination of `ys`.
        repeats: runs that are timed, interleaved, besides two that are not.
        **settings: of `solve`: `solver`, `rtol`, `save` and so on.

    Returns:
        The report; `print` it for a table.

    Raises:
        InputError: for an argument that is wrong; the message names it.
        SolveError: the solve itself fails.
        GradientError: the field is not a function of (t, y), for it draws random numbers.
    """
    if not callable(field):
        raise InputTypeError("field", type(field).__name__, "a callable field(t, y, *args)")
    known = set(inspect.signature(solve).parameters) - _OURS
    for name in settings:
        if name not in known:
            raise InputError(
                "settings", repr(name), f"settings of `solve`: {', '.join(sorted(known))}"
            )
    if loss is not None and not callable(loss):
        raise InputTypeError("loss", type(loss).__name__, "a function loss(solution), or None")
    if type(repeats) is not int or repeats < 1:
        raise InputError("repeats", repr(repeats), "a whole number, at least 1")
    Packing.of(y0)  # says what is wrong with it
    check_finite_state(y0)
    endless = settings.get("event") is not None
    check_time("t0", t0)
    check_time("t1", t1, infinite=endless)
    solver = check_solver(settings.get("solver", "tsit5"))
    settings["save"] = _check_save(settings.get("save"))
    more = _check_adjoints(adjoints)
    first = [] if adjoint is None and more else [_check_adjoint(adjoint, solver)]

    def chosen(size: int) -> list[Adjoint]:
        every = [*first, *(every_adjoint(size) if more is None else more)]
        return [one for place, one in enumerate(every) if one not in every[:place]]

    loss = Projection() if loss is None else loss
    asked = Question(field, y0, t0, t1, _check_args(args), loss, settings)
    return grade(asked, solver, chosen, solve, repeats)


def _check_adjoints(given: Any) -> list[Adjoint] | None:
    """A list of adjoints; None for all."""
    if given is None:
        return []
    if isinstance(given, str):
        if given != "all":
            raise InputError("adjoints", repr(given), '"all", or a sequence of adjoints')
        return None
    if not isinstance(given, Sequence) or not given:
        shown = "an empty sequence" if isinstance(given, Sequence) else type(given).__name__
        raise InputTypeError("adjoints", shown, '"all", or a sequence of adjoints')
    for one in given:
        if isinstance(one, type) or not callable(getattr(one, "run", None)):
            shown = one.__name__ if isinstance(one, type) else type(one).__name__
            raise InputTypeError("adjoints", shown, "adjoints such as Direct() or Backsolve()")
    return list(given)
