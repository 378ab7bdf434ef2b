"""Peak memory of an ODE-Net training step against the length of its solve, for each adjoint.

One step of batch 128 through the MNIST ODE-Net's block, 64 channels of 7x7, at tolerances from
1e-1 to 1e-6. Every measurement is a process of its own: the highest resident memory reached
during forward and backward, less what was resident before.

    python benchmarks/odenet_memory.py [--out docs/results/odenet-memory.csv]
                                       [--plot docs/results/odenet-memory.png]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

BATCH = 128
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
ADJOINTS = ("Direct", "Checkpointed", "Checkpointed(slots=1)", "Backsolve")


def resident(field: str) -> float:
    """A memory reading of this process from /proc, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this benchmark needs Linux")


def measure(adjoint: str, tolerance: float, images: Path | None) -> dict[str, float | str]:
    """One training step in this process."""
    import torch

    import isocline as ic
    from isocline.nn import ImageClassifier

    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = {
        "Direct": ic.Direct(),
        "Checkpointed": ic.Checkpointed(),
        "Checkpointed(slots=1)": ic.Checkpointed(slots=1),
        "Backsolve": ic.Backsolve(),
    }[adjoint]
    model = ImageClassifier("odenet", "mnist", rtol=tolerance, atol=tolerance, adjoint=chosen)
    block = model.ode
    assert block is not None
    if images is None:
        batch = torch.randn(BATCH, 1, 28, 28)
    else:
        from isocline.data import load_mnist

        batch = load_mnist(images).test.images[:BATCH]
    state = model.stem(batch).detach()
    with torch.no_grad():  # libraries load their buffers now
        block.field(torch.zeros(()), state)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    before = resident("VmRSS")
    began = perf_counter()
    block(state.requires_grad_()).square().mean().backward()
    seconds = perf_counter() - began
    stats = block.stats
    assert stats is not None
    return {
        "adjoint": adjoint,
        "tolerance": tolerance,
        "steps": stats.steps_accepted,
        "rejected": stats.steps_rejected,
        "nfe_forward": stats.nfe_forward,
        "nfe_backward": stats.nfe_backward,
        "mebibytes": round(resident("VmHWM") - before, 1),
        "seconds": round(seconds, 2),
    }


def in_subprocess(adjoint: str, tolerance: float, images: Path | None) -> dict[str, float | str]:
    """The same, in a process of its own whose allocator hands freed tensors back at once."""
    command = [sys.executable, __file__, "--one", adjoint, str(tolerance)]
    command += [] if images is None else ["--images", str(images)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def plot(rows: list[dict[str, float | str]], path: Path) -> None:
    """Memory against accepted steps, one line an adjoint."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for adjoint, marker in zip(ADJOINTS, "osD^", strict=True):
        mine = [row for row in rows if row["adjoint"] == adjoint]
        axes.plot(
            [float(row["steps"]) for row in mine],
            [float(row["mebibytes"]) for row in mine],
            marker=marker,
            label=adjoint,
        )
    axes.set(
        xscale="log", yscale="log", xlabel="accepted steps", ylabel="peak memory of a step, MiB"
    )
    taken = sorted({int(row["steps"]) for row in rows})
    axes.set_xticks(taken, [str(count) for count in taken])
    axes.set_yticks(marks := [100, 200, 500, 1000, 2000], [f"{mark:,}" for mark in marks])
    axes.minorticks_off()
    axes.set_title("ODE-Net block, 64x7x7, batch 128, tolerance 1e-1 to 1e-6", fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure everything, print, and write table and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("ADJOINT", "TOLERANCE"))
    parser.add_argument("--images", type=Path, help="folder with the MNIST files; else noise")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.one:
        adjoint, tolerance = options.one
        print(json.dumps(measure(adjoint, float(tolerance), options.images)))
        return
    rows = []
    for tolerance in TOLERANCES:
        for adjoint in ADJOINTS:
            rows.append(in_subprocess(adjoint, tolerance, options.images))
            print(" ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
    if options.out is not None:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    if options.plot is not None:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
