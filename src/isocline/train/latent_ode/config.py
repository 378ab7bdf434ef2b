"""Settings of `isocline train latent-ode`."""

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
    check_solver_by_samples,
)
from ..errors import ConfigError
from ..series.config import (
    FitSettings,
    SeriesSettings,
    check_fit,
    check_series,
    kind_of_data,
    series_defaults,
    subject_of,
)

__all__ = ["LatentOdeConfig", "LatentOdeSettings", "ModelName"]

ModelName = Literal["latent-ode", "ode-rnn", "rnn", "rnn-dt", "gru-d"]

# By data. What stands here is what was measured to do well.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "spirals": {
        "latent": 4,
        "hidden": 20,
        "encoder_hidden": 25,
        "std": 0.3,
        "speed": 1.0,
        "iterations": 1500,
        "batch_size": 100,
        "lr": 1e-2,
        "eval_every": 100,
        "hide": 0.0,
        "label_weight": 0.0,
        "kl_warmup": 0,
    },
    "events": {
        "latent": 4,
        "hidden": 32,
        "encoder_hidden": 32,
        "std": 1.0,
        "speed": 1.0,
        "iterations": 1500,
        "batch_size": 50,
        "lr": 5e-3,
        "eval_every": 100,
        "hide": 0.0,
        "label_weight": 0.0,
        "kl_warmup": 200,
    },
    "physionet": {
        "latent": 16,
        "hidden": 48,
        "encoder_hidden": 32,
        "std": 0.7,
        "speed": 1.0,
        "iterations": 600,
        "batch_size": 64,
        "lr": 5e-3,
        "eval_every": 100,
        "hide": 0.2,
        "label_weight": 1.0,
        "kl_warmup": 250,
    },
    "stays": {
        "latent": 8,
        "hidden": 32,
        "encoder_hidden": 40,
        "std": 0.5,
        "speed": 1.0,
        "iterations": 1500,
        "batch_size": 100,
        "lr": 5e-3,
        "eval_every": 100,
        "hide": 0.2,
        "label_weight": 1.0,
        "kl_warmup": 200,
    },
    "signals": {
        "latent": 16,
        "hidden": 32,
        "encoder_hidden": 64,
        "std": 0.5,
        "speed": 6.0,
        "iterations": 3000,
        "batch_size": 100,
        "lr": 5e-3,
        "eval_every": 100,
        "hide": 0.0,
        "label_weight": 1.0,
        "kl_warmup": 200,
    },
}


