"""Settings of `isocline train cnf`, `isocline sample` and `isocline density`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..config import (
    AdjointName,
    RunConfig,
    check_at_least_one,
    check_not_negative,
    check_positive,
    check_solver,
)
from ..errors import ConfigError

__all__ = [
    "FILES",
    "POINT_SETS",
    "TABLES",
    "CnfConfig",
    "CnfSettings",
    "DensityConfig",
    "SampleConfig",
    "TrainedFlowConfig",
]

# Named here too, for the data room imports what takes its time.
POINT_SETS = ("two-circles", "two-moons", "checkerboard", "pinwheel", "8gaussians")
TABLES = ("wine", "breast-cancer")
FILES = (".npy", ".csv")

# By objective. An iteration of flow matching solves no ODE, so that more of them are at hand.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "likelihood": {"iterations": 2000, "eval_every": 100, "lr": 5e-3},
    "flow-matching": {"iterations": 20_000, "eval_every": 1000, "lr": 2e-3},
    "density": {"iterations": 2000, "eval_every": 100, "lr": 5e-3},
}
_SUBJECTS = {"data": "two-moons", "target": "u1"}
_HIDDEN = {"planar": 32, "ffjord": 64}
# A planar unit moves points by little; the paper's code gives them this long.
_PLANAR_T1 = 10.0
# The two circles lie within two units; from so narrow a base, the authors', they are learnt sooner.
_BASE_STD = {"two-circles": 0.316}


@dataclass(frozen=True)
class CnfSettings:
    """Data, field, solve and optimisation of a continuous normalizing flow."""

    data: str | None = None
    """What to learn the density of: points in the plane (two-circles, two-moons, checkerboard,
    pinwheel, 8gaussians), drawn afresh in every iteration; a table of scikit-learn's (wine,
    breast-cancer); or a file, .npy or .csv, with a sample in each row. Default: two-moons."""
    objective: Literal["likelihood", "flow-matching", "density"] = "likelihood"
    """likelihood: maximum likelihood; flow-matching: least squares on straight paths, without a
    solve; density: no data, but a density known up to a constant, see --target."""
    target: Literal["u1", "u2", "u3", "u4"] | None = None
    """Potential of the plane to match with --objective density. Default: u1."""
    field: Literal["planar", "ffjord"] = "planar"
    """planar: the paper's sum of planar units, with the weights by a hypernetwork of the time;
    ffjord: a multilayer perceptron whose layers the time gates and shifts."""
    units: int = 64
    """Planar units, M in the paper."""
    hidden: int | None = None
    """Width of the hypernetwork (planar; default 32) or of the hidden layers (ffjord; 64)."""
    depth: int = 2
    """Hidden layers of ffjord."""
    base_std: float | None = None
    """Standard deviation of the base, a normal with mean 0. Default: 1, and 0.316 for the
    two-circles."""
    t1: float | None = None
    """Time of the data; that of the base is 0. Default: 1, and 10 for planar fields unless by
    flow-matching."""
    solver: str = "tsit5"
    """Name of an adaptive solver, see `isocline solvers`."""
    tol: float = 1e-5
    """Tolerance of the solver, relative and absolute."""
    norm: Literal["rms", "max_rms"] = "rms"
    """What the tolerance holds for in training: the average over the batch (rms), or each sample
    (max_rms), in more steps. Held-out data, samples and pictures always take max_rms."""
    adjoint: AdjointName = "checkpointed"
    """How to differentiate the solve."""
    slots: int | None = None
    """States that the checkpointed adjoint keeps; 1 is the least memory. Default: all steps."""
    graph_memory: int = 1024
    """MiB up to which the checkpointed adjoint keeps the graphs of steps rather than take these
    again in the backward pass."""
    divergence: Literal["auto", "exact", "hutchinson", "hutch++"] = "auto"
    """The trace of the Jacobian in training. auto: the closed form of the planar field; otherwise
    exact up to 10 columns, and hutchinson beyond. It is exact in evaluation."""
    kinetic: float = 0.0
    """Weight of the penalty on kinetic energy, which straightens the ways of the points."""
    jacobian: float = 0.0
    """Weight of the penalty on the Jacobian's Frobenius norm."""
    coupling: Literal["independent", "optimal-transport"] = "independent"
    """Which base point goes to which data point in flow matching."""
    iterations: int | None = None
    """Iterations of the whole run. Default: 2000, and 20000 for flow-matching."""
    batch_size: int = 512
    """Points per iteration and process."""
    lr: float | None = None
    """Learning rate of Adam. Default: 0.005, and 0.002 for flow-matching."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: short warm-up, then half a cosine down to zero; constant: the warm-up alone."""
    clip: float = 5.0
    """Longest gradient: a longer one is scaled down to it. One bad batch must not make the field
    rough, which costs evaluations ever after."""
    weight_decay: float = 0.0
    """Weight decay (decoupled)."""
    noise: float = 0.0
    """Standard deviation of noise on the rows of a table in training, as a share of each
    column's own: keeps a flow from putting spikes on few rows."""
    ema: float = 0.0
    """Decay of a moving average of the weights, which then is what is measured and used; 0.999,
    for instance. 0: none."""
    eval_every: int | None = None
    """Iterations from one measurement on held-out data to the next; each is a row of metrics.csv.
    Default: 100, and 1000 for flow-matching."""
    validation_size: int = 2000
    """Held-out points (of a table at most a tenth) on which the best weights are chosen."""
    test_size: int = 10_000
    """Fresh held-out points for the result; of a table, a tenth of the rows in any case."""
    pictures: bool = True
    """Draw pictures at the end; with two columns also an animation."""


