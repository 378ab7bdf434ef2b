"""Trained flows in use: samples, densities, pictures."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from isocline.data import DataError
from isocline.train import ConfigError, DensityConfig, SampleConfig
from isocline.train.cnf import pictures
from isocline.train.cnf.density import measure_density
from isocline.train.cnf.run import train_cnf
from isocline.train.cnf.sample import sample_run
from isocline.train.cnf.trained import load_flow

from .cnf_runs import tiny_flow, write_points

FRAMES = 5


@pytest.fixture(scope="module", autouse=True)
def _coarse_pictures() -> Iterator[None]:
    """All that is drawn is there, of fewer pixels and points."""
    sizes = {"SAMPLES": 500, "FRAMES": FRAMES, "FINE": 40, "SMALL": 24, "MOVING": 16}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(pictures, name, size)
        yield


@pytest.fixture(scope="module")
def of_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow fitted to a file of two columns, with pictures."""
    folder = tmp_path_factory.mktemp("flows")
    data = write_points(folder / "points.csv", n=400)
    settings = {"iterations": 40, "eval_every": 20, "batch_size": 400, "lr": 3e-2}
    train_cnf(tiny_flow(folder / "run", data=str(data), pictures=True, ema=0.5, **settings))
    return folder / "run"


@pytest.fixture(scope="module")
def of_wine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flows") / "wine"
    train_cnf(tiny_flow(out, data="wine", pictures=True))
    return out


def test_samples_are_in_the_units_of_the_data(of_file: Path, tmp_path: Path) -> None:
    out = sample_run(of_file, 4000, SampleConfig(out=tmp_path / "samples.csv"))
    frame = pd.read_csv(out)
    assert list(frame.columns) == ["a", "b"]
    assert len(frame) == 4000
    np.testing.assert_allclose(frame.mean(), [100, -7], atol=0.5)
    np.testing.assert_allclose(frame.std(), [3.0, math.hypot(1, 0.5)], rtol=0.25)


