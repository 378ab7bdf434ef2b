"""Settings of flows: defaults, checks, JSON; and where their batches come from."""

import json
import math
from pathlib import Path

import pytest
import torch

from isocline.data import POTENTIALS, TOY2D, builtin_table, log_normalizer
from isocline.train import CnfConfig, ConfigError, DensityConfig, SampleConfig
from isocline.train.cnf.config import POINT_SETS, TABLES
from isocline.train.cnf.flow import build_flow
from isocline.train.cnf.measure import mean_of
from isocline.train.cnf.module import CnfModule
from isocline.train.cnf.objectives import make_objective
from isocline.train.cnf.sources import make_source
from isocline.train.cnf.space import Space
from isocline.train.schedule import learning_rate_factor
from isocline.train.stream import Stream

from .cnf_runs import tiny_flow, write_points


def test_defaults_depend_on_objective_and_field() -> None:
    planar = CnfConfig().resolved()
    assert (planar.data, planar.target, planar.t1, planar.hidden) == ("two-moons", None, 10.0, 32)
    assert (planar.iterations, planar.eval_every, planar.lr) == (2000, 100, 5e-3)
    assert planar.out == Path("runs/cnf-two-moons-planar-likelihood-0")
    assert (planar.base_std, CnfConfig(data="two-circles").resolved().base_std) == (1.0, 0.316)
    ffjord = CnfConfig(field="ffjord", data="a/b.csv").resolved()
    assert (ffjord.t1, ffjord.hidden) == (1.0, 64)
    assert ffjord.out == Path("runs/cnf-b-ffjord-likelihood-0")
    matching = CnfConfig(objective="flow-matching").resolved()
    assert (matching.t1, matching.iterations, matching.eval_every) == (1.0, 20_000, 1000)
    density = CnfConfig(objective="density").resolved()
    assert (density.data, density.target, density.t1) == (None, "u1", 10.0)
    assert density.resolved() == density


