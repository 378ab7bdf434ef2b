"""Names, signatures and defaults are those of torchdiffeq's master branch."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import isocline as ic
import isocline.torchdiffeq as drop_in
from isocline.torchdiffeq.methods import find_method

NOTHING = inspect.Parameter.empty

# As `inspect.signature` gives them for torchdiffeq at commit 657943a.
SIGNATURES = {
    "odeint": {
        "func": NOTHING, "y0": NOTHING, "t": NOTHING,
        "rtol": 1e-7, "atol": 1e-9, "method": None, "options": None, "event_fn": None,
    },
    "odeint_adjoint": {
        "func": NOTHING, "y0": NOTHING, "t": NOTHING,
        "rtol": 1e-7, "atol": 1e-9, "method": None, "options": None, "event_fn": None,
        "adjoint_rtol": None, "adjoint_atol": None, "adjoint_method": None,
        "adjoint_options": None, "adjoint_params": None,
    },
    "odeint_event": {
        "func": NOTHING, "y0": NOTHING, "t0": NOTHING,
        "event_fn": NOTHING, "reverse_time": False, "odeint_interface": drop_in.odeint,
        "kwargs": NOTHING,
    },
    "odeint_dense": {
        "func": NOTHING, "y0": NOTHING, "t0": NOTHING, "t1": NOTHING,
        "rtol": 1e-7, "atol": 1e-9, "method": None, "options": None,
    },
}  # fmt: skip

SOLVERS = {
    "dopri8": "Dopri8",
    "dopri5": "Dopri5Shampine",
    "tsit5": "Tsit5",
    "bosh3": "Bosh3",
    "fehlberg2": "Fehlberg2",
    "adaptive_heun": "HeunEuler",
    "euler": "Euler",
    "midpoint": "Midpoint",
    "heun2": "Heun",
    "heun3": "Heun3",
    "rk4": "RK38",
    "explicit_adams": "AdamsBashforth",
    "implicit_adams": "AdamsMoulton",
    "implicit_euler": "ImplicitEuler",
    "implicit_midpoint": "ImplicitMidpoint",
    "trapezoid": "Trapezoid",
    "radauIIA3": "RadauIIA3",
    "gl4": "GaussLegendre4",
    "radauIIA5": "RadauIIA5",
    "gl6": "GaussLegendre6",
    "sdirk2": "SDIRK2",
    "trbdf2": "TRBDF2",
    "fixed_adams": "AdamsMoulton",
    "scipy_solver": "SciPy",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    function = getattr(drop_in, name)
    found = inspect.signature(function).parameters
    assert {key: parameter.default for key, parameter in found.items()} == SIGNATURES[name]
    keywords = list(SIGNATURES[name])[4 if name == "odeint_dense" else 3 :]
    for key, parameter in found.items():
        kind = "KEYWORD_ONLY" if key in keywords else "POSITIONAL_OR_KEYWORD"
        assert parameter.kind.name == ("VAR_KEYWORD" if key == "kwargs" else kind)
    assert getattr(ic, name) is function


def test_every_method_name_has_its_method() -> None:
    assert set(drop_in.SOLVERS) == set(SOLVERS)
    assert len(SOLVERS) == 24
    for name, solver in SOLVERS.items():
        assert type(find_method(name).make({})).__name__ == solver


# --- standing in for torchdiffeq -------------------------------------------------------------


@pytest.fixture
def installed() -> Iterator[None]:
    drop_in.install()
    yield
    drop_in.uninstall()


@pytest.mark.usefixtures("installed")
def test_installed_it_is_imported_as_torchdiffeq() -> None:
    import torchdiffeq
    from torchdiffeq import odeint, odeint_adjoint, odeint_dense, odeint_event

    assert odeint is drop_in.odeint
    assert odeint_adjoint is drop_in.odeint_adjoint
    assert odeint_dense is drop_in.odeint_dense
    assert odeint_event is drop_in.odeint_event
    assert torchdiffeq.__version__ == drop_in.__version__ == "0.2.5"
    # How libraries look for optional dependencies.
    assert importlib.util.find_spec("torchdiffeq") is torchdiffeq.__spec__
    assert importlib.import_module("torchdiffeq") is torchdiffeq


@pytest.mark.usefixtures("installed")
def test_names_that_public_code_imports_from_the_inside() -> None:
    from torchdiffeq._impl import odeint
    from torchdiffeq._impl.adjoint import find_parameters, odeint_adjoint
    from torchdiffeq._impl.fixed_grid import RK4, Euler, Heun2, Heun3, Midpoint
    from torchdiffeq._impl.misc import (
        Perturb,
        _flat_to_shape,
        _linf_norm,
        _mixed_norm,
        _rms_norm,
    )
    from torchdiffeq._impl.odeint import SOLVERS
    from torchdiffeq._impl.rk_common import rk4_alt_step_func
    from torchdiffeq._impl.solvers import FixedGridODESolver

    assert odeint is drop_in.odeint
    assert odeint_adjoint is drop_in.odeint_adjoint
    assert SOLVERS is drop_in.SOLVERS
    net = torch.nn.Linear(2, 3)
    assert list(map(id, find_parameters(net))) == list(map(id, net.parameters()))
    assert [side.name for side in Perturb] == ["NONE", "PREV", "NEXT"]
    assert all(issubclass(c, FixedGridODESolver) for c in (Euler, Midpoint, Heun2, Heun3, RK4))
    x = torch.tensor([3.0, -4.0, 0.0, 0.0])
    assert _rms_norm(x) == 2.5
    assert _linf_norm(x) == 4.0
    assert _mixed_norm((x, x[:2])) == pytest.approx(12.5**0.5)
    a, b = _flat_to_shape(torch.arange(10.0).view(2, 5), (2,), (torch.Size([]), torch.Size([2, 2])))
    assert a.tolist() == [0.0, 5.0]
    assert b[1].tolist() == [[6.0, 7.0], [8.0, 9.0]]
    t0, dt = torch.tensor(0.0), torch.tensor(0.5)
    change = rk4_alt_step_func(lambda t, y: t**3, t0, dt, t0 + dt, torch.tensor(0.0))
    assert change.item() == pytest.approx(0.5**4 / 4)  # exact for cubics


@pytest.mark.usefixtures("installed")
def test_what_it_does_not_have_is_said_when_it_is_imported() -> None:
    with pytest.raises(ImportError, match=r"_impl\.dopri5\.Dopri5Solver is a part of"):
        from torchdiffeq._impl.dopri5 import Dopri5Solver  # noqa: F401
    with pytest.raises(ImportError, match="_interp_fit"):
        from torchdiffeq._impl.interp import _interp_fit  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        import torchdiffeq._impl.not_there  # noqa: F401
    with pytest.raises(AttributeError):
        _ = sys.modules["torchdiffeq"].not_there


def test_the_real_one_comes_back() -> None:
    real = ModuleType("torchdiffeq")
    child = ModuleType("torchdiffeq.child")
    sys.modules.update({"torchdiffeq": real, "torchdiffeq.child": child})
    try:
        drop_in.install()
        drop_in.install()  # twice is once
        assert sys.modules["torchdiffeq"] is not real
        assert "torchdiffeq.child" not in sys.modules
        drop_in.uninstall()
        assert sys.modules["torchdiffeq"] is real
        assert sys.modules["torchdiffeq.child"] is child
        assert "torchdiffeq._impl" not in sys.modules
        drop_in.uninstall()
        assert sys.modules["torchdiffeq"] is real
    finally:
        del sys.modules["torchdiffeq"], sys.modules["torchdiffeq.child"]