@dataclass(frozen=True)
class CnfConfig(RunConfig, CnfSettings):
    """Train a continuous normalizing flow: a density that an ODE carries from noise to data."""

    kind: ClassVar[str] = "cnf"
    free: ClassVar[frozenset[str]] = frozenset({"pictures"})

    seed: int = 0
    """Seed of the weights, the data and the noise."""
    out: Path | None = None
    """Folder of the run. Default: runs/cnf-DATA-FIELD-OBJECTIVE-SEED."""

    @property
    def title(self) -> str:
        """Field, and what it is trained on."""
        if self.objective == "density":
            return f"{self.field} CNF matched to the potential {self.target}"
        by = " by flow matching" if self.objective == "flow-matching" else ""
        return f"{self.field} CNF on {self.data}{by}"

    def defaults(self) -> dict[str, Any]:
        """Defaults by objective and field."""
        chosen = dict(_DEFAULTS[self.objective])
        chosen["hidden"] = _HIDDEN[self.field]
        long = self.field == "planar" and self.objective != "flow-matching"
        chosen["t1"] = _PLANAR_T1 if long else 1.0
        name = "target" if self.objective == "density" else "data"
        chosen[name] = getattr(self, name) or _SUBJECTS[name]
        chosen["base_std"] = _BASE_STD.get(chosen[name], 1.0)
        subject = Path(chosen[name]).stem
        folder = f"cnf-{subject}-{self.field}-{self.objective}-{self.seed}"
        chosen["out"] = Path("runs") / folder
        return chosen

    def check(self) -> None:
        """Check sizes and rates, and that data, objective and field go together."""
        check_at_least_one(
            self, "units", "hidden", "depth", "slots", "iterations", "batch_size", "eval_every",
            "validation_size", "test_size", "graph_memory",
        )  # fmt: skip
        check_positive(self, "base_std", "t1", "tol", "lr", "clip")
        check_not_negative(self, "kinetic", "jacobian", "weight_decay", "noise")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"--ema is {self.ema}, but must lie in [0, 1)")
        if self.slots is not None and self.adjoint != "checkpointed":
            raise ConfigError("--slots is a setting of --adjoint checkpointed")
        check_solver(self.solver, adaptive=True)
        self._check_data()
        if self.objective != "likelihood" and (self.kinetic or self.jacobian):
            raise ConfigError("--kinetic and --jacobian are settings of --objective likelihood")
        if self.objective != "flow-matching" and self.coupling != "independent":
            raise ConfigError(
                f"--coupling {self.coupling} is a setting of --objective flow-matching"
            )

    def _check_data(self) -> None:
        if self.objective == "density":
            if self.data is not None:
                raise ConfigError(
                    f"--data {self.data} with --objective density, which has no data; leave it "
                    "out, and name a potential with --target"
                )
            return
        if self.target is not None:
            raise ConfigError(f"--target {self.target} is for --objective density; leave it out")
        assert self.data is not None
        is_file = Path(self.data).suffix.lower() in FILES
        if not is_file and self.data not in POINT_SETS + TABLES:
            raise ConfigError(
                f"--data {self.data} is unknown; choose one of "
                f"{', '.join(sorted(POINT_SETS + TABLES))}, or a file with the suffix "
                f"{' or '.join(FILES)}"
            )
        if self.noise and self.data in POINT_SETS:
            raise ConfigError("--noise is for tables; the points of a set are fresh anyway")


