"""Neural CDEs on irregular series: the spirals' direction, and who leads whom among three signals.

Each series loses 30, 50 or 70 % of its rows, at random. The direction of a spiral is easy; the
order of three noisy oscillations of unknown phase and frequency, of which each row shows one, is
    not: it lies between the channels.
The runs are those of `isocline train neural-cde`; each leaves a folder with its report.

    python examples/neural_cde.py --out runs/cde
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from isocline.train import NeuralCdeConfig
from isocline.train.neural_cde.run import train_neural_cde

DROPPED = (0.3, 0.5, 0.7)
MODELS: dict[str, dict[str, str]] = {
    "neural CDE, Hermite": {"path_kind": "hermite"},
    "neural CDE, natural cubic": {"path_kind": "natural-cubic"},
    "neural CDE, linear": {"path_kind": "linear"},
    "GRU with time differences": {"model": "rnn-dt"},
    "GRU-D": {"model": "gru-d"},
    "ODE-RNN": {"model": "ode-rnn"},
}
# Both kinds of series, and how long models learn from 1000 of them.
DATA = {"spirals": 150, "signals": 600}


def accuracy(out: Path, data: str, name: str, dropped: float) -> dict[str, Any]:
    """The run's result, from its folder if it is there."""
    folder = out / f"{data}-{name.replace(', ', '-').replace(' ', '-')}-{round(100 * dropped)}"
    result = folder / "result.json"
    if not result.is_file():
        config = NeuralCdeConfig(
            data=data,
            dropped=dropped,
            iterations=DATA[data],
            batch_size=64,
            out=folder,
            resume=folder.is_dir(),
            pictures=False,
            threads=1,
            **MODELS[name],  # type: ignore[arg-type]
        )
        train_neural_cde(config)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def main() -> None:
    """Train what is not there yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=tuple(DATA))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=tuple(MODELS))
    parser.add_argument("--out", type=Path, default=Path("runs/cde"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for data in options.data:
        lines = [f"| {data} | 30 % dropped | 50 % | 70 % | s |", "| --- | --- | --- | --- | --- |"]
        for name in options.models:
            found = [accuracy(options.out, data, name, dropped) for dropped in DROPPED]
            cells = " | ".join(f"{one['accuracy']:.3f}" for one in found)
            seconds = sum(one["seconds_training"] for one in found)
            lines.append(f"| {name} | {cells} | {seconds:.0f} |")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
