"""torchdiffeq's place in `sys.modules`."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from . import internals
from .adjoint import find_parameters, odeint_adjoint
from .interface import odeint, odeint_dense, odeint_event
from .methods import SOLVERS

__all__ = ["VERSION", "install", "uninstall"]

VERSION = "0.2.5"
"""Of the torchdiffeq whose interface this is."""

_PUBLIC = {
    "odeint": odeint,
    "odeint_adjoint": odeint_adjoint,
    "odeint_dense": odeint_dense,
    "odeint_event": odeint_event,
}
_NAMES: dict[str, dict[str, Any]] = {
    "torchdiffeq": {**_PUBLIC, "__version__": VERSION},
    "torchdiffeq._impl": _PUBLIC,
    "torchdiffeq._impl.odeint": {
        "SOLVERS": SOLVERS,
        "odeint": odeint,
        "odeint_dense": odeint_dense,
        "odeint_event": odeint_event,
    },
    "torchdiffeq._impl.adjoint": {
        "SOLVERS": SOLVERS,
        "find_parameters": find_parameters,
        "odeint": odeint,
        "odeint_adjoint": odeint_adjoint,
    },
    "torchdiffeq._impl.misc": {
        "Perturb": internals.Perturb,
        "_flat_to_shape": internals.flat_to_shape,
        "_handle_unused_kwargs": internals.handle_unused_kwargs,
        "_linf_norm": internals.linf_norm,
        "_mixed_norm": internals.mixed_norm,
        "_null_callback": internals.null_callback,
        "_rms_norm": internals.rms_norm,
        "_zero_norm": internals.zero_norm,
    },
    "torchdiffeq._impl.solvers": {"FixedGridODESolver": internals.FixedGridODESolver},
    "torchdiffeq._impl.fixed_grid": {
        "Euler": internals.Euler,
        "FixedGridODESolver": internals.FixedGridODESolver,
        "Heun2": internals.Heun2,
        "Heun3": internals.Heun3,
        "Midpoint": internals.Midpoint,
        "Perturb": internals.Perturb,
        "RK4": internals.RK4,
        "rk4_alt_step_func": internals.rk4_alt_step_func,
    },
    "torchdiffeq._impl.rk_common": {"rk4_alt_step_func": internals.rk4_alt_step_func},
    # These have nothing that would make sense here; importing from them says so.
    "torchdiffeq._impl.adaptive_heun": {},
    "torchdiffeq._impl.bosh3": {},
    "torchdiffeq._impl.dopri5": {},
    "torchdiffeq._impl.dopri8": {},
    "torchdiffeq._impl.event_handling": {},
    "torchdiffeq._impl.fehlberg2": {},
    "torchdiffeq._impl.fixed_adams": {},
    "torchdiffeq._impl.fixed_grid_implicit": {},
    "torchdiffeq._impl.interp": {},
    "torchdiffeq._impl.scipy_wrapper": {},
    "torchdiffeq._impl.tsit5": {},
}
"""Which module of torchdiffeq has which names."""

_replaced: dict[str, ModuleType] = {}
"""Modules of the real torchdiffeq that had been imported before."""


def install() -> None:
    """From now on `import torchdiffeq` imports this drop-in, installed or not as the real one is.

    To be called before the code that imports torchdiffeq: names that were imported from the real
    one stay what they are.
    """
    if _installed():
        return
    for name in _ours_or_theirs():
        _replaced[name] = sys.modules.pop(name)
    modules = {name: _stand_in(name, names) for name, names in _NAMES.items()}
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        # In the real one too, a function hides the module of the same name.
        if parent and not hasattr(modules[parent], child):
            setattr(modules[parent], child, module)
    sys.modules.update(modules)


def uninstall() -> None:
    """Undo `install`: the real torchdiffeq is imported again, if there is one."""
    if not _installed():
        return
    for name in _ours_or_theirs():
        del sys.modules[name]
    sys.modules.update(_replaced)
    _replaced.clear()


def _installed() -> bool:
    return getattr(sys.modules.get("torchdiffeq"), "odeint", None) is odeint


def _ours_or_theirs() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "torchdiffeq"]


def _stand_in(name: str, names: dict[str, Any]) -> ModuleType:
    """A module of torchdiffeq with those names."""
    module = ModuleType(name, f"isocline's stand-in for {name}.")
    package = name in ("torchdiffeq", "torchdiffeq._impl")
    module.__spec__ = ModuleSpec(name, None, origin=f"isocline {__package__}", is_package=package)
    module.__package__ = name if package else name.rpartition(".")[0]
    if package:
        module.__path__ = []

    def missing(attribute: str) -> Any:
        if attribute.startswith("__") or package:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        raise ImportError(
            f"{name}.{attribute} is a part of torchdiffeq's inner workings that isocline's drop-in "
            "does not have. What it does have: odeint and its kin, SOLVERS, FixedGridODESolver, "
            "Perturb and the norms. `isocline.solvers` shows how to write a method for isocline."
        )

    vars(module).update(names)
    module.__getattr__ = missing  # type: ignore[method-assign]
    return module
