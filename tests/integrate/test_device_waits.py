"""How often a solve would wait for a device: whenever the host looks at a value, or sends one."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import isocline as ic

_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "lift_fresh")


class Waits(TorchDispatchMode):
    """Counts operations that end only when the device is done, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """How many."""
        return sum(self.found[name] for name in _WAITS)


def field(t: Tensor, y: Tensor) -> Tensor:
    return torch.sin(3 * t).reshape(-1, 1) * y.cos() - y


def waits(t1: float, **options: Any) -> tuple[int, int]:
    """Waits of a solve, and its rounds."""
    given: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-7, **options}
    with torch.no_grad():
        ic.solve(field, torch.ones(4, 3), 0.0, 1.0, **given)  # whose tables are made once
        with Waits() as counter:
            found = ic.solve(field, torch.ones(4, 3), 0.0, t1, **given)
    stats = found.stats
    counts = stats.samples
    if counts is None:
        return counter.total, stats.steps_accepted + stats.steps_rejected
    return counter.total, int((counts.steps_accepted + counts.steps_rejected).max())


@pytest.mark.parametrize("solver", [ic.Tsit5(), ic.Dopri5(), ic.Bosh3()], ids=repr)
def test_a_joint_try_waits_once(solver: Any) -> None:
    """For its error ratio; what a solve needs besides does not grow with it."""
    (few, tries), (many, more) = waits(2.0, solver=solver), waits(20.0, solver=solver)
    assert more > 2 * tries
    assert many - few == more - tries


def test_a_step_of_constant_length_waits_once() -> None:
    few, many = (waits(t1, solver=ic.RK4(), dt0=0.1)[0] for t1 in (1.0, 3.0))
    assert many - few == 20


def test_a_round_of_samples_waits_thrice_at_most() -> None:
    """For the largest ratio, for how many arrive, and now and then for the shortest step."""
    (few, rounds), (many, more) = (waits(t1, stepping="per_sample") for t1 in (2.0, 20.0))
    assert many - few <= 3 * (more - rounds)
