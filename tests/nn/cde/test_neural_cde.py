"""NeuralCDE: against a solve by hand, independence within a batch, gradients, states, bad input."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.errors import InputError
from isocline.irregular import IrregularBatch
from isocline.nn.cde import CDEField, NeuralCDE, PathName, hermite

from .cde_cases import ragged

DTYPE = torch.float64
FINE = {"row_steps": 32}
TOLERANCE = {"row_steps": None, "rtol": 1e-10, "atol": 1e-10}
PATHS: list[PathName] = ["hermite", "natural_cubic", "linear"]
CURVED = PATHS[:2]


def model(path: PathName = "hermite", **settings: object) -> NeuralCDE:
    torch.manual_seed(1)
    field = CDEField(4, settings.pop("channels", 3), width=8)
    return NeuralCDE(2, 4, 3, field=field, path=path, **settings).to(DTYPE)


def agrees(given: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(given, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("settings", [FINE, TOLERANCE])
def test_solves_the_controlled_equation_in_the_series_own_time(settings: dict[str, object]) -> None:
    batch = ragged((5,), observed=1.0)
    cde = model(**settings)
    path = hermite(batch)

    def rate(t: Tensor, z: Tensor) -> Tensor:
        return torch.einsum("bhc,bc->bh", cde.field(z), path.derivative(t))

    start, end = float(path.start), float(path.end)
    z1 = ic.solve(rate, cde.initial(path.at(path.start)), start, end, rtol=1e-10, atol=1e-10).ys[-1]
    agrees(cde(batch), cde.readout(z1), 1e-5)


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[0.5, 1.0, -2.0], [0.0, 3.0, 1.0]], dtype=DTYPE))

    def forward(self, z: Tensor) -> Tensor:
        return self.matrix.expand(len(z), 2, 3)


@pytest.mark.parametrize("path", PATHS)
def test_a_constant_field_adds_up_the_increments(path: PathName) -> None:
    batch = ragged(observed=1.0)
    cde = NeuralCDE(2, 2, 1, field=Constant(), path=path).to(DTYPE)
    first = torch.cat([batch.times[:, :1], batch.values[:, 0]], 1)
    row = (torch.arange(len(batch)), batch.lengths - 1)
    last = torch.cat([batch.times[row].unsqueeze(1), batch.values[row]], 1)
    z1 = cde.initial(first) + (last - first) @ cde.field.matrix.T
    # One step of order 3 for each piece adds up a cubic exactly.
    agrees(cde(batch), cde.readout(z1), 1e-12)


@pytest.mark.parametrize(
    ("path", "settings"), [*((path, {}) for path in PATHS), ("natural_cubic", TOLERANCE)]
)
def test_a_series_is_not_touched_by_the_others(path: PathName, settings: dict[str, object]) -> None:
    batch = ragged((4, 1, 5, 0, 3))
    cde = model(path, **settings)
    tolerance = 1e-8 if settings else 1e-14
    with torch.no_grad():
        together = cde(batch)
        for series in range(len(batch)):
            agrees(cde(batch[[series]])[0], together[series], tolerance)
        order = [3, 0, 4, 2, 1]
        agrees(cde(batch[order]), together[order], tolerance)


def test_series_without_rows_or_with_one_stay_at_their_start() -> None:
    cde = model()
    with torch.no_grad():
        batch = ragged((0, 1, 4), observed=1.0)
        answer = cde(batch)
        z0 = cde.initial(torch.zeros(1, 3, dtype=DTYPE))
        agrees(answer[:1], cde.readout(z0))
        start = torch.cat([batch.times[1, :1], batch.values[1, 0]])
        agrees(answer[1], cde.readout(cde.initial(start)))
        nothing = ragged((0, 0))
        assert nothing.rows == 0
        agrees(cde(nothing), cde.readout(z0).expand(2, -1))
        states = cde.states(nothing, torch.tensor([0.0, 1.0], dtype=DTYPE))
        agrees(states, z0.expand(2, 2, -1))


def test_the_answer_does_not_depend_on_the_clock_without_a_time_channel() -> None:
    batch = ragged((5, 4), observed=1.0)
    cde = model("linear", channels=2, time=False)
    stretched = IrregularBatch(40 + 9 * batch.times**2, batch.values, batch.mask, batch.lengths)
    with torch.no_grad():
        agrees(cde(batch), cde(stretched), 1e-8)
        with_time = model("linear")
        assert float((with_time(batch) - with_time(stretched)).abs().max()) > 1e-2


@pytest.mark.parametrize("settings", [{"row_steps": 8}, TOLERANCE | {"rtol": 1e-7, "atol": 1e-7}])
def test_states_at_the_times_of_each_series(settings: dict[str, object]) -> None:
    batch = ragged((4, 0, 5, 1))
    cde = model(**settings)
    with torch.no_grad():
        found = cde.states(batch, batch.times[:, :3])
        assert found.shape == (4, 3, 4)
        shared = torch.tensor([2.0, -1.0, 0.4, 2.0], dtype=DTYPE)
        states = cde.states(batch, shared)
        start = cde.initial(hermite(batch).initial)
        agrees(states[:, 0], states[:, 3])
        agrees(cde.readout(states[:, 0]), cde(batch), 1e-4)
        agrees(states[:, 1], start)
        agrees(found[:, 0], start)
        agrees(cde.states(batch[[2]], shared)[0], states[2], 1e-4)
        assert cde.states(batch, shared[:0]).shape == (4, 0, 4)


def test_states_between_rows_by_either_way_of_stepping() -> None:
    batch = ragged((4, 5))
    times = torch.rand(2, 7, dtype=DTYPE)
    with torch.no_grad():
        one = model(row_steps=8).states(batch, times)
        two = model(**TOLERANCE).states(batch, times)
    agrees(one, two, 1e-4)


def test_hermite_states_do_not_know_what_is_observed_later() -> None:
    batch = ragged((8,), observed=1.0)
    changed = batch.values.clone()
    changed[:, 5:] += 3.0
    other = IrregularBatch(batch.times, changed, batch.mask, batch.lengths)
    until = batch.times[:, :5]
    with torch.no_grad():
        cde = model()
        assert torch.equal(cde.states(other, until), cde.states(batch, until))
        natural = model("natural_cubic")
        apart = natural.states(other, until) - natural.states(batch, until)
    assert float(apart.abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("hermite", {}),
        ("natural_cubic", {"intensity": True}),
        ("natural_cubic", {"row_steps": None, "solver": "rk4", "dt0": 0.2}),
    ],
)
def test_gradients_against_finite_differences(path: PathName, settings: dict[str, object]) -> None:
    batch = ragged((3, 2), observed=0.8)
    cde = NeuralCDE(2, 2, 1, path=path, **settings)
    cde.field = CDEField(2, cde.initial.in_features, width=3)
    cde.to(DTYPE)
    names = [name for name, _ in cde.named_parameters()]

    def answer(times: Tensor, values: Tensor, *parameters: Tensor) -> Tensor:
        given = IrregularBatch(times, values, batch.mask, batch.lengths)
        return torch.func.functional_call(cde, dict(zip(names, parameters, strict=True)), (given,))

    leaves = [batch.times, batch.values, *(p.detach() for p in cde.parameters())]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(answer, leaves, fast_mode=True)


@pytest.mark.parametrize("adjoint", [ic.Direct(), ic.Checkpointed(slots=1), ic.Backsolve()])
def test_adjoints_agree(adjoint: object) -> None:
    batch = ragged((5, 3))
    gradients = []
    settings = {"row_steps": None, "rtol": 1e-6, "atol": 1e-6}
    for choice in (None, adjoint):
        cde = model(adjoint=choice, **settings)
        values = batch.values.clone().requires_grad_()
        cde(
            IrregularBatch(batch.times, values, batch.mask, batch.lengths)
        ).square().sum().backward()
        gradients.append([values.grad, *(p.grad for p in cde.parameters())])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3)


def test_float64_times_with_float32_values_and_weights() -> None:
    cde = NeuralCDE(2, 4, 1)
    batch = ragged((5, 3), dtype=torch.float32)
    fine = IrregularBatch(batch.times.double(), batch.values, batch.mask, batch.lengths)
    assert cde(fine).dtype == torch.float32
    torch.testing.assert_close(cde(fine), cde(batch), rtol=1e-4, atol=1e-4)


def test_copies_and_counts() -> None:
    cde = model()
    answer = cde(ragged())
    assert cde.nfe_forward > 0
    other = copy.deepcopy(cde)
    assert other.stats is None
    assert torch.equal(other(ragged()), answer)
    assert "path='hermite', solver='bosh3', row_steps=1" in repr(cde)
    assert "solver='tsit5', rtol=0.0001" in repr(model(row_steps=None))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="`path`: given 'cubic'; expected one of hermite"):
        NeuralCDE(2, 4, 1, path="cubic")
    with pytest.raises(InputError, match="`hidden`"):
        NeuralCDE(2, 0, 1)
    with pytest.raises(InputError, match="`features`"):
        NeuralCDE(0, 4, 1, time=False)
    with pytest.raises(InputError, match="`row_steps`"):
        NeuralCDE(2, 4, 1, row_steps=0)
    with pytest.raises(InputError, match="`width`"):
        CDEField(4, 3, width=0)
    with pytest.raises(InputError, match="given 2 features; expected 5"):
        NeuralCDE(5, 4, 1)(ragged(dtype=torch.float32))
    with pytest.raises(InputError, match=r"`times`.*\(4, times\)"):
        model().states(ragged(), torch.zeros(3, 2))


@pytest.mark.parametrize("solver", ["euler", "midpoint", "ralston", "bosh3"])
def test_steps_on_rows_converge_at_the_order_of_the_method(solver: str) -> None:
    batch = ragged((5, 3))
    cde = model(solver=solver)
    errors = []
    with torch.no_grad():
        exact = model(row_steps=128)(batch)
        for cde.row_steps in (16, 32):
            errors.append(float((cde(batch) - exact).abs().max()))
    order = {"euler": 1, "midpoint": 2, "ralston": 2, "bosh3": 3}[solver]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("solver", ["rk4", "heun", "tsit5", "dopri5", "dop853"])
def test_methods_that_look_at_the_end_of_a_step_are_refused_on_rows(solver: str) -> None:
    with pytest.raises(InputError, match="bosh3"):
        NeuralCDE(2, 4, 1, solver=solver)
    cde = NeuralCDE(2, 4, 1, row_steps=None, solver=solver)
    cde.row_steps = 1
    with pytest.raises(InputError, match="row_steps=None"):
        cde(ragged(dtype=torch.float32))


def test_events_without_features_have_a_path_of_times() -> None:
    batch = IrregularBatch.collate([torch.tensor([0.0, 0.3, 0.9]), torch.tensor([0.5])])
    assert NeuralCDE(0, 4, 2)(batch).shape == (2, 2)


def _spirals(number: int, points: int, seed: int) -> tuple[IrregularBatch, Tensor]:
    """Noisy spirals out from the origin, half of them mirrored, each seen at its own times."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(number, points, generator=generator).sort(1).values
    angle = 6.28 * (times + torch.rand(number, 1, generator=generator))
    label = torch.arange(number) % 2
    radius = 0.5 + 0.1 * angle
    x, y = radius * angle.cos(), radius * angle.sin() * (1 - 2 * label[:, None])
    values = torch.stack([x, y], -1)
    values += 0.1 * torch.randn(values.shape, generator=generator)
    return IrregularBatch.collate(list(times), list(values)), label


def test_learns_which_way_spirals_turn() -> None:
    torch.manual_seed(0)
    cde = NeuralCDE(2, 8, 1, field=CDEField(8, 3, width=16))
    optimizer = torch.optim.Adam(cde.parameters(), lr=0.02)
    batch, label = _spirals(32, 12, seed=0)
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(cde(batch)[:, 0], label.float())
        loss.backward()
        optimizer.step()
    unseen, truth = _spirals(64, 12, seed=1)
    with torch.no_grad():
        right = ((cde(unseen)[:, 0] > 0) == truth.bool()).float().mean()
    assert right > 0.9
