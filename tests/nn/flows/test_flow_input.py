"""Wrong input: an `InputError` whose message names the argument, at once or at first use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

import isocline.nn as inn
from isocline.errors import InputError
from isocline.nn import CNF, ConcatSquashField, Hutchinson, HutchPlusPlus, KineticEnergy

X = torch.zeros(4, 2)
WRONG: list[tuple[str, Any]] = [
    ("field", 3),
    ("field", "mlp"),
    ("shape", 0),
    ("shape", -2),
    ("shape", (2, 0)),
    ("shape", 2.5),
    ("shape", "two"),
    ("base", "normal"),
    ("base", 3),
    ("base", Normal(0.0, 1.0)),
    ("base", Normal(torch.zeros(2), 1.0)),
    ("base", Independent(Normal(torch.zeros(3), 1.0), 1)),
    ("base", lambda: 3),
    ("base", Categorical(torch.ones(2))),
    ("divergence", "exact"),
    ("divergence", Hutchinson),
    ("divergence", inn.ClosedForm()),
    ("regularizers", KineticEnergy(1.0)),
    ("t0", math.nan),
    ("t0", "now"),
    ("t1", math.inf),
    ("t1", None),
    ("null_context", 3.0),
    ("solver", "eular"),
    ("solver", inn.MLPField),
    ("rtol", -1.0),
    ("atol", "tight"),
    ("adjoint", "backsolve"),
    ("dt0", 0.0),
    ("controller", "pid"),
    ("norm", "max"),
    ("max_steps", 0),
]


def made_and_used(**options: Any) -> None:
    settings = {"field": ConcatSquashField(2, 4), "shape": 2, **options}
    flow = CNF(**settings)
    flow.log_prob_and_penalty(X)


@pytest.mark.parametrize(
    ("name", "value"), WRONG, ids=[f"{i}-{name}" for i, (name, _) in enumerate(WRONG)]
)
def test_a_wrong_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^`[^`]*\b{name}\b"):
        made_and_used(**{name: value})


def test_equal_times_are_refused() -> None:
    with pytest.raises(InputError, match=r"^`t0, t1`"):
        made_and_used(t0=1.0)


def plain() -> CNF:
    return CNF(ConcatSquashField(2, 4), 2)


def conditional() -> CNF:
    return CNF(ConcatSquashField(2, 4, context=3), 2)


CALLS: dict[str, tuple[str, Callable[[], Any]]] = {
    "x too wide": ("x", lambda: plain().log_prob(torch.zeros(4, 3))),
    "x too flat": ("x", lambda: plain().log_prob(torch.zeros(()))),
    "x a list": ("x", lambda: plain().log_prob([0.0, 1.0])),  # type: ignore[arg-type]
    "x whole numbers": ("(x|y0)", lambda: plain().log_prob(torch.zeros(4, 2, dtype=torch.long))),
    "x not finite": ("(x|y0)", lambda: plain().log_prob(torch.full((4, 2), math.nan))),
    "z too wide": ("(x|z)", lambda: plain()(torch.zeros(4, 3))),
    "z of a trajectory": ("(x|z)", lambda: plain().trajectory(torch.zeros(4, 3), [1.0])),
    "context missing": ("context", lambda: conditional().log_prob(X)),
    "context not wanted": ("context", lambda: plain().log_prob(X, torch.zeros(4, 3))),
    "context too wide": ("context", lambda: conditional().log_prob(X, torch.zeros(4, 5))),
    "context of other rows": ("context", lambda: conditional().log_prob(X, torch.zeros(3, 3))),
    "context a number": ("context", lambda: conditional().log_prob(X, torch.tensor(1.0))),
    "context a list": ("context", lambda: conditional().log_prob(X, [1.0])),  # type: ignore[arg-type]
    "context for a planar field": (
        "context",
        lambda: CNF(inn.PlanarField(2), 2).log_prob(X, torch.zeros(4, 3)),
    ),
    "context in sampling a number": ("context", lambda: conditional().sample(3, torch.tensor(1.0))),
    "t not finite": ("t", lambda: plain().log_prob(X, t=math.nan)),
    "t a word": ("t", lambda: plain().sample(2, t="end")),  # type: ignore[arg-type]
    "n negative": ("n", lambda: plain().sample(-1)),
    "n a word": ("n", lambda: plain().sample("3")),
    "guidance alone": ("guidance", lambda: plain().sample(3, guidance=2.0)),
    "guidance a word": (
        "guidance",
        lambda: conditional().sample(3, torch.zeros(3), guidance="strong"),  # type: ignore[arg-type]
    ),
    "sampler a word": ("sampler", lambda: plain().sample(3, sampler="euler")),  # type: ignore[arg-type]
    "ts outside": ("ts", lambda: plain().trajectory(X, [0.0, 2.0])),
    "ts none": ("ts", lambda: plain().trajectory(X, [])),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_argument_is_named(call: str) -> None:
    name, wrong = CALLS[call]
    with pytest.raises(InputError, match=rf"^`(save\.)?{name}`"):
        wrong()


PARTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "hutchinson noise": ("noise_name", lambda: Hutchinson("uniform")),  # type: ignore[arg-type]
    "hutchinson none": ("samples", lambda: Hutchinson(samples=0)),
    "hutch++ noise": ("noise_name", lambda: HutchPlusPlus(6, "cauchy")),  # type: ignore[arg-type]
    "hutch++ too few": ("samples", lambda: HutchPlusPlus(2)),
    "planar features": ("features", lambda: inn.PlanarField(0)),
    "planar units": ("units", lambda: inn.PlanarField(2, 0)),
    "planar hidden": ("hidden", lambda: inn.PlanarField(2, hidden=-1)),
    "hamiltonian odd": ("features", lambda: inn.HamiltonianField(3)),
    "hamiltonian none": ("features", lambda: inn.HamiltonianField(0)),
    "hamiltonian hidden": ("hidden", lambda: inn.HamiltonianField(2, hidden=0)),
    "squash features": ("features", lambda: ConcatSquashField(0)),
    "squash hidden": ("hidden", lambda: ConcatSquashField(2, 0)),
    "squash depth": ("depth", lambda: ConcatSquashField(2, depth=0)),
    "squash context": ("context", lambda: ConcatSquashField(2, context=-1)),
    "squash activation": ("activation", lambda: ConcatSquashField(2, activation="gelu")),  # type: ignore[arg-type]
    "matching flow": ("flow", lambda: inn.FlowMatching(ConcatSquashField(2))),  # type: ignore[arg-type]
    "normal scale": ("scale", lambda: inn.StandardNormal(torch.Size([2]), -1.0)),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_wrong_part_is_named(part: str) -> None:
    name, wrong = PARTS[part]
    with pytest.raises(InputError, match=rf"^`{name}`"):
        wrong()
