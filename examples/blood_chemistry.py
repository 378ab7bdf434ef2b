"""A density over real measurements: blood chemistry of intensive-care patients, in ten dimensions.

Ten laboratory values taken at one time, from PhysioNet 2012 set A (`set-a.npz`, long form). A flow
trained by flow matching is compared, on patients that no model has seen, with a Gaussian mixture
and a kernel density whose sizes are chosen on other patients held out for that.

    python examples/blood_chemistry.py path/to/set-a.npz --out runs/chemistry
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from keep import Result, kept
from rich.progress import track
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import Tensor

from isocline import nn

# What is measured, and to what precision it is written down.
PRECISION = {
    "BUN": 1.0, "Creatinine": 0.1, "Glucose": 1.0, "HCO3": 1.0, "Na": 1.0,
    "K": 0.1, "Mg": 0.1, "HCT": 0.1, "Platelets": 1.0, "WBC": 0.1,
}  # fmt: skip
ITERATIONS = 8000
Split = dict[str, Tensor]


def panels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All complete panels, shape (n, 10), and the stay that each belongs to."""
    with np.load(path) as stored:
        names = stored["variable_names"][stored["variable"]]
        rows = pd.DataFrame(
            {
                "stay": stored["record"],
                "minute": stored["minute"],
                "name": names,
                "value": stored["value"].astype(float),
            }
        )
    rows = rows[rows.name.isin(list(PRECISION))]
    table = rows.pivot_table(index=["stay", "minute"], columns="name", values="value").dropna()
    return table[list(PRECISION)].to_numpy(), table.index.get_level_values("stay").to_numpy()


def split(values: np.ndarray, stays: np.ndarray, seed: int) -> Split:
    """Training, validation and test parts of different stays, as standardised logarithms."""
    random = np.random.default_rng(seed)
    # A rounded number has no density: give back, at random, what rounding took away.
    steps = np.array(list(PRECISION.values()))
    exact = values + steps * random.uniform(-0.5, 0.5, values.shape)
    logs = np.log(np.maximum(exact, steps / 4))
    order = random.permutation(np.unique(stays))
    first, second = int(0.8 * len(order)), int(0.9 * len(order))
    chosen = {"train": order[:first], "validation": order[first:second], "test": order[second:]}
    parts = {name: logs[np.isin(stays, some)] for name, some in chosen.items()}
    mean, deviation = parts["train"].mean(0), parts["train"].std(0)
    return {name: torch.tensor((part - mean) / deviation).float() for name, part in parts.items()}


def mixtures(parts: Split) -> Iterator[tuple[str, GaussianMixture]]:
    """Gaussian mixtures of several sizes."""
    for components in (1, 2, 4, 6, 8, 12, 16, 24):
        model = GaussianMixture(components, random_state=0, reg_covar=1e-3)
        yield f"{components} components", model.fit(parts["train"].numpy())


def kernels(parts: Split) -> Iterator[tuple[str, KernelDensity]]:
    """Kernel densities of several widths."""
    for width in np.geomspace(0.2, 1.0, 12):
        yield f"width {width:.2f}", KernelDensity(bandwidth=width).fit(parts["train"].numpy())


def best(models: Iterator[tuple[str, GaussianMixture | KernelDensity]], parts: Split) -> Result:
    """The model that does best in validation, and its scores of each test point."""
    scored = [
        (model.score_samples(parts["validation"].numpy()).mean(), name, model)
        for name, model in models
    ]
    _, name, model = max(scored, key=lambda one: one[0])
    return {"chosen": name, "scores": model.score_samples(parts["test"].numpy()).tolist()}


def score(flow: nn.CNF, x: Tensor) -> Tensor:
    """Log density of each row."""
    with torch.no_grad():
        return torch.cat([flow.log_prob(part) for part in x.split(500)])


def train(parts: Split, seed: int) -> tuple[nn.CNF, Result]:
    """Flow matching; the weights that do best in validation."""
    torch.manual_seed(seed)
    network = nn.MLPField(10, hidden=128, depth=3, activation="silu")
    flow = nn.CNF(network, 10, rtol=1e-4, atol=1e-4)
    matching = nn.FlowMatching(flow)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
    x, began = parts["train"], time.process_time()
    found, weights = -math.inf, flow.state_dict()
    for iteration in track(range(1, ITERATIONS + 1), f"seed {seed}", update_period=1.0):
        matching.step(optimizer, x[torch.randint(len(x), (256,))])
        schedule.step()
        if iteration % 1000 == 0:
            validation = score(flow, parts["validation"]).mean().item()
            if validation > found:
                found = validation
                weights = {name: value.clone() for name, value in flow.state_dict().items()}
    flow.load_state_dict(weights)
    seconds = time.process_time() - began
    return flow, {"seconds": seconds, "scores": score(flow, parts["test"]).tolist()}


def main() -> None:
    """Fit, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="set-a.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/chemistry"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    values, stays = panels(options.data)
    print(f"{len(values):,} panels of {len(np.unique(stays)):,} stays")
    print("| split | Gaussian mixture | kernel density | CNF | CNF better by |")
    print("| --- | --- | --- | --- | --- |")
    for seed in options.seeds:
        parts = split(values, stays, seed)
        flow = kept(options.out / f"cnf-{seed}", lambda parts=parts, seed=seed: train(parts, seed))
        mixture, kernel = best(mixtures(parts), parts), best(kernels(parts), parts)
        scores = {
            name: np.array(one["scores"])
            for name, one in (("mixture", mixture), ("kernel", kernel), ("flow", flow))
        }
        gain = scores["flow"] - scores["mixture"]
        error = gain.std() / math.sqrt(len(gain))
        print(
            f"| {seed} | {scores['mixture'].mean():.3f} ({mixture['chosen']}) | "
            f"{scores['kernel'].mean():.3f} ({kernel['chosen']}) | {scores['flow'].mean():.3f} | "
            f"{gain.mean():.3f} ± {error:.3f} |"
        )


if __name__ == "__main__":
    main()