def test_samples_follow_from_their_seed(of_file: Path, tmp_path: Path) -> None:
    def draw(name: str, seed: int) -> np.ndarray:
        return np.load(sample_run(of_file, 10, SampleConfig(out=tmp_path / name, seed=seed)))

    first = draw("a.npy", 1)
    assert first.shape == (10, 2)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, draw("b.npy", 1))
    assert not np.array_equal(first, draw("c.npy", 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "b.npy", "c.npy"]


def test_the_density_on_a_grid_has_mass_one(of_file: Path, tmp_path: Path) -> None:
    options = DensityConfig(
        grid=True, bounds=(80, 120, -13, -1), size=150, out=tmp_path / "d.png", tol=1e-5
    )
    result = measure_density(of_file, options)
    assert result.mass == pytest.approx(1, abs=2e-3)
    assert result.files == (tmp_path / "d.png", tmp_path / "d.npz")
    with Image.open(tmp_path / "d.png") as picture:
        assert min(picture.size) > 200
    with np.load(tmp_path / "d.npz") as numbers:
        assert numbers["log_density"].shape == (150, 150)
        assert numbers["bounds"].tolist() == [80, 120, -13, -1]
        # The same at the grid's points as elsewhere, the right way round.
        row, column = 60, 80
        point = torch.tensor([[numbers["x"][column], numbers["y"][row]]])
        trained, _ = load_flow(of_file, options)
        torch.testing.assert_close(
            trained.log_prob(point.float()).item(),
            numbers["log_density"][row, column].item(),
            rtol=1e-4,
            atol=1e-4,
        )


def test_the_density_at_points(of_file: Path, tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text("a,b\n100,-7\n200,-7\n")
    result = measure_density(of_file, DensityConfig(points=points, out=tmp_path / "l.csv"))
    frame = pd.read_csv(tmp_path / "l.csv")
    assert list(frame.columns) == ["a", "b", "log_density"]
    near, far = frame["log_density"]
    assert -4 < near < -1  # the normal that the data are from: -2.24
    assert far < -20
    assert result.points == 2
    assert result.log_likelihood is not None
    assert result.log_likelihood.value == pytest.approx((near + far) / 2)
    measure_density(of_file, DensityConfig(points=points, out=tmp_path / "l.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "l.npy"), [near, far], rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,c\n1,2,3\n", "3 column.s. .*, but the model is one of 2"),
        ("a,b\n1,nan\n", "NaN or infinite"),
        ("a,b\n", "empty"),
        ("a,b\n1,x\n", "are not numbers"),
    ],
)
def test_points_that_do_not_fit(of_file: Path, tmp_path: Path, content: str, message: str) -> None:
    points = tmp_path / "points.csv"
    points.write_text(content)
    with pytest.raises(DataError, match=message):
        measure_density(of_file, DensityConfig(points=points, out=tmp_path / "out.csv"))
    with pytest.raises(DataError, match="no such file"):
        measure_density(of_file, DensityConfig(points=tmp_path / "none.csv"))


def test_a_grid_needs_two_columns(of_wine: Path) -> None:
    with pytest.raises(ConfigError, match=r"flows of two columns, and this one has 13 \(alcohol"):
        measure_density(of_wine, DensityConfig(grid=True))


def test_what_cannot_be_used_is_named(of_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-n is 0, but must be at least 1"):
        sample_run(of_file, 0, SampleConfig())
    with pytest.raises(ConfigError, match="there is no folder"):
        sample_run(of_file, 1, SampleConfig(out=tmp_path / "none" / "x.npy"))
    with pytest.raises(ConfigError, match="holds no run"):
        sample_run(tmp_path, 1, SampleConfig(out=tmp_path / "x.npy"))


def test_pictures_of_a_flow_in_the_plane(of_file: Path) -> None:
    report = (of_file / "report.md").read_text()
    names = ("likelihood", "samples", "density", "trajectories", "sequence")
    for name in (*(f"{name}.png" for name in names), "flow.gif"):
        assert f"]({name})" in report
        with Image.open(of_file / name) as picture:
            assert min(picture.size) > 100, name
    with Image.open(of_file / "flow.gif") as animation:
        assert animation.n_frames == FRAMES


def test_columns_of_unlike_size_make_pictures_all_the_same(tmp_path: Path) -> None:
    """A picture has one scale for both coordinates: a thousand to one would leave a line."""
    points = np.random.default_rng(0).normal(size=(80, 2)) * [1000.0, 0.01]
    np.save(tmp_path / "points.npy", points)
    data = str(tmp_path / "points.npy")
    train_cnf(tiny_flow(tmp_path / "run", data=data, pictures=True))
    measure_density(tmp_path / "run", DensityConfig(grid=True, size=20, out=tmp_path / "d.png"))
    for path in (tmp_path / "run" / "samples.png", tmp_path / "d.png"):
        with Image.open(path) as picture:
            assert max(picture.size) < 3 * min(picture.size), path


def test_pictures_of_a_table(of_wine: Path) -> None:
    assert {path.name for path in of_wine.glob("*.png")} == {"likelihood.png", "pairs.png"}


def test_pictures_of_a_match(tmp_path: Path) -> None:
    train_cnf(tiny_flow(tmp_path, objective="density", target="u2", pictures=True))
    names = {"kl", "samples", "density", "trajectories", "sequence", "target"}
    assert {path.stem for path in tmp_path.glob("*.png")} == names


def test_a_path_begins_in_the_base_and_ends_in_the_data(of_file: Path) -> None:
    trained, _ = load_flow(of_file, SampleConfig(tol=1e-6))
    base = trained.base(50)
    start, end = trained.trajectory(base, [0.0, 1.0])
    torch.testing.assert_close(start, trained.space.restore(base))
    density = trained.log_prob(end)
    # By the base's density and the map's Jacobian, without the inverse.
    with torch.no_grad():
        flowed = trained.flow(base)
        expected = trained.flow.base_distribution().log_prob(base) - flowed.log_det
    torch.testing.assert_close(density, expected - trained.space.log_scale, rtol=1e-3, atol=1e-3)
    # At the base's own time, the density is the base's.
    torch.testing.assert_close(
        trained.log_prob(start, 0.0),
        trained.flow.base_distribution().log_prob(base) - trained.space.log_scale,
        rtol=1e-4,
        atol=1e-4,
    )
