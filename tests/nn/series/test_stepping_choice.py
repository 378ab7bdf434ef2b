"""`stepping="auto"` of a latent ODE: it goes the cheaper way, and answers like either."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.nn import CheaperWay, LatentODE

from .series_cases import DTYPE, close, latent_ode, noise_for, ragged

WAYS = ("joint", "per_sample")


class Work:
    """A clock that moves by the work that a field does, forward and backward.

    Args:
        call: of a call, however many samples it is about.
        sample: of each of them.
    """

    def __init__(self, call: float, sample: float) -> None:
        self.call, self.sample = call, sample
        self.done = 0.0

    def __call__(self) -> float:
        return self.done

    def add(self, samples: int) -> None:
        self.done += self.call + self.sample * samples


class Paced(nn.Module):
    """dz/dt = -rate z, with the rate of each sample beside it; each evaluation is told as work."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones((), dtype=DTYPE))
        self.work = Work(1.0, 1.0)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        self.work.add(len(z))
        slope = torch.stack([-self.gain * z[:, 1] * z[:, 0], torch.zeros_like(z[:, 1])], 1)
        if slope.requires_grad:
            slope.register_hook(lambda gradient: self.work.add(len(gradient)))
        return slope


def paced(call: float, sample: float, **settings: Any) -> LatentODE:
    """A model over `Paced`, whose clock goes by the work of its field."""
    settings = {"solver": "tsit5", "rtol": 1e-3, "atol": 1e-3, **settings}
    model = latent_ode(**settings)
    model.dynamics.field = Paced()
    model.field.work = Work(call, sample)
    model.choice = CheaperWay(WAYS, clock=model.field.work)
    return model


def rates(*values: float) -> Tensor:
    """Latent states of shape (batch, 1, 2) that fall at these rates."""
    rate = torch.tensor(values, dtype=DTYPE)
    return torch.stack([torch.ones_like(rate), rate], 1).unsqueeze(1).requires_grad_()


def step(model: LatentODE, z0: Tensor, times: Tensor) -> tuple[float, bool]:
    """The work of a pass forward and backward, and whether each series went at its own pace."""
    before = model.choice.clock()
    path = model.paths(z0, times)
    path.z.square().sum().backward()
    assert model.stats is not None
    return model.choice.clock() - before, model.stats.samples is not None


# One hard series among many easy ones, against all alike: work by samples, or by calls.
HARD_AMONG_EASY = (rates(*[0.1] * 15, 20.0), torch.rand(16, 4, dtype=DTYPE))
ALIKE = (rates(*[2.0] * 4), torch.linspace(0.1, 1.0, 5, dtype=DTYPE).expand(4, -1))
SHORT_AND_LONG = (
    rates(*[8.0] * 12),
    torch.cat([torch.rand(11, 3, dtype=DTYPE) * 0.05, torch.tensor([[1.0, 8.0, 20.0]]).double()]),
)


@pytest.mark.parametrize(
    ("case", "work", "cheaper"),
    [
        (HARD_AMONG_EASY, (0.0, 1.0), "per_sample"),
        (SHORT_AND_LONG, (0.0, 1.0), "per_sample"),
        (ALIKE, (1.0, 0.0), "joint"),
        (ALIKE, (1.0, 1.0), "joint"),
    ],
    ids=["hard_among_easy", "short_and_long", "alike_by_calls", "alike"],
)
def test_it_takes_the_way_that_does_less_work(
    case: tuple[Tensor, Tensor], work: tuple[float, float], cheaper: str
) -> None:
    """What it measures is what either way takes, and what it then takes is the less of them."""
    alone = {}
    for way in WAYS:
        alone[way], apart = step(paced(*work, stepping=way), *case)
        assert apart == (way == "per_sample")
    assert min(alone, key=lambda way: alone[way]) == cheaper
    model = paced(*work, stepping="auto")
    trials = [step(model, *case) for _ in range(6)]
    assert [apart for _, apart in trials] == [False, True] * 3
    (costs,) = model.choice.costs().values()
    assert costs == pytest.approx(alone, rel=1e-9)
    for _ in range(3):
        assert step(model, *case) == (pytest.approx(alone[cheaper]), cheaper == "per_sample")


