"""SUNDIALS' CVODE as a black box, through scikit-sundae."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import InputError, MissingLibraryError
from .base import Answer, Array, HostField, Watch
from .drive import Checked, Engine, drive

__all__ = ["CVODE"]

_LARGE = 1000
"""Elements of a state from which on a dense Jacobian is not the default."""

_ORDERS = {"Adams": 12, "BDF": 5}


@dataclass(frozen=True, slots=True)
class CVODE:
    """CVODE of SUNDIALS: variable order, variable step, implicit.

    Its Newton iteration takes the Jacobian for zero with "Adams", which makes it the iteration on
    the step's equation itself, as this method is used where the problem is not stiff. With "BDF" it
    finds a dense one by differences up to a thousand elements, and uses GMRES without one beyond.

    Attributes:
        method: "Adams", orders 1 to 12, or "BDF", orders 1 to 5, for stiff problems.
        options: handed on to `sksundae.cvode.CVODE`, such as `linsolver` or `max_order`.

    Raises:
        InputError: for an unknown method.
    """

    method: str = "BDF"
    options: Mapping[str, Any] = field(default_factory=dict)

    watches = True

    def __post_init__(self) -> None:
        if self.method not in _ORDERS:
            raise InputError("method", repr(self.method), f"one of {', '.join(_ORDERS)}")

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"CVODE's {self.method}"

    @property
    def reference(self) -> str:
        """Author and year."""
        return "Hindmarsh, Brown, Grant et al. 2005, ACM Trans. Math. Softw. 31: SUNDIALS"

    def integrate(
        self,
        field: HostField,
        t0: float,
        t1: float,
        y0: Array,
        *,
        ts: Sequence[float],
        rtol: float,
        atol: float | Array,
        max_steps: int,
        watch: Watch | None = None,
    ) -> Answer:
        """See `BlackBox.integrate`.

        Raises:
            MissingLibraryError: without scikit-sundae.
        """
        try:
            from sksundae import cvode as library
        except ImportError as error:
            raise MissingLibraryError(
                f"{self.name} needs scikit-sundae: `pip install scikit-sundae` "
                "(or 'isocline[external]')."
            ) from error
        settings = {"rtol": rtol, "atol": atol, "method": self.method}
        if "linsolver" not in self.options:
            settings |= self._linear_algebra(library, len(y0))
        settings |= self.options

        def start(checked: Checked) -> Engine:
            return _Cvode(library.CVODE, checked, t0, t1, y0, settings)

        return drive(start, field, t0, t1, y0, ts=ts, max_steps=max_steps, watch=watch)

    def _linear_algebra(self, library: Any, size: int) -> dict[str, Any]:
        """What suits the method and the size of the state.

        Not a diagonal found by differences: see `_no_jacobian` in `from_scipy`.
        """
        if self.method == "Adams":
            times = library.CVODEJacTimes(None, _no_jacobian)
            return {"linsolver": "gmres", "krylov_dim": 1, "jactimes": times}
        return {"linsolver": "dense" if size < _LARGE else "gmres"}


def _no_jacobian(_t: float, _y: Array, _slope: Array, _vector: Array, product: Array) -> None:
    """The product of the Jacobian, taken for zero, with a vector."""
    product[:] = 0


class _Cvode:
    """CVODE in the midst of a problem."""

    rejected = 0  # scikit-sundae does not tell

    def __init__(
        self,
        library: Any,
        field: Checked,
        t0: float,
        t1: float,
        y0: Array,
        settings: Mapping[str, Any],
    ) -> None:
        def rate(t: float, y: Array, slope: Array) -> None:
            with _spoken():
                slope[:] = field(t, y)

        self._solver = library(rate, **settings)
        self._end = t1
        self.t, self.y = t0, y0
        self.degree = int(settings.get("max_order", _ORDERS[settings["method"]]))
        with _unlogged():
            self._solver.init_step(t0, y0)

    def step(self) -> str | None:
        with _hushed():
            found = self._solver.step(self._end, "onestep", tstop=self._end)
        self.t, self.y = float(found.t), found.y
        return None if found.success else str(found.message)

    def at(self, times: Sequence[float]) -> Array:
        import numpy as np

        with _hushed():
            rows = [self._solver.step(t, "normal").y for t in times]
            # It takes the last time returned for the place where it stands: lead it back.
            self._solver.step(self.t, "normal")
        return np.stack(rows)


class _Mute:
    """A stream to nowhere; remembers the one in whose place it stands."""

    def __init__(self, instead: Any) -> None:
        self.instead = instead

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without what scikit-sundae prints of an error, which becomes a status."""
    with contextlib.redirect_stdout(_Mute(sys.stdout)):
        yield


@contextlib.contextmanager
def _spoken() -> Iterator[None]:
    """The user's field may print, though it is called while scikit-sundae may not."""
    stream: Any = sys.stdout
    with contextlib.redirect_stdout(getattr(stream, "instead", stream)):
        yield


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Without SUNDIALS' warnings on stderr, for the problem that is set up within.

    They tell of steps too short to move the time, which `drive` sees by itself. SUNDIALS looks
    into the environment when a problem is set up.
    """
    variable = "SUNLOGGER_WARNING_FILENAME"
    if variable in os.environ:
        yield
        return
    os.environ[variable] = os.devnull
    try:
        yield
    finally:
        del os.environ[variable]