def test_titles_say_what_is_trained() -> None:
    assert CnfConfig().resolved().title == "planar CNF on two-moons"
    matching = CnfConfig(objective="flow-matching", field="ffjord", data="wine").resolved()
    assert matching.title == "ffjord CNF on wine by flow matching"
    density = CnfConfig(objective="density", target="u2").resolved()
    assert density.title == "planar CNF matched to the potential u2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "moons"}, "--data moons is unknown; choose one of 8gaussians, .* or a file"),
        ({"field": "mlp"}, "--field mlp is unknown; choose one of ffjord, planar"),
        ({"objective": "density", "data": "wine"}, "--data wine with --objective density"),
        ({"target": "u1"}, "--target u1 is for --objective density"),
        ({"units": 0}, "--units is 0, but must be at least 1"),
        ({"iterations": 0}, "--iterations is 0"),
        ({"tol": 0.0}, "--tol is 0.0, but must be positive"),
        ({"lr": math.inf}, "--lr is inf"),
        ({"kinetic": -1.0}, "--kinetic is -1.0, but must be at least 0"),
        ({"kinetic": math.nan}, "--kinetic is nan"),
        ({"ema": 1.0}, r"--ema is 1.0, but must lie in \[0, 1\)"),
        ({"solver": "rk4"}, "--solver rk4 is not an adaptive solver"),
        ({"noise": 0.1}, "--noise is for tables"),
        ({"kinetic": 0.1, "objective": "density"}, "settings of --objective likelihood"),
        ({"coupling": "optimal-transport"}, "a setting of --objective flow-matching"),
        ({"slots": 2, "adjoint": "direct"}, "--slots is a setting of --adjoint checkpointed"),
        ({"devices": 0}, "--devices is 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CnfConfig(**settings).resolved()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DensityConfig(), "give one of --grid and --points FILE; here is neither"),
        (DensityConfig(grid=True, points=Path("x.csv")), "here is both"),
        (DensityConfig(grid=True, size=0), "--size is 0"),
        (DensityConfig(grid=True, bounds=(1, 0, 0, 1)), "expected left < right"),
        (DensityConfig(grid=True, out=Path("x.csv")), "--out x.csv must end in .png"),
        (DensityConfig(points=Path("x.npy"), out=Path("x.png")), "must end in .npy or .csv"),
        (DensityConfig(grid=True, tol=-1.0), "--tol is -1.0"),
        (SampleConfig(out=Path("x.txt")), "--out x.txt must end in .npy or .csv"),
        (SampleConfig(solver="euler"), "--solver euler is not an adaptive solver"),
        (SampleConfig(threads=0), "--threads is 0"),
    ],
)
def test_wrong_options_are_named(options: DensityConfig | SampleConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options.check()


def test_settings_go_through_json() -> None:
    config = CnfConfig(out=Path("a/b"), data="c.npy", slots=3).resolved()
    values = json.loads(json.dumps(config.to_dict()))
    assert values["kind"] == "cnf"
    assert CnfConfig.from_dict(values) == config


def test_the_names_of_data_are_those_of_the_data() -> None:
    """They are written down twice, so that settings need not import the data."""
    assert set(POINT_SETS) == set(TOY2D)
    for name in TABLES:
        assert builtin_table(name).width > 2
    assert set(POTENTIALS) == {"u1", "u2", "u3", "u4"}


def test_batches_follow_from_seed_iteration_and_process(tmp_path: Path) -> None:
    source = make_source(tiny_flow(tmp_path).resolved())
    assert torch.equal(source.draw(3, 0, 1), source.draw(3, 0, 1))
    other = make_source(tiny_flow(tmp_path, seed=1).resolved())
    for batch in (source.draw(4, 0, 1), source.draw(3, 1, 2), other.draw(3, 0, 1)):
        assert not torch.equal(source.draw(3, 0, 1), batch)
    assert not torch.equal(source.validation[:50], source.test[:50])


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_pass_over_a_table_takes_each_row_once(tmp_path: Path, world_size: int) -> None:
    source = make_source(tiny_flow(tmp_path, data="wine", batch_size=71).resolved())
    assert source.rows == 142
    batches = [
        source.draw(iteration, rank, world_size)
        for iteration in range(2 // world_size)
        for rank in range(world_size)
    ]
    rows = torch.cat(batches)
    assert len(torch.unique(rows, dim=0)) == len(rows) == 142
    following = source.draw(2 // world_size, 0, world_size)
    assert not torch.equal(following, batches[0])


def test_a_small_table_is_one_batch(tmp_path: Path) -> None:
    source = make_source(tiny_flow(tmp_path, data="wine", batch_size=512).resolved())
    assert source.draw(5, 0, 1).shape == (142, 13)
    noisy = make_source(tiny_flow(tmp_path, data="wine", batch_size=512, noise=0.5).resolved())
    moved = noisy.draw(5, 0, 1) - source.draw(5, 0, 1)
    assert moved.std().item() == pytest.approx(0.5, rel=0.1)


def test_a_space_goes_through_a_checkpoint(tmp_path: Path) -> None:
    data = write_points(tmp_path / "points.csv")
    space = make_source(tiny_flow(tmp_path, data=str(data)).resolved()).space
    again = Space.from_dict(json.loads(json.dumps(space.to_dict())))
    assert (again.columns, again.bounds, again.log_scale) == (
        ("a", "b"),
        space.bounds,
        space.log_scale,
    )
    points = torch.tensor([[101.0, -6.0]])
    torch.testing.assert_close(again.restore(again.standardise(points)), points)
    assert again.bounds is not None
    left, right, bottom, top = again.bounds
    assert left < 100 < right
    assert bottom < -7 < top


def test_a_stream_starts_in_the_middle() -> None:
    def number(iteration: int) -> torch.Tensor:
        return torch.tensor(iteration)

    stream = Stream(number, first=10, length=4)
    iterator = iter(stream)
    assert [int(next(iterator)) for _ in range(2)] == [10, 11]
    other = Stream(number, first=10, length=4)
    other.load_state_dict(stream.state_dict())
    assert [int(batch) for batch in other] == [12, 13]
    assert [int(batch) for batch in other] == [10, 11, 12, 13]


def test_the_divergence_is_chosen_by_field_and_width() -> None:
    def name(features: int, **settings: object) -> str:
        config = CnfConfig(**settings).resolved()  # type: ignore[arg-type]
        return type(build_flow(config, features).divergence).__name__

    assert name(30) == "ClosedForm"
    assert name(2, field="ffjord") == "ExactDivergence"
    assert name(30, field="ffjord") == "Hutchinson"
    assert name(2, jacobian=0.1) == "ExactDivergence"
    assert name(2, divergence="hutch++") == "HutchPlusPlus"


def test_the_loss_of_density_matching_is_the_divergence_itself(tmp_path: Path) -> None:
    """An untrained flow of no units in effect is its base: KL(N || u1) by quadrature."""
    config = tiny_flow(tmp_path, objective="density", base_std=1.3).resolved()
    source = make_source(config)
    objective = make_objective(config, source.potential)
    flow = build_flow(config, 2)
    for parameter in flow.parameters():
        torch.nn.init.zeros_(parameter)
    found = mean_of(objective.score(flow, torch.empty(20_000, 0)).detach())
    potential = POTENTIALS["u1"]
    axis = torch.linspace(-9, 9, 601, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    log_q = torch.distributions.Normal(0.0, 1.3).log_prob(grid).sum(-1)
    expected = (log_q.exp() * (log_q - potential.log_density(grid))).sum() * 0.03**2
    expected += log_normalizer(potential)
    assert found.value == pytest.approx(float(expected), abs=5 * found.error)


def test_a_module_with_an_average_optimises_its_own_weights_alone(tmp_path: Path) -> None:
    config = tiny_flow(tmp_path, ema=0.9).resolved()
    module = CnfModule(config.to_dict(), make_source(config).space.to_dict())
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    assert trained
    assert all(name.startswith("flow.") for name in trained)


def test_a_constant_rate_warms_up() -> None:
    factors = [learning_rate_factor(step, 100, "constant") for step in (0, 4, 5, 99)]
    assert factors == pytest.approx([0.2, 1, 1, 1])