@dataclass(frozen=True)
class LatentOdeSettings(FitSettings, SeriesSettings):
    """Data, model, solve and optimisation of a latent ODE."""

    hide: float | None = None
    """Share of the observed values of each series that is hidden from the model and asked for.
    Default: 0.2, and 0 for spirals and events."""
    windows: float | None = None
    """In training, read a random window of each series, this share of the whole time long, which
    begins at the model's time 0, and ask for all of the series. Default: read all."""
    model: ModelName = "latent-ode"
    """latent-ode; or what it is compared with, which predicts each row from those before it: rnn (a
    GRU that sees no times), rnn-dt (with the time between rows as an input), gru-d (whose state
    decays), ode-rnn (whose state follows an ODE between rows)."""
    encoder: Literal["rnn", "ode-rnn", "gru-d"] = "rnn"
    """What reads the series for a latent-ode, backwards: rnn (a GRU that sees the times between
    rows), ode-rnn or gru-d."""
    latent: int | None = None
    """Size of the latent state. Default: 8; 4 for spirals and events, 16 for physionet."""
    field: Literal["semilinear", "mlp", "mlp-time"] | None = None
    """semilinear: a linear field and a bounded nonlinear part, which goes on beyond the data as it
    did within; mlp: a perceptron with one hidden layer, the paper's; mlp-time: one with two, which
    sees the time. Default: mlp-time for events, semilinear otherwise."""
    hidden: int | None = None
    """Width of the hidden layers of field, decoder and intensity. Default: by the data."""
    encoder_hidden: int | None = None
    """Size of the hidden state of what reads the series. Default: by the data."""
    speed: float | None = None
    """About the frequencies, in radians per unit of the model's time, from which a semilinear field
    learns; see --span. Default: 1."""
    decoder: Literal["linear", "mlp"] = "linear"
    """From the latent state to the values."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """Of the values; bernoulli where they are 0 or 1."""
    std: float | None = None
    """Standard deviation of Gaussian noise, at first if it is learnt; of standardised values.
    Default: 0.3 for spirals, 0.7 for physionet, 0.5 otherwise."""
    learn_std: bool = True
    """Learn the noise of each feature."""
    events: bool = False
    """Model when things are observed, too: as a Poisson process whose intensity follows the latent
    state. With --data events in any case, where there is nothing else. Series of a file whose
    outcomes have no `until` count as watched to the latest time of all."""
    kl_warmup: int | None = None
    """Iterations over which the divergence from the prior is faded in. Default: 0 for spirals, 250
    for physionet, 200 otherwise."""
    samples: int = 1
    """Samples of the latent state for each series and iteration."""
    label_weight: float | None = None
    """Weight of the cross entropy of a classifier on the latent state, where the data have labels,
    beside the loss per observed value. 0: no classifier. Default: 1 for files, 0 for spirals."""
    head_width: int | None = None
    """Width of a hidden layer of the classifier. Default: it is linear."""
    dropout: float = 0.0
    """Share of what the classifier reads that is dropped in training."""
    solver: str = "tsit5"
    """Name of an adaptive solver, see `isocline solvers`."""
    tol: float = 1e-4
    """Tolerance of the solver, relative and absolute."""
    stepping: Literal["joint", "per_sample", "auto"] = "joint"
    """joint: one solve through the union of a batch's times; per_sample: each series through its
    own, at its own pace; auto: whichever the first iterations show to take less time. What auto
    takes depends on a clock, so its runs are not the same to the bit."""
    norm: Literal["rms", "max_rms"] | None = None
    """What the tolerance holds for in training: the average over the batch (rms), or each series
    (max_rms), in more steps. Held-out series always take max_rms. Default: rms with --stepping
    joint, the only one that has it; max_rms otherwise."""
    adjoint: AdjointName = "checkpointed"
    """How to differentiate the solve."""
    pictures: bool = True
    """Draw pictures at the end."""


@dataclass(frozen=True)
class LatentOdeConfig(RunConfig, LatentOdeSettings):
    """Fit a latent ODE to irregular time series, or a recurrent model to compare it with."""

    kind: ClassVar[str] = "latent-ode"
    free: ClassVar[frozenset[str]] = frozenset({"pictures", "path", "outcomes"})

    seed: int = 0
    """Seed of the weights, the data, their split and the noise."""
    out: Path | None = None
    """Folder of the run. Default: runs/latent-ode-DATA-MODEL-SEED."""

    @property
    def title(self) -> str:
        """Model and data."""
        return f"{self.model} on {subject_of(self.data)}"

    def defaults(self) -> dict[str, Any]:
        """Defaults by data."""
        kind = kind_of_data(self.data)
        return {
            # Files are taken to be like the simulated stays until the user knows better.
            **_DEFAULTS.get(kind, _DEFAULTS["stays"]),
            **series_defaults(self.data),
            "field": "mlp-time" if kind == "events" else "semilinear",
            "norm": "rms" if self.stepping == "joint" else "max_rms",
            "out": Path("runs") / f"latent-ode-{subject_of(self.data)}-{self.model}-{self.seed}",
        }

    def check(self) -> None:
        """Check sizes and rates, and that data and model go together."""
        check_series(self)
        check_fit(self)
        check_at_least_one(self, "latent", "hidden", "encoder_hidden", "samples", "head_width")
        check_positive(self, "std", "tol")
        check_not_negative(self, "kl_warmup", "label_weight", "speed")
        check_solver(self.solver, adaptive=True)
        self._check_stepping()
        assert self.hide is not None
        if not 0 <= self.hide < 1:
            raise ConfigError(f"--hide is {self.hide}, but must lie in [0, 1)")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"--dropout is {self.dropout}, but must lie in [0, 1)")
        if self.windows is not None and not 0 < self.windows <= 1:
            raise ConfigError(f"--windows is {self.windows}, but must lie in (0, 1]")
        if self.windows is not None and self.hide:
            raise ConfigError("--windows and --hide both choose what is read; use one of them")
        if self.data == "events":
            self._check_events()
        if self.model != "latent-ode":
            for name in ("events", "windows"):
                if getattr(self, name):
                    raise ConfigError(f"--{name} is a setting of --model latent-ode")

    @property
    def counts_events(self) -> bool:
        """Whether event times are modelled."""
        return self.events or self.data == "events"

    def _check_stepping(self) -> None:
        check_solver_by_samples(self.stepping, self.solver)
        if self.stepping == "joint":
            return
        if self.norm == "rms":
            raise ConfigError(f"--norm rms goes with --stepping joint, not {self.stepping}")
        if self.model != "latent-ode":
            raise ConfigError(f"--stepping {self.stepping} is a setting of --model latent-ode")

    def _check_events(self) -> None:
        if self.model != "latent-ode":
            raise ConfigError("--data events is for --model latent-ode: others need values")
        if self.encoder == "gru-d":
            raise ConfigError("--encoder gru-d needs values, and events have none")
        if self.hide:
            raise ConfigError("--hide is for values, and events have none")
