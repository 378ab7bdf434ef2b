"""SciPy's solvers as black boxes."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import InputError, MissingLibraryError
from .base import Answer, Array, HostField, Watch
from .drive import Checked, Engine, drive

if TYPE_CHECKING:
    from scipy.integrate import OdeSolver

__all__ = ["SciPy"]

_LARGE = 1000
"""Elements of a state from which on a dense Jacobian is not the default."""

_TOO_LARGE = 20_000
"""Elements for which a dense Jacobian fills gigabytes."""

_LEAST_RTOL = 2.3e-14
"""SciPy warns below 100 units of rounding, and takes these."""

_METHODS: dict[str, str] = {
    "LSODA": "Petzold 1983, SIAM J. Sci. Stat. Comput. 4: Adams and BDF, switched by stiffness",
    "VODE-Adams": "Brown, Byrne and Hindmarsh 1989, SIAM J. Sci. Stat. Comput. 10: implicit Adams",
    "VODE-BDF": "Brown, Byrne and Hindmarsh 1989, SIAM J. Sci. Stat. Comput. 10: BDF",
    "Radau": "Hairer and Wanner 1996, Solving ODEs II, IV.8: Radau IIA of order 5",
    "BDF": "Shampine and Reichelt 1997, SIAM J. Sci. Comput. 18: quasi-constant steps, NDF",
    "DOP853": "Hairer, Nørsett and Wanner 1993, Solving ODEs I, II.5",
    "RK45": "Dormand and Prince 1980, J. Comput. Appl. Math. 6",
    "RK23": "Bogacki and Shampine 1989, Appl. Math. Lett. 2",
}

_DEGREES = {"RK23": 3, "RK45": 4, "DOP853": 7, "Radau": 3, "BDF": 5, "LSODA": 12}
"""Of the interpolants; that of a multistep method is its order, here the highest."""


@dataclass(frozen=True, slots=True)
class SciPy:
    """A solver of `scipy.integrate`.

    LSODA, Radau, BDF and VODE-BDF solve linear systems with a Jacobian that they find by
    differences of the field: n evaluations and n^2 numbers for a state of n elements. From a
    thousand elements on LSODA and VODE-BDF therefore go without one and iterate on the step's
    equation itself, which converges where the problem is not stiff, and takes tiny steps where
    it is. Take `CVODE("BDF")` for a large stiff problem, or give a band in `options`.

    LSODA takes NaN for convergence: it stops before the step in which the field was not finite,
    where the other methods try shorter ones. LSODA and VODE solve one problem at a time: other
    threads wait, and a field that solves another problem inside must do so by another method.

    Attributes:
        method: "LSODA", "VODE-Adams", "VODE-BDF", "Radau", "BDF", "DOP853", "RK45" or "RK23".
        options: handed on to SciPy's solver, such as `lband` and `uband` or `max_step`.

    Raises:
        InputError: for an unknown method.
    """

    method: str = "LSODA"
    options: Mapping[str, Any] = field(default_factory=dict)

    watches = True

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise InputError("method", repr(self.method), f"one of {', '.join(_METHODS)}")

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"SciPy's {self.method}"

    @property
    def reference(self) -> str:
        """Author and year."""
        return _METHODS[self.method]

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
            MissingLibraryError: without SciPy.
            InputError: for a state too large for the method.
        """
        try:
            import scipy.integrate as library
        except ImportError as error:
            raise MissingLibraryError(
                f"{self.name} needs SciPy: `pip install scipy` (or 'isocline[external]')."
            ) from error
        settings: dict[str, Any] = {"rtol": max(rtol, _LEAST_RTOL), "atol": atol}
        settings |= self._linear_algebra(len(y0)) | dict(self.options)

        def start(checked: Checked) -> Engine:
            if self.method.startswith("VODE"):
                return _Vode(library.ode(checked), t0, t1, y0, settings)
            solver = getattr(library, self.method)
            return _Stepping(solver(checked, t0, y0.copy(), t1, **settings), _DEGREES[self.method])

        if self.method.startswith("VODE"):
            settings["method"] = self.method.removeprefix("VODE-").lower()
        with _alone(self.method):
            return drive(start, field, t0, t1, y0, ts=ts, max_steps=max_steps, watch=watch)

    def _linear_algebra(self, size: int) -> dict[str, Any]:
        """What suits the size of the state, unless the user says it."""
        method, given = self.method, self.options.keys()
        if method in ("Radau", "BDF") and "jac_sparsity" not in given and size > _TOO_LARGE:
            raise InputError(
                "solver",
                f"{self.name}, which factorises a dense matrix of {size} x {size}",
                f"a state of at most {_TOO_LARGE} elements",
                "Use `solver='cvode_bdf'`, or give `options={'jac_sparsity': ...}`.",
            )
        if given & {"jac", "lband", "uband", "with_jacobian"}:
            return {}
        if method == "LSODA" and size >= _LARGE:
            return {"lband": 0, "uband": 0, "jac": _no_jacobian}
        if method == "VODE-BDF" and size < _LARGE:
            # A band of full width. SciPy 1.17.0 and 1.17.1 mix up rows and columns of a Jacobian
            # that is not called one (its issue 24933), and then VODE ends at wrong states.
            return {"lband": size - 1, "uband": size - 1}
        return {}


