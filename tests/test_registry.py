"""Every table of coefficients is a solver with a public name, found by that name in any case."""

import copy
import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import isocline as ic
from isocline.solvers.tableaus import TABLEAUS

from .known import SOLVERS, either, swing

EVERY = pytest.mark.parametrize("method", SOLVERS, ids=lambda method: method.__name__)
Method = type[ic.Solver]


def test_every_table_is_a_solver() -> None:
    for name, table in TABLEAUS.items():
        method = ic.solvers.SOLVERS[name]
        assert issubclass(method, ic.solvers.ExplicitRungeKutta)
        assert method.tableau is table
        assert method.__name__ == table.name


def test_names_are_those_of_the_classes_in_order() -> None:
    for name, method in ic.solvers.SOLVERS.items():
        assert name == method.__name__.lower()
    keys = [(method().order, name) for name, method in ic.solvers.SOLVERS.items()]
    assert keys == sorted(keys)


@EVERY
def test_every_solver_has_its_public_name(method: Method) -> None:
    assert getattr(ic, method.__name__) is method
    assert getattr(ic.solvers, method.__name__) is method
    assert method.__doc__
    assert method().reference


@EVERY
def test_a_name_in_any_case_is_the_solver(method: Method) -> None:
    spaced = "_".join(method.__name__)
    for name in (method.__name__, method.__name__.lower(), method.__name__.upper(), spaced):
        assert ic.solvers.by_name(name) == method()
    y0 = torch.tensor([1.0, 0.0])
    options = either(method, 1)
    named = ic.solve(swing, y0, 0, 1, **{**options, "solver": method.__name__})
    assert torch.equal(named.ys, ic.solve(swing, y0, 0, 1, **options).ys)


@EVERY
def test_an_instance_is_a_value(method: Method) -> None:
    solver = method()
    assert eval(repr(solver), vars(ic)) == solver
    for twin in (method(), pickle.loads(pickle.dumps(solver)), copy.deepcopy(solver)):
        assert twin == solver
        assert hash(twin) == hash(solver)
        assert type(twin) is method
    assert all(solver != other() for other in SOLVERS if other is not method)
    assert pickle.loads(pickle.dumps(method)) is method
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        solver.order = 7  # type: ignore[misc]


@pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS.keys())
def test_what_a_solver_says_is_what_its_table_says(tableau: ic.solvers.Tableau) -> None:
    solver = ic.solvers.by_name(tableau.name)
    assert solver.reference == tableau.reference
    assert solver.order == tableau.order
    assert solver.adaptive == bool(tableau.error)
    assert solver.error_order == (tableau.error_order + 1 if tableau.adaptive else 0)
    assert solver.evaluations_per_step == tableau.stages - int(tableau.fsal)


@EVERY
@given(data=st.data())
def test_a_slip_of_the_finger_is_answered_with_the_right_name(
    method: Method, data: st.DataObject
) -> None:
    """One letter doubled, in any place: the nearest name is the one that was meant."""
    name = method.__name__.lower()
    place = data.draw(st.integers(0, len(name) - 1))
    slip = name[:place] + name[place] + name[place:]
    with pytest.raises(ic.InputError, match=f"Did you mean '{name}'") as caught:
        ic.solvers.by_name(slip)
    message = str(caught.value)
    assert f"`solver`: given '{slip}'" in message
    assert all(known in message for known in ic.solvers.SOLVERS)


@pytest.mark.parametrize("name", ["", "quite-something-else", "0"])
def test_a_name_like_no_other_gets_the_list(name: str) -> None:
    with pytest.raises(ic.InputError, match="expected one of euler, ") as caught:
        ic.solve(swing, torch.ones(2), 0, 1, solver=name)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("method", SOLVERS, ids=lambda method: method.__name__)
def test_controllers_and_settings_are_values_too(method: Method) -> None:
    for thing in (ic.PID(stops=(1.0,)), ic.Constant(), ic.PI(), ic.SaveAt(ts=[0.0], steps=True)):
        twin = pickle.loads(pickle.dumps(thing))
        assert twin == thing
        assert repr(twin) == repr(thing)
    y0 = torch.tensor([1.0, 0.0])
    with torch.no_grad():
        sol = ic.solve(swing, y0, 0, 1, save=ic.SaveAt(t1=True, dense=True), **either(method, 1))
    twin = pickle.loads(pickle.dumps(sol))
    assert torch.equal(twin.ys, sol.ys)
    assert torch.equal(twin(0.37), sol(0.37))
    assert twin.status is sol.status
    assert twin.stats == sol.stats
