"""torchdiffeq's 24 method names, and which solver of isocline each of them is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, InputTypeError
from ..solvers import SOLVERS as _SOLVERS
from ..solvers.base import Solver
from ..solvers.external import BlackBox, SciPy
from ..solvers.multistep import AdamsBashforth, AdamsMoulton
from .errors import ArgumentError
from .internals import FixedGridODESolver
from .own_methods import OwnMethod

__all__ = ["SOLVERS", "Method", "find_method"]

_STEP, _ACCEPT, _REJECT = "callback_step", "callback_accept_step", "callback_reject_step"
_EVERY = frozenset({"norm", "stepping"})
_ADAPTIVE = _EVERY | {
    "dtype",
    "dfactor",
    "first_step",
    "ifactor",
    "jump_t",
    "max_num_steps",
    "max_step",
    "min_step",
    "safety",
    "step_t",
}
_FIXED = _EVERY | {"grid_constructor", "interp", "perturb", "step_size"}
_IMPLICIT = _FIXED | {"max_iters"}
_ADAMS = _IMPLICIT | {"max_order"}
_SCIPY = _EVERY | {"eps", "grid_points", "max_step", "min_step", "solver"}


_LEAST_ORDER, _HIGHEST_ORDER = 4, 12
_CORRECTIONS = 2
"""Evaluations that correct a step of the implicit Adams method, unless `max_iters` says more."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method by torchdiffeq's name.

    Attributes:
        name: torchdiffeq's name.
        make: gives the solver, from the options, rtol and atol.
        options: names of the options that it takes.
        callbacks: names of the callbacks that it serves.
        own: whether it is a class of the user's own.
    """

    name: str
    make: Callable[[Mapping[str, Any]], Solver | BlackBox]
    options: frozenset[str]
    callbacks: frozenset[str] = frozenset()
    own: bool = False

    @property
    def adaptive(self) -> bool:
        """Whether it chooses its steps by an error estimate of its own."""
        return "safety" in self.options

    @property
    def boxed(self) -> bool:
        """Whether it is one of SciPy's."""
        return "solver" in self.options

    def unknown(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that it does not take; a user's own method speaks for itself."""
        return {} if self.own else {k: v for k, v in options.items() if k not in self.options}


def _adaptive(name: str, key: str) -> Method:
    return Method(name, lambda _: _SOLVERS[key](), _ADAPTIVE, frozenset({_STEP, _ACCEPT, _REJECT}))


def _fixed(name: str, key: str) -> Method:
    return Method(name, lambda _: _SOLVERS[key](), _FIXED, frozenset({_STEP}))


def _implicit(name: str, key: str) -> Method:
    return Method(name, lambda _: _SOLVERS[key](), _IMPLICIT, frozenset({_STEP}))


def _explicit_adams(options: Mapping[str, Any]) -> Solver:
    order = _adams_order(options)
    return AdamsBashforth(order) if order >= _LEAST_ORDER else _SOLVERS["rk38"]()


def _implicit_adams(options: Mapping[str, Any]) -> Solver:
    order = _adams_order(options)
    if order < _LEAST_ORDER:
        return _SOLVERS["rk38"]()
    return AdamsMoulton(order, int(options.get("max_iters", _CORRECTIONS)))


def _adams_order(options: Mapping[str, Any]) -> int:
    """The order asked for, or 4: explicit formulas of high orders are hardly ever stable."""
    order = int(options.get("max_order", _LEAST_ORDER))
    if order > _HIGHEST_ORDER:
        expected = f"max_order must be at most {_HIGHEST_ORDER}"
        raise ArgumentError("options['max_order']", str(order), expected)
    if order < _LEAST_ORDER:
        warnings.warn(
            f"max_order is below {_LEAST_ORDER}, so the solver reduces to `rk4`.", stacklevel=6
        )
    return order


def _scipy(options: Mapping[str, Any]) -> BlackBox:
    limits = {"min_step": 0.0, "max_step": float("inf")}
    given = {key: float(options.get(key, limits[key])) for key in limits}
    chosen = {key: value for key, value in given.items() if value != limits[key]}
    return SciPy(options.get("solver", "LSODA"), chosen)


_METHODS = (
    _adaptive("dopri8", "dopri8"),
    _adaptive("dopri5", "dopri5shampine"),
    _adaptive("tsit5", "tsit5"),
    _adaptive("bosh3", "bosh3"),
    _adaptive("fehlberg2", "fehlberg2"),
    _adaptive("adaptive_heun", "heuneuler"),
    _fixed("euler", "euler"),
    _fixed("midpoint", "midpoint"),
    _fixed("heun2", "heun"),
    _fixed("heun3", "heun3"),
    _fixed("rk4", "rk38"),
    Method("explicit_adams", _explicit_adams, _ADAMS, frozenset({_STEP})),
    Method("implicit_adams", _implicit_adams, _ADAMS, frozenset({_STEP})),
    _implicit("implicit_euler", "impliciteuler"),
    _implicit("implicit_midpoint", "implicitmidpoint"),
    _implicit("trapezoid", "trapezoid"),
    _implicit("radauIIA3", "radauiia3"),
    _implicit("gl4", "gausslegendre4"),
    _implicit("radauIIA5", "radauiia5"),
    _implicit("gl6", "gausslegendre6"),
    _implicit("sdirk2", "sdirk2"),
    _implicit("trbdf2", "trbdf2"),
    Method("fixed_adams", _implicit_adams, _ADAMS, frozenset({_STEP})),
    Method("scipy_solver", _scipy, _SCIPY),
)

SOLVERS: dict[str, Any] = {method.name: method for method in _METHODS}
"""The methods by torchdiffeq's names. Code may add classes made from `FixedGridODESolver`."""


def find_method(name: str | None) -> Method:
    """The method of that name; dopri5 for None.

    Raises:
        InputError: for an unknown name.
    """
    found = SOLVERS.get("dopri5" if name is None else name)
    if isinstance(found, Method):
        return found
    if isinstance(found, type) and issubclass(found, FixedGridODESolver):
        return _own(str(name), found)
    if found is not None:
        expected = "a Method, or a class made from FixedGridODESolver"
        raise InputTypeError("method", f"SOLVERS[{name!r}] = {found!r}", expected)
    known = '", "'.join(SOLVERS)
    raise InputError("method", f'Invalid method "{name}"', f'one of {{"{known}"}}')


def _own(name: str, cls: type[FixedGridODESolver]) -> Method:
    """A method that the user has added to `SOLVERS`."""
    callbacks = frozenset(cls.valid_callbacks())
    return Method(name, lambda options: OwnMethod(cls, options), _FIXED, callbacks, own=True)