def test_the_backward_pass_counts() -> None:
    """Going back, what is dearer may be another way than forward."""
    model = paced(0.0, 1.0, stepping="auto")
    z0, times = HARD_AMONG_EASY
    with torch.no_grad():
        before = model.choice.clock()
        model.paths(z0, times)
        forward = model.choice.clock() - before
    both, _ = step(model, z0, times)
    step(model, z0, times)
    (costs,) = model.choice.costs().values()
    assert costs["joint"] == both
    assert both > 1.8 * forward


def test_batches_of_other_sizes_are_other_kinds() -> None:
    model = paced(0.0, 1.0, stepping="auto")
    for _ in range(7):
        step(model, *HARD_AMONG_EASY)
    assert step(model, *HARD_AMONG_EASY)[1]
    assert not step(model, *ALIKE)[1]  # its first trial
    z0, times = HARD_AMONG_EASY
    # Sizes are told apart to a factor of two: 9 and 15 series are of one kind, and take turns.
    assert [step(model, z0[:n], times[:n])[1] for n in (9, 15)] == [False, True]
    assert len(model.choice.costs()) == 3


@pytest.mark.parametrize("kinds", [None, 1], ids=["values", "events"])
@pytest.mark.parametrize(
    "adjoint", [None, ic.Direct(), ic.Backsolve()], ids=["kept", "direct", "back"]
)
def test_both_ways_answer_alike_so_it_does_not_matter_which_is_taken(
    kinds: int | None, adjoint: ic.Adjoint | None
) -> None:
    """The bound and its gradients of every trial, and of what follows, to the tolerance."""
    tol = 1e-8
    batch = ragged(until=1.7 if kinds else None)
    noise = noise_for(batch, samples=2)
    model = latent_ode(
        kinds=kinds, t0=0.0 if kinds else 0.4, rtol=tol, atol=tol, solver="dop853", adjoint=adjoint,
        stepping="auto",
    )  # fmt: skip

    def found() -> Tensor:
        value = model.elbo(batch, samples=2, noise=noise).value()
        gradients = torch.autograd.grad(value.sum(), list(model.parameters()), allow_unused=True)
        return torch.cat([value.detach(), *(g.flatten() for g in gradients if g is not None)])

    model.stepping = "joint"
    expected = found()
    model.stepping = "auto"
    ways = set()
    for _ in range(7):
        close(found(), expected, 3e-6)
        assert model.stats is not None
        ways.add(model.stats.samples is not None)
    assert ways == {False, True}


# --- when nothing is measured --------------------------------------------------------------------


def apart(model: LatentODE, z0: Tensor, times: Tensor, count: int = 3) -> list[bool]:
    """Of so many passes, which let each series go at its own pace."""
    ways = []
    for _ in range(count):
        model.paths(z0, times)
        assert model.stats is not None
        ways.append(model.stats.samples is not None)
    return ways


def test_the_default_is_joint_and_draws_nothing() -> None:
    assert latent_ode().stepping == "joint"
    model, batch = latent_ode(stepping="auto", solver="tsit5", rtol=1e-4), ragged()
    for _ in range(7):
        torch.manual_seed(4)
        model.elbo(batch).value().sum().backward()
        drawn = torch.rand(())
        torch.manual_seed(4)
        noise_for(batch)  # has its own generator
        torch.randn(len(batch), 1, model.latent, dtype=DTYPE)
        assert torch.equal(torch.rand(()), drawn)  # whichever way it went