def _no_jacobian(_t: float, y: Array) -> Array:
    """A Jacobian of zeros, in the form of a band.

    It turns Newton's iteration into that on the equation itself, whose convergence is judged as
    it is. A diagonal found by differences, where the Jacobian is none, passes for convergence at a
    wrong state: measured on a rotation with CVODE, an error of 6 at a tolerance of 1e-4.
    """
    import numpy as np

    return np.zeros((1, len(y)))


class _Stepping:
    """A solver of SciPy's newer family, which steps and interpolates by itself."""

    rejected = 0  # it does not tell

    def __init__(self, solver: OdeSolver, degree: int) -> None:
        self._solver = solver
        self.degree = degree

    @property
    def t(self) -> float:
        return float(self._solver.t)

    @property
    def y(self) -> Array:
        state: Array = self._solver.y
        return state

    def step(self) -> str | None:
        with _no_warnings():
            message: str | None = self._solver.step()
        return message if self._solver.status == "failed" else None

    def at(self, times: Sequence[float]) -> Array:
        import numpy as np

        states: Array = self._solver.dense_output()(np.asarray(times))
        return states.T


class _Vode:
    """VODE, which SciPy offers in its older family alone.

    To step without passing the end takes task 5 with the end in the first place of its work array,
    and to interpolate task 4, as SciPy's own LSODA class does it with the same driver.
    """

    def __init__(
        self, solver: Any, t0: float, t1: float, y0: Array, settings: Mapping[str, Any]
    ) -> None:
        solver.set_integrator("vode", **settings)
        solver.set_initial_value(y0.copy(), t0)
        self._solver, self._vode, self._end = solver, solver._integrator, t1
        self._vode.rwork[0] = t1
        self.t, self.y = t0, y0

    @property
    def degree(self) -> int:
        return int(self._vode.iwork[13])  # order of the last step

    @property
    def rejected(self) -> int:
        return int(self._vode.iwork[20] + self._vode.iwork[21])  # no convergence, or too inexact

    def step(self) -> str | None:
        with _no_warnings():
            self.y, self.t = self._run(5, self._end)
        if self._solver.successful():
            return None
        return str(self._vode.messages.get(self._vode.istate, f"istate = {self._vode.istate}"))

    def at(self, times: Sequence[float]) -> Array:
        import numpy as np

        return np.stack([self._run(4, t)[0] for t in times])

    def _run(self, task: int, end: float) -> tuple[Array, float]:
        solver, arguments = self._solver, self._vode.call_args
        arguments[2] = task
        y, t = self._vode.run(
            solver.f, solver.jac or (lambda: None), self.y.copy(), self.t, end, (), ()
        )
        return y.copy(), float(t)


class _Turn(threading.local):
    """Methods that are at work in this thread."""

    def __init__(self) -> None:
        self.taken: set[str] = set()


_TURN = _Turn()
_LOCKS = {"LSODA": threading.Lock(), "VODE": threading.Lock()}
"""They keep part of what they know in one place for all problems, whatever SciPy's version."""


@contextlib.contextmanager
def _alone(method: str) -> Iterator[None]:
    """Let no other problem come in between where the library could not stand it.

    Raises:
        InputError: if this one comes in between another in the same thread.
    """
    library = method.partition("-")[0]
    if library not in _LOCKS:
        yield
        return
    if library in _TURN.taken:
        raise InputError(
            "solver",
            f"SciPy's {library} in a field that is being solved with SciPy's {library}",
            "another method for one of them: this one solves one problem at a time",
        )
    with _LOCKS[library]:
        _TURN.taken.add(library)
        try:
            yield
        finally:
            _TURN.taken.remove(library)


class _no_warnings(warnings.catch_warnings):  # noqa: N801
    """What SciPy's ODEPACK solvers warn of becomes a status; warnings of the field pass."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="(lsoda|vode): ")