@dataclass(frozen=True)
class TrainedFlowConfig:
    """Which flow to use, and how exactly."""

    checkpoint: Literal["best", "last"] = "best"
    """Which weights to use."""
    tol: float | None = None
    """Tolerance of the solver. Default: the run's own."""
    solver: str | None = None
    """Adaptive solver. Default: the run's own."""
    threads: int | None = None
    """CPU threads. Default: torch's choice."""

    def check(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: If one is wrong.
        """
        check_at_least_one(self, "threads")
        check_positive(self, "tol")
        if self.solver is not None:
            check_solver(self.solver, adaptive=True)


@dataclass(frozen=True)
class SampleConfig(TrainedFlowConfig):
    """Draw samples from a trained flow, in the units of the data."""

    out: Path = Path("samples.npy")
    """File to write, .npy or .csv; its folder must be there."""
    seed: int = 0
    """Seed of the samples."""

    def check(self) -> None:
        """Check the settings."""
        super().check()
        if self.out.suffix.lower() not in FILES:
            raise ConfigError(f"--out {self.out} must end in {' or '.join(FILES)}")


@dataclass(frozen=True)
class DensityConfig(TrainedFlowConfig):
    """Evaluate the density of a trained flow, on a grid of the plane or at given points."""

    grid: bool = False
    """On a grid: writes a picture (of a table, in standardised units), and the numbers beside it
    as .npz (in the data's units)."""
    size: int = 200
    """Pixels of the grid in each direction."""
    bounds: tuple[float, float, float, float] | None = None
    """Left, right, bottom and top of the grid. Default: those of the run's data."""
    points: Path | None = None
    """At the rows of this file, .npy or .csv, in the units of the data."""
    out: Path | None = None
    """File to write: with --grid a picture (.png, .pdf or .svg), with --points a table (.csv) or
    the log densities alone (.npy). Default: density.png or log_density.csv in the run's folder."""

    def check(self) -> None:
        """Check the settings."""
        super().check()
        if self.grid == (self.points is not None):
            given = "both" if self.grid else "neither"
            raise ConfigError(f"give one of --grid and --points FILE; here is {given}")
        check_at_least_one(self, "size")
        if self.bounds is not None:
            left, right, bottom, top = self.bounds
            if not (left < right and bottom < top):
                raise ConfigError(
                    f"--bounds {left:g} {right:g} {bottom:g} {top:g}: expected left < right and "
                    "bottom < top"
                )
        endings = (".png", ".pdf", ".svg") if self.grid else FILES
        if self.out is not None and self.out.suffix.lower() not in endings:
            raise ConfigError(f"--out {self.out} must end in {' or '.join(endings)}")
