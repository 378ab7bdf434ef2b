"""Every wrong argument is a typed error that names it, says what was given and what is expected."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic

Y0 = torch.ones(3, 2)


def decay(t: Tensor, y: Any) -> Any:
    return -y


def refused(argument: str, kind: type[Exception] = ic.InputError, **wrong: Any) -> str:
    """Solve with wrong arguments: the error must name `argument`; its text comes back."""
    call: dict[str, Any] = {"field": decay, "y0": Y0, "t0": 0.0, "t1": 1.0, **wrong}
    with pytest.raises(kind) as caught:
        ic.solve(call.pop("field"), call.pop("y0"), call.pop("t0"), call.pop("t1"), **call)
    error = caught.value
    assert isinstance(error, ic.InputError)
    assert error.argument == argument
    text = str(error)
    assert text.startswith(f"`{argument}`: given ")
    assert "; expected " in text
    return text


# --- values of the wrong type ----------------------------------------------------------------

WRONG_TYPES: dict[str, list[Any]] = {
    "field": [None, 3, "decay", Y0],
    "t0": [None, "0", b"0", 0j, [0.0], {}, object(), True],
    "t1": [None, "1", 1j, [1.0], {}, object(), True, torch.tensor(1j)],
    "args": [None, 1, [1], Y0, "a"],
    "solver": [None, 5, ic.Tsit5, object(), ic.PID()],
    "rtol": [None, "1e-3", 1j, [1e-3, 1e-3], object(), True, torch.tensor(1e-3j)],
    "atol": [None, "1e-3", 1j, {"a": 1e-3}, object(), True],
    "controller": ["pid", 3, ic.PID, object(), ic.Tsit5()],
    "dt0": ["0.1", 1j, [0.1], object(), True, torch.ones(2)],
    "save": [True, [0.5], 0.5, ic.SaveAt, "t1"],
    "adjoint": ["direct", ic.Direct, 3, object()],
    "norm": [3, object(), [], 0.5],
    "max_steps": [None, 10.5, "10", True, math.inf, torch.tensor(10)],
}
CASES = [(name, value) for name, values in WRONG_TYPES.items() for value in values]


def label(value: Any) -> str:
    """A test id without an address in it, which would differ between workers."""
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("argument", "value"), CASES, ids=label)
def test_a_wrong_type_is_an_input_error(argument: str, value: Any) -> None:
    refused(argument, **{argument: value})


@pytest.mark.parametrize(
    "y0", [None, 1.0, "y", 1j, [1.0], (Y0, 2.0), {"a": None}, np.ones(2)], ids=label
)
def test_a_state_is_made_of_tensors(y0: Any) -> None:
    assert "tensor" in refused("y0", ic.InputTypeError, y0=y0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8], ids=str)
def test_a_state_is_floating_or_complex(dtype: torch.dtype) -> None:
    text = refused("y0", ic.InputTypeError, y0=torch.ones(2, dtype=dtype))
    assert str(dtype) in text
    assert "`.float()`" in text


@pytest.mark.parametrize(
    "y0", [(), [], {}, torch.empty(0), torch.empty(3, 0), (Y0, torch.empty(0))]
)
def test_a_state_is_not_empty(y0: Any) -> None:
    refused("y0", y0=y0)


@given(row=st.integers(0, 2), column=st.integers(0, 1), value=st.sampled_from([math.nan, math.inf]))
def test_a_state_is_finite(row: int, column: int, value: float) -> None:
    y0 = Y0.clone()
    y0[row, column] = value
    assert f"{value} at index ({row}, {column})" in refused("y0", y0=y0)
    refused("y0", y0={"a": Y0, "b": (y0,)}, field=lambda t, y: y)


def test_both_kinds_are_the_built_in_errors_too() -> None:
    refused("t0", ValueError, t0=math.nan)
    refused("t0", TypeError, t0=None)


# --- values out of range ---------------------------------------------------------------------


@given(st.sampled_from(["t0", "t1"]), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_times_are_finite(argument: str, value: float) -> None:
    assert str(value) in refused(argument, **{argument: value})
    refused(argument, **{argument: torch.tensor(value)})


@pytest.mark.parametrize("argument", ["t0", "t1"])
def test_times_are_scalars(argument: str) -> None:
    assert "(2,)" in refused(argument, **{argument: torch.zeros(2)})
    refused(argument, **{argument: torch.zeros(0)})


@given(st.sampled_from(["rtol", "atol"]), st.floats(max_value=-1e-30) | st.just(math.nan))
def test_tolerances_are_finite_and_not_negative(argument: str, value: float) -> None:
    refused(argument, **{argument: value})
    refused(argument, **{argument: torch.tensor([1e-3, value], dtype=torch.float64)})


@pytest.mark.parametrize("argument", ["rtol", "atol"])
def test_tolerances_broadcast_against_the_state(argument: str) -> None:
    assert "(5,)" in refused(argument, **{argument: torch.full((5,), 1e-3)})
    refused(argument, **{argument: torch.full((4, 3, 2), 1e-3)})
    refused(argument, **{argument: math.inf})
    pair = {"y0": (Y0, Y0), "field": lambda t, y: y}
    refused(argument, **pair, **{argument: (1e-3,)})
    refused(argument, **pair, **{argument: (1e-3, "x")})
    refused(argument, **pair, **{argument: (1e-3, (1e-3,))})
    named = {"y0": {"a": Y0, "b": Y0}, "field": lambda t, y: y}
    refused(argument, **named, **{argument: {"a": 1e-3, "c": 1e-3}})


@given(st.floats(max_value=0) | st.just(math.nan) | st.just(math.inf))
def test_a_first_step_is_positive(value: float) -> None:
    refused("dt0", dt0=value)


@given(st.integers(max_value=0))
def test_a_step_limit_is_positive(value: int) -> None:
    assert str(value) in refused("max_steps", max_steps=value)


@pytest.mark.parametrize(
    "ts",
    [
        [1.5],
        [-0.5, 0.5],
        [0.6, 0.5],
        [0.5, math.nan],
        [],
        torch.zeros(2, 2),
        torch.tensor(0.5),
        0.5,
        "01",
        ["0.5"],
        [None],
        [[0.1, 0.2]],
        torch.tensor([0.5j]),
        [True],
    ],
    ids=repr,
)
def test_output_times_are_rising_and_inside(ts: Any) -> None:
    refused("save.ts", save=ic.SaveAt(ts=ts))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5, unique=True))
def test_output_times_of_a_reverse_solve_fall(times: list[float]) -> None:
    falling = sorted(times, reverse=True)
    sol = ic.solve(decay, Y0, 1, 0, save=ic.SaveAt(ts=falling))
    assert sol.ts.tolist() == falling
    assert "falling" in refused("save.ts", t0=1.0, t1=0.0, save=ic.SaveAt(ts=falling[::-1]))


@pytest.mark.parametrize("fn", [3, "y", Y0])
def test_what_is_kept_is_made_by_a_function(fn: Any) -> None:
    refused("save.fn", save=ic.SaveAt(fn=fn))


@pytest.mark.parametrize("answer", [None, 1.0, (Y0, None)], ids=["None", "float", "tuple"])
@pytest.mark.parametrize("save", [{}, {"ts": [0.0, 0.5]}, {"steps": True}], ids=str)
def test_what_a_function_keeps_is_tensors(answer: Any, save: dict[str, Any]) -> None:
    refused("save.fn", save=ic.SaveAt(fn=lambda t, y: answer, **save))


@pytest.mark.parametrize("name", ["l2", "", "RMS"])
def test_a_norm_has_a_known_name(name: str) -> None:
    assert "'max_rms', 'rms'" in refused("norm", norm=name)


@pytest.mark.parametrize("answer", [Y0, None, "big", torch.tensor(1j)], ids=repr)
def test_a_norm_answers_with_one_real_number(answer: Any) -> None:
    refused("norm", norm=lambda y: answer)


# --- combinations ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in ic.solvers.SOLVERS.values() if not m().adaptive])
def test_a_method_without_an_error_estimate_needs_a_step(method: Callable[[], Any]) -> None:
    assert "Pass `dt0=`" in refused("dt0", solver=method())
    text = refused("controller", solver=method(), controller=ic.PID(), dt0=0.1)
    assert "no error estimate" in text


def test_a_constant_step_needs_its_length() -> None:
    refused("dt0", controller=ic.Constant())


# --- what a field answers --------------------------------------------------------------------

BAD_ANSWERS: dict[str, Any] = {
    "none": None,
    "number": 1.0,
    "too_small": torch.ones(1),
    "transposed": torch.ones(2, 3),
    "more_dimensions": torch.ones(1, 3, 2),
    "complex": torch.ones(3, 2, dtype=torch.complex64),
    "tuple": (torch.ones(3, 2),),
    "dict": {"a": torch.ones(3, 2)},
    "numpy": np.ones((3, 2), np.float32),
    "meta": torch.ones(3, 2, device="meta"),
}


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_a_field_answers_with_a_state(answer: Any, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        refused("field", field=lambda t, y: answer)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize(
    "answer",
    [
        Y0,
        (Y0,),
        (Y0, Y0, Y0),
        (Y0, (Y0,)),
        (Y0, None),
        (Y0, torch.ones(3)),
        {"a": Y0, "b": Y0},
    ],
    ids=["one", "short", "long", "nested", "none", "shape", "dict"],
)
def test_a_field_answers_with_a_structure_like_the_states(answer: Any, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        refused("field", y0=(Y0, Y0), field=lambda t, y: answer)


def test_a_field_may_answer_in_another_precision() -> None:
    end = ic.solve(lambda t, y: -y.double(), Y0, 0, 1).ys
    assert end.dtype == torch.float32
    torch.testing.assert_close(end[0], Y0 * math.exp(-1), rtol=1e-4, atol=0)


# --- numbers of other kinds are welcome ------------------------------------------------------


@pytest.mark.parametrize("kind", [int, float, np.float32, np.int64, torch.tensor], ids=label)
def test_times_may_be_any_kind_of_number(kind: Any) -> None:
    expected = ic.solve(decay, Y0, 0.0, 1.0).ys
    assert torch.equal(ic.solve(decay, Y0, kind(0), kind(1)).ys, expected)
