"""The spirals of the paper's Table 2: latent ODE and RNN, inside of what was observed and beyond.

1000 spirals to learn from, of which 30, 50 or 100 points of a turn are seen through noise; nothing
beyond that turn is ever shown. Then, on 1000 others: the root mean squared distance from the truth
for each coordinate, inside of the turn and on the next 10, 25, 50 and 100 points. The weights are
the last, so that nothing is chosen by what is reported.

    python examples/table2.py --out runs/table2 [--seeds 0 1 2] [--models latent-ode rnn-grid]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from fitting import fit
from keep import Result, kept, load_into
from torch import Tensor

from isocline import nn
from isocline.data import IrregularBatch, Spirals, spirals
from isocline.nn.series.rows import merge_times

TURN = 2.0 * math.pi  # of the model's time: a spiral turns by one radian in its unit
POINTS, BEYOND = 100, (10, 25, 50, 100)
OBSERVED = (30, 50, 100)
BATCH = 100
LATENT = 4

Model = nn.LatentODE | nn.RecurrentForecaster


def latent_ode(field: torch.nn.Module, decoder: torch.nn.Module) -> nn.LatentODE:
    """A GRU with 25 units that sees the times, backwards; noise that is learnt."""
    encoder = nn.RecurrentEncoder(nn.RNN(2, 25, unit=1 / 3), LATENT)
    noise = nn.Gaussian(2, std=0.3, learn=True)
    return nn.LatentODE(encoder, field, decoder, noise, rtol=1e-5, atol=1e-5, norm="rms")


def perceptron() -> torch.nn.Sequential:
    """The paper's decoder."""
    return torch.nn.Sequential(torch.nn.Linear(LATENT, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))


def forecaster(*, time: bool = False, mask: bool = False) -> nn.RecurrentForecaster:
    """The paper's RNN: 25 units, Gaussian likelihood."""
    recurrence = nn.RNN(2, 25, "rnn", time=time, mask=mask, unit=1 / 3)
    return nn.RecurrentForecaster(recurrence, nn.Gaussian(2, std=0.3, learn=True))


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A row of the table.

    Attributes:
        title: for the table.
        make: makes the model.
        rate: learning rate, from which half a cosine goes to zero.
        grid: whether the RNN steps over all 100 times of the turn and reads its own prediction
            where nothing was observed, in training too.
        iterations: of Adam.
    """

    title: str
    make: Callable[[], Model]
    rate: float = 0.01
    grid: bool = False
    iterations: int = 1500


def mlp_field() -> torch.nn.Module:
    """The paper's field."""
    return nn.MLPField(LATENT, 20, 1, "elu", time=False)


ENTRANTS = {
    "latent-ode": Entrant(
        "latent ODE",
        lambda: latent_ode(nn.SemilinearField(LATENT, 20, speed=1.0), torch.nn.Linear(LATENT, 2)),
    ),
    "rnn": Entrant("RNN", forecaster, iterations=2500),
    "rnn-slow": Entrant("RNN, rate 0.003", forecaster, rate=0.003, iterations=2500),
    "rnn-dt": Entrant("RNN with time differences", lambda: forecaster(time=True), iterations=2500),
    "rnn-grid": Entrant(
        "RNN on the grid", lambda: forecaster(mask=True), grid=True, iterations=2500
    ),
    "rnn-grid-slow": Entrant(
        "RNN on the grid, rate 0.003",
        lambda: forecaster(mask=True),
        rate=0.003,
        grid=True,
        iterations=2500,
    ),
    "paper": Entrant(
        "latent ODE, the paper's field and decoder", lambda: latent_ode(mlp_field(), perceptron())
    ),
    "paper-field": Entrant(
        "latent ODE, the paper's field, linear decoder",
        lambda: latent_ode(mlp_field(), torch.nn.Linear(LATENT, 2)),
    ),
    "linear": Entrant(
        "latent ODE, linear field and decoder",
        lambda: latent_ode(nn.SemilinearField(LATENT, 0, speed=1.0), torch.nn.Linear(LATENT, 2)),
    ),
}


def observed_of(data: Spirals, observed: int) -> IrregularBatch:
    """What is seen, in the model's time."""
    batch = data.series(observed).batch()
    return dataclasses.replace(batch, times=TURN * batch.times)


def train(entrant: Entrant, observed: int, seed: int) -> tuple[Model, Result]:
    """Fit to 1000 spirals and measure on 1000 others."""
    torch.manual_seed(seed)
    seen = observed_of(spirals(1000, seed=10 + seed), observed)
    test = spirals(1000, seed=1010 + seed)
    model = entrant.make()
    grid = TURN * test.times[:POINTS]

    def loss() -> Tensor:
        batch = seen[torch.randint(len(seen), (BATCH,))]
        if isinstance(model, nn.LatentODE):
            value = model.elbo(batch).value()
        else:
            rows = merge_times(batch, grid.expand(BATCH, -1))[0] if entrant.grid else batch
            value = model.log_likelihood(rows)
        return -value.sum() / batch.mask.sum()

    title = f"{entrant.title}, {observed} points, seed {seed}"
    began = time.process_time()
    for _ in fit(model, loss, entrant.iterations, entrant.rate, title, clip=1.0):
        pass
    seconds = time.process_time() - began
    errors = measure(model, entrant, test, observed)
    nfe = model.nfe_forward if isinstance(model, nn.LatentODE) else 0
    noise = model.likelihood.std.tolist()
    return model, {"seconds": seconds, "nfe": nfe, "noise": noise, **errors}


