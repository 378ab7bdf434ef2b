"""Settings: defaults, checks, JSON, tolerances, learning rates."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from isocline.train import ConfigError, OdenetConfig
from isocline.train.odenet.tolerances import parse_tolerances
from isocline.train.schedule import learning_rate_factor


def test_defaults_depend_on_data_and_model() -> None:
    digits = OdenetConfig().resolved()
    assert (digits.solver, digits.adjoint, digits.schedule) == ("tsit5", "checkpointed", "cosine")
    mnist = OdenetConfig(data="mnist", model="rknet", lr=0.3).resolved()
    assert (mnist.solver, mnist.adjoint, mnist.schedule) == ("rk4", "direct", "steps")
    assert (mnist.batch_size, mnist.epochs, mnist.lr) == (128, 160, 0.3)
    assert (mnist.optimizer, digits.optimizer) == ("sgd", "adam")
    assert OdenetConfig(optimizer="sgd").resolved().lr == 0.1
    assert OdenetConfig(model="resnet").resolved().solver is None
    assert digits.resolved() == digits
    boxed = OdenetConfig(solver="cvode_adams").resolved()
    assert (boxed.solver, boxed.adjoint) == ("cvode_adams", "backsolve")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "cifar"}, "--data cifar is unknown; choose one of digits, mnist"),
        ({"precision": "64"}, "--precision 64 is unknown; choose one of 16-mixed, 32, bf16-mixed"),
        ({"adjoint": "magic"}, "choose one of backsolve, checkpointed, direct"),
        ({"solver": "rk4"}, "--solver rk4 is not an adaptive solver; choose one of .*bosh3"),
        ({"solver": "rk45"}, "--solver rk45 is unknown; choose one of .*bosh3"),
        ({"model": "rknet", "solver": "tsit5"}, "not a fixed-step solver; choose one of .*euler"),
        ({"model": "resnet", "solver": "tsit5"}, "a resnet has no solve"),
        ({"epochs": 0}, "--epochs is 0, but must be at least 1"),
        ({"batch_size": -2}, "--batch-size is -2"),
        ({"tol": 0.0}, "--tol is 0.0, but must be positive"),
        ({"lr": math.nan}, "--lr is nan"),
        ({"momentum": 1.0}, r"--momentum is 1.0, but must lie in \[0, 1\)"),
        ({"channels": 40}, "--channels is 40, but above 32 it must divide by 32"),
        ({"data_dir": Path("x")}, "--data-dir is for --data mnist"),
        ({"slots": 2, "adjoint": "direct"}, "--slots is a setting of --adjoint checkpointed"),
        (
            {"solver": "lsoda", "adjoint": "direct"},
            "--solver lsoda goes with --adjoint backsolve, not direct",
        ),
        ({"model": "rknet", "solver": "lsoda"}, "--solver lsoda is not a fixed-step solver"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OdenetConfig(**settings).resolved()  # type: ignore[arg-type]


def test_settings_go_through_json() -> None:
    config = OdenetConfig(out=Path("a/b"), data="mnist", data_dir=Path("c"), slots=3).resolved()
    assert OdenetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="unknown settings colour"):
        OdenetConfig.from_dict({"colour": "red"})


def test_what_changes_no_numbers_is_no_difference() -> None:
    config = OdenetConfig().resolved()
    other = dataclasses.replace(config, resume=True, threads=1, progress=False, seed=1)
    assert config.differences(other) == {"seed": (0, 1)}


def test_settings_left_at_their_defaults_give_way() -> None:
    old = OdenetConfig(epochs=3, model="rknet").resolved()
    assert OdenetConfig(resume=True).over(old) == dataclasses.replace(old, resume=True)
    assert OdenetConfig(epochs=5).over(old).epochs == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e0..1e-5", [1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5]),
        ("1e-3..1e-1", [1e-1, 1e-2, 1e-3]),
        ("0.5..0.004", [0.5, 0.05, 0.005]),
        ("1e-2..1e-2", [1e-2]),
        ("1e-3,1e-1, 1e-2,1e-1", [1e-1, 1e-2, 1e-3]),
        ("0.03", [0.03]),
    ],
)
def test_tolerances(text: str, expected: list[float]) -> None:
    assert parse_tolerances(text) == expected


@pytest.mark.parametrize("text", ["", "1e0..", "1,,2", "0", "-1e-3", "inf", "1..2..3", "nan", "a"])
def test_tolerances_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="no positive number; give a range"):
        parse_tolerances(text)


def test_learning_rate_of_the_paper() -> None:
    steps = [learning_rate_factor(epoch, 160, "steps") for epoch in (0, 59, 60, 99, 100, 140, 159)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001, 0.001])


def test_cosine_warms_up_and_ends_at_zero() -> None:
    factors = [learning_rate_factor(step, 100, "cosine") for step in range(101)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert factors[100] == pytest.approx(0)
    assert learning_rate_factor(0, 1, "cosine") == 1
