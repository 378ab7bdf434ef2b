"""`odeint_adjoint`: the same solve, differentiated by the paper's reverse solve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..adjoints import Backsolve
from ..errors import InputError
from ..problem import SaveAt
from ..state import Packing, State
from .inputs import tolerance
from .methods import find_method
from .norms import adjoint_norm
from .reaching import reaching
from .sides import Sides
from .solving import EventFunction, Task, alone, check_apart, sides_of
from .steps import Steps
from .until import until_event
from .watching import Callbacks

__all__ = ["find_parameters", "odeint_adjoint"]


def odeint_adjoint(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFunction | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """Solve as `odeint` does, and differentiate by solving the adjoint ODE backward in time.

    Args:
        func, y0, t, rtol, atol, method, options, event_fn: as for `odeint`.
        adjoint_rtol, adjoint_atol, adjoint_method: of the reverse solve; None for those of the
            forward one.
        adjoint_options: of the reverse solve; None for those of the forward one, without "norm".
            Here "norm" may be "seminorm", or a function of (t, y, adjoint of y, adjoints of the
            parameters ...). With `options={"stepping": "per_sample"}` the reverse solve goes by
            samples too; its norm is then given zeros for the parameters, whose adjoint belongs to
            no sample, and gives a number for each sample that it is asked about.
        adjoint_params: the tensors that are to receive gradients besides y0 and t; None for all
            that func depends on.

    Returns:
        As `odeint`.

    Raises:
        ValueError, TypeError, AssertionError: as `odeint`; and ValueError for options of which it
            is not clear whether they are meant for the reverse solve.
    """
    explicit = None if adjoint_params is None else _requiring_grad(adjoint_params)
    task = Task.of(func, y0, t, rtol, atol, method, options, event_fn, explicit or ())
    steps = task.steps()
    if task.apart:
        check_apart(task, steps, task.callbacks())
    reverse = _reverse(task, method, adjoint_method, adjoint_options)
    if len(t) == 1 and event_fn is None:
        return alone(y0)
    adjoint: Backsolve | None = None
    named: tuple[Tensor, ...] = ()
    if not torch.is_grad_enabled():
        sides = sides_of(steps)
    else:
        named = _requiring_grad(find_parameters(func)) if explicit is None else explicit
        back = reverse.steps()
        sides = sides_of(steps, back)
        tolerances = [
            None if value is None else _tolerance(name, value, y0, packed=not task.apart)
            for name, value in (("adjoint_rtol", adjoint_rtol), ("adjoint_atol", adjoint_atol))
        ]
        adjoint = replace(
            _backsolve(reverse, back, sides, named),
            rtol=tolerances[0],
            atol=tolerances[1],
            parameters=explicit,
        )
    if event_fn is not None:
        event_t, states = until_event(task, steps, sides, adjoint)
        return event_t, reaching(states, named)
    return reaching(task.solution(steps, sides, adjoint, save=SaveAt(ts=t)).ys, named)


def find_parameters(module: Any) -> list[Tensor]:
    """The parameters of a module, also of a replica under `DataParallel`; none of other things."""
    if not isinstance(module, nn.Module):
        return []
    if not getattr(module, "_is_replica", False):
        return list(module.parameters())
    # The parameters of a replica are no leaves, and so not registered as parameters.
    values = (value for part in module.modules() for value in vars(part).values())
    return [value for value in values if isinstance(value, Tensor) and value.requires_grad]


def _requiring_grad(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor.requires_grad)


def _reverse(
    task: Task,
    method: str | None,
    adjoint_method: str | None,
    adjoint_options: Mapping[str, Any] | None,
) -> Task:
    """The reverse solve, with the method and the options that it inherits."""
    name = method if adjoint_method is None else adjoint_method
    stepping = {key: task.options[key] for key in ("stepping",) if key in task.options}
    if adjoint_options is None:
        if name != method and task.options.keys() - stepping:
            raise InputError(
                "adjoint_options",
                f"None with adjoint_method={adjoint_method!r} and options for method={method!r}",
                "the options of the reverse solve, as those of another method do not apply",
            )
        adjoint_options = {key: task.options[key] for key in task.options if key != "norm"}
    options = stepping | dict(adjoint_options)
    found = replace(task, asked=task.asked.reversed(), method=find_method(name), options=options)
    if found.apart != task.apart:
        raise InputError(
            "adjoint_options['stepping']",
            f"{options['stepping']!r}, and another in `options`",
            "the same for both ways: samples with steps of their own have them both ways",
        )
    return found


def _backsolve(
    reverse: Task, back: Steps, sides: Sides | None, parameters: tuple[Tensor, ...]
) -> Backsolve:
    """The adjoint, with a reverse solve that steps as it was asked to."""
    method, asked = reverse.method, reverse.asked
    seen = Callbacks.of(asked.func, method.name, method.callbacks, _augmented, "_adjoint")
    if reverse.apart:
        check_apart(reverse, back, seen, "adjoint_")
    solver, controller = back.attended(sides, seen, asked.direction)
    found = Backsolve(solver=solver, controller=controller, dt0=back.dt0, max_steps=back.max_steps)
    if method.boxed:
        return found
    seminorm, norm = adjoint_norm(reverse.options.get("norm"), parameters)
    return replace(found, seminorm=seminorm, norm=norm)


def _augmented(packing: Packing, vector: Tensor) -> State:
    """The state of the reverse solve as callbacks see it: (0, y, adjoint of y, of parameters).

    A state that is a tuple is laid flat. The adjoint of the time is no part of our reverse solve.
    """
    count = len(packing.shapes) // 2
    size = sum(packing.sizes[:count])
    y, adjoint, rest = vector.split([size, size, len(vector) - 2 * size])
    if count == 1:
        y, adjoint = y.view(packing.shapes[0]), adjoint.view(packing.shapes[0])
    return (vector.new_zeros(()), y, adjoint, rest)


def _tolerance(name: str, value: Any, y0: State, *, packed: bool) -> Any:
    """A tolerance of the reverse solve: as it is, or as a number or a vector like the packed state.

    The reverse solve of samples takes it like y0, as the forward one does.
    """
    found = tolerance(name, value, y0)
    if isinstance(found, float) or not packed:
        return found
    leaves = [y0] if isinstance(y0, Tensor) else list(y0)
    entries = list(found) if isinstance(found, tuple) else [found] * len(leaves)
    pairs = zip(entries, leaves, strict=True)
    return torch.cat([x.to(leaf.real).expand(leaf.shape).reshape(-1) for x, leaf in pairs])