def predict(model: Model, entrant: Entrant, test: Spirals, observed: int) -> Tensor:
    """The path of each test spiral, (spirals, 200, 2); NaN inside where an RNN says nothing."""
    batch, times = observed_of(test, observed), TURN * test.times
    with torch.no_grad():
        if isinstance(model, nn.LatentODE) or entrant.grid or observed == POINTS:
            return model.predict(batch, times).mean
        # It knows observations alone: steps in between would be steps of another kind.
        beyond = model.predict(batch, times[POINTS:]).mean
    return torch.cat([torch.full_like(test.clean[:, :POINTS], torch.nan), beyond], 1)


def measure(model: Model, entrant: Entrant, test: Spirals, observed: int) -> dict[str, float]:
    """Root mean squared errors for each coordinate."""
    model.eval()
    squared = (predict(model, entrant, test, observed) - test.clean).square()
    found = {"inside": squared[:, :POINTS]}
    found |= {str(ahead): squared[:, POINTS : POINTS + ahead] for ahead in BEYOND}
    return {name: part.mean().sqrt().item() for name, part in found.items()}


def table(results: dict[tuple[str, int], list[Result]]) -> str:
    """Mean over seeds, and half the distance between the extremes."""
    columns = ("inside", *map(str, BEYOND))
    lines = [
        "| points seen | model | seeds | " + " | ".join(columns) + " | s |",
        "| --- " * (len(columns) + 4) + "|",
    ]
    for (name, observed), found in sorted(results.items(), key=lambda item: item[0][1]):
        cells = []
        for column in columns:
            values = [one[column] for one in found]
            mean, half = statistics.fmean(values), (max(values) - min(values)) / 2
            cells.append("–" if math.isnan(mean) else f"{mean:.3f} ± {half:.3f}")
        seconds = statistics.fmean(one["seconds"] for one in found)
        lines.append(
            f"| {observed} | {ENTRANTS[name].title} | {len(found)} | "
            + " | ".join(cells)
            + f" | {seconds:.0f} |"
        )
    return "\n".join(lines)


def draw(target: Callable[[str, int], Path], file: Path) -> None:
    """Four spirals of which 30 points were seen, continued by the latent ODE and the best RNN."""
    test, observed = spirals(1000, seed=1010), 30
    batch = observed_of(test, observed)
    drawn = {}
    for name in ("latent-ode", "rnn-grid"):
        model = load_into(ENTRANTS[name].make(), target(name, observed))
        drawn[name] = predict(model, ENTRANTS[name], test, observed)
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.2), layout="constrained")
    for row, (name, path) in zip(axes, drawn.items(), strict=True):
        for index, axis in enumerate(row):
            axis.plot(*test.clean[index].T, color="0.8", lw=3, label="truth")
            axis.plot(*batch.values[index].T, "o", ms=3, color="black", label="seen")
            axis.plot(*path[index, :POINTS].T, color="C0", lw=1.2, label="inside")
            axis.plot(*path[index, POINTS - 1 :].T, color="C3", lw=1.2, ls="--", label="beyond")
            axis.set_aspect("equal")
            axis.set_xlim(-2.6, 2.6)
            axis.set_ylim(-2.6, 2.6)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(ENTRANTS[name].title)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Train what is not there yet, print the table, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--observed", type=int, nargs="+", default=OBSERVED)
    parser.add_argument("--models", nargs="+", choices=ENTRANTS, default=tuple(ENTRANTS))
    parser.add_argument("--out", type=Path, default=Path("runs/table2"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = run(options.models, options.observed, options.seeds, options.out)
    print(table(results))
    if {"latent-ode", "rnn-grid"} <= set(options.models) and 30 in options.observed:
        seed = options.seeds[0]
        draw(lambda name, seen: options.out / f"{name}-{seen}-{seed}", options.out / "spirals.png")


def run(
    models: Sequence[str], observed: Sequence[int], seeds: Sequence[int], out: Path
) -> dict[tuple[str, int], list[Result]]:
    """All results, in the order of seeds; those that are there are read."""
    results: dict[tuple[str, int], list[Result]] = {}
    for seed in seeds:
        for name in models:
            for seen in observed:
                if ENTRANTS[name].grid and seen == POINTS:
                    continue  # with all points seen the grid adds nothing
                one = kept(
                    out / f"{name}-{seen}-{seed}",
                    lambda name=name, seen=seen, seed=seed: train(ENTRANTS[name], seen, seed),
                )
                results.setdefault((name, seen), []).append(one)
    return results


if __name__ == "__main__":
    main()