def test_without_training_nothing_is_measured_and_bits_repeat() -> None:
    z0, times = HARD_AMONG_EASY
    model = paced(0.0, 1.0, stepping="auto")
    with torch.no_grad():
        assert not any(apart(model, z0, times))
    assert not any(apart(model.eval(), z0, times))
    assert not any(apart(model.train(), z0.detach(), times))  # no gradient comes back to z0
    assert model.choice.costs() == {}
    for _ in range(6):
        step(model, z0, times)
    with torch.no_grad():  # what training found out is made use of
        assert all(apart(model, z0, times))
        assert all(apart(model.eval(), z0, times))


def test_who_wants_deterministic_algorithms_gets_the_same_bits() -> None:
    model = paced(0.0, 1.0, stepping="auto")
    for _ in range(7):
        step(model, *HARD_AMONG_EASY)
    assert all(apart(model, *HARD_AMONG_EASY))
    torch.use_deterministic_algorithms(True)
    try:
        assert not any(apart(model, *HARD_AMONG_EASY))
    finally:
        torch.use_deterministic_algorithms(False)


def test_under_a_transform_it_steps_jointly() -> None:
    model = paced(0.0, 1.0, stepping="auto")
    z0, times = rates(1.0, 2.0), torch.rand(2, 3, dtype=DTYPE)
    tangent = torch.func.jvp(lambda z: model.paths(z, times).z, (z0.detach(),), (z0.detach(),))[1]
    assert bool(tangent.isfinite().all())
    assert model.choice.costs() == {}


class Mixed(nn.Module):
    """A field whose samples look at one another."""

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return z - z.mean(0)


def implicit(model: LatentODE) -> None:
    model.solver, model.dt0 = "implicitmidpoint", 0.4


def averaged(model: LatentODE) -> None:
    model.norm = "rms"


def mixing(model: LatentODE) -> None:
    model.dynamics.field = Mixed()


def interpolated(model: LatentODE) -> None:
    model.adjoint = ic.Interpolated()


@pytest.mark.parametrize("change", [implicit, averaged, mixing, interpolated])
def test_what_cannot_step_by_samples_steps_jointly_and_says_so_once(change: Any) -> None:
    model = latent_ode(stepping="auto", solver="tsit5", rtol=1e-3, atol=1e-3)
    change(model)
    batch = ragged((3, 1, 4))

    def trained(count: int) -> None:
        for _ in range(count):
            model.elbo(batch).value().sum().backward()
            assert model.stats is not None
            assert model.stats.samples is None

    trained(1)
    with pytest.warns(UserWarning, match=r'"auto" stays with "joint": .*per_sample'):
        trained(1)
    trained(3)


def test_what_is_wrong_either_way_is_an_error_without_a_warning() -> None:
    model = paced(1.0, 1.0, stepping="auto")
    model.solver = "no such method"
    for _ in range(3):
        with pytest.raises(ic.InputError, match="no such method"):
            model.paths(*ALIKE)


def test_a_stepping_that_there_is_not_is_refused() -> None:
    with pytest.raises(ic.InputError, match="one of 'joint', 'per_sample', 'auto'"):
        latent_ode(stepping="alone")
    model = paced(1.0, 1.0)
    model.stepping = "alone"
    with pytest.raises(ic.InputError, match="stepping"):
        model.paths(*ALIKE)
    with pytest.raises(ic.InputError, match="stepping"):  # it is a series model's affair
        ic.nn.ODEBlock(Mixed(), stepping="auto")(torch.ones(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("stepping", [*WAYS, "auto"])
def test_a_batch_without_any_time(stepping: str) -> None:
    """Per-sample stepping looked for the last time of each series, and there was none."""
    model = paced(1.0, 1.0, stepping=stepping)
    assert model.paths(rates(1.0, 2.0), torch.zeros(2, 0, dtype=DTYPE)).z.shape == (2, 0, 1, 2)


def test_copies_know_what_their_original_knows() -> None:
    model = latent_ode(stepping="auto", solver="tsit5", rtol=1e-3, atol=1e-3)
    batch = ragged((3, 1, 4))
    for _ in range(6):
        model.elbo(batch).value().sum().backward()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.choice.costs() == model.choice.costs()
        twin.choice.forget()
    assert model.choice.costs() != {}
