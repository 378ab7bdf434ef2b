"""Black boxes: solvers of other libraries, differentiated by `Backsolve` alone.

They need the extra `external`, or the library in question; nothing is imported before use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .base import Answer as Answer
from .base import BlackBox as BlackBox
from .base import Boxed as Boxed
from .base import boxed as boxed
from .base import no_steps as no_steps
from .from_scipy import SciPy as SciPy
from .from_sundials import CVODE as CVODE

BLACK_BOXES: dict[str, Callable[[], SciPy | CVODE]] = {
    "lsoda": partial(SciPy, "LSODA"),
    "vode_adams": partial(SciPy, "VODE-Adams"),
    "vode_bdf": partial(SciPy, "VODE-BDF"),
    "radau": partial(SciPy, "Radau"),
    "bdf": partial(SciPy, "BDF"),
    "scipy_dop853": partial(SciPy, "DOP853"),
    "scipy_rk45": partial(SciPy, "RK45"),
    "cvode_adams": partial(CVODE, "Adams"),
    "cvode_bdf": partial(CVODE, "BDF"),
}
"""Makers of black boxes by the names that `solver=` takes."""
