"""What each of two processes does in `test_distributed.py`; what it finds goes to a file."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import isocline as ic
from isocline.nn import MLPField, ODEBlock

ADJOINTS: dict[str, Any] = {
    "direct": ic.Direct(),
    "checkpointed": ic.Checkpointed(),
    "slots2": ic.Checkpointed(slots=2),
    "backsolve": ic.Backsolve(),
}
PROCESSES, ROWS = 2, 8
Gradients = dict[str, Tensor]


class Model(nn.Module):
    """An ODE block between two layers. Equal steps, so that they depend on no other row."""

    def __init__(self, adjoint: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(2, 4)
        self.block = ODEBlock(MLPField(4, 8), adjoint=adjoint, solver="rk4", dt0=0.25)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.encoder(x)).tanh())
        return out


def data() -> Tensor:
    return torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1))


def mine() -> Tensor:
    return data().chunk(PROCESSES)[dist.get_rank()]


def backward(model: nn.Module, x: Tensor, share: float = 1.0) -> None:
    (share * model(x).square().mean()).backward()


def whole(model: nn.Module) -> Gradients:
    """The gradients, of shards too, by name; those of parameters that have one."""
    leaves = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {
        name: gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
        for name, gradient in leaves.items()
    }


def alone(adjoint: Any) -> Gradients:
    model = Model(adjoint)
    backward(model, data())
    return whole(model)


def replicated(adjoint: Any, **options: Any) -> Gradients:
    model = Model(adjoint)
    backward(DistributedDataParallel(model, **options), mine())
    return whole(model)


def with_an_unused_layer(adjoint: Any) -> Gradients:
    model = Model(adjoint)
    model.spare = nn.Linear(2, 2)
    backward(DistributedDataParallel(model, find_unused_parameters=True), mine())
    return whole(model)


def in_two_parts(adjoint: Any) -> Gradients:
    """Gradients of the first part stay in the process, and are summed with the second's."""
    model = Model(adjoint)
    parallel = DistributedDataParallel(model)
    first, second = mine().chunk(2)
    with parallel.no_sync():
        backward(parallel, first, 0.5)
    backward(parallel, second, 0.5)
    return whole(model)


def field_replicated(adjoint: Any) -> Gradients:
    """Not the model but its field: the rest has the gradients of this process alone."""
    model = Model(adjoint)
    model.block.field = DistributedDataParallel(model.block.field)
    backward(model, mine())
    found = whole(model)
    prefix = "block.field.module."
    return {k.replace(".module", ""): g for k, g in found.items() if k.startswith(prefix)}


def shard(*modules: nn.Module) -> None:
    # Imported here: it takes seconds, which the collection of the tests need not pay.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (PROCESSES,))
    for module in modules:
        fully_shard(module, mesh=mesh)


def sharded(adjoint: Any, *parts: str) -> Gradients:
    """Parts of the model, and then what is left of it, each a unit of FSDP's own."""
    model = Model(adjoint)
    shard(*map(model.get_submodule, (*parts, "")))
    backward(model, mine())
    return whole(model)


def sharded_in_sight(adjoint: Any) -> Gradients:
    """The field sees the model that it is a part of, and in it a shard that it does not use."""
    model = Model(adjoint)
    inner = model.block.field

    class Outer(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return sight[0].block.field.inner(t, y)

    sight = [model]
    model.block.field = Outer()
    model.block.field.inner = inner
    shard(model.encoder, model)
    backward(model, mine())
    return {name.replace(".inner", ""): found for name, found in whole(model).items()}


WAYS: dict[str, Callable[[Any], Gradients]] = {
    "replicated": replicated,
    "bucket_views": lambda adjoint: replicated(adjoint, gradient_as_bucket_view=True),
    "unused_layer": with_an_unused_layer,
    "in_two_parts": in_two_parts,
    "field_replicated": field_replicated,
    "sharded": sharded,
    "block_sharded": lambda adjoint: sharded(adjoint, "block"),
    "all_but_field_sharded": lambda adjoint: sharded(adjoint, "encoder", "block", "head"),
    "sharded_in_sight": sharded_in_sight,
    "field_sharded": lambda adjoint: sharded(adjoint, "block.field"),
    "part_of_field_sharded": lambda adjoint: sharded(adjoint, "block.field.layers"),
}


def measured(way: str, adjoint: Any) -> dict[str, Any]:
    """The largest relative error of any gradient, or what was raised."""
    try:
        found = WAYS[way](adjoint)
    except ic.GradientError as error:
        return {"refused": str(error)}
    want = alone(adjoint)
    errors = {k: float((g - want[k]).norm() / want[k].norm()) for k, g in found.items()}
    return {"error": max(errors.values()), "found": sorted(errors)}


def run(rank: int, folder: Path) -> None:
    """Everything, one after the other; the processes meet through a file in `folder`."""
    # Of FSDP, about blocks whose output is a view: nobody writes into it here.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=60),
    )
    report = {
        f"{way}-{name}": measured(way, adjoint)
        for way in WAYS
        for name, adjoint in ADJOINTS.items()
    }
    (folder / f"report{rank}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    run(int(sys.argv[1]), Path(sys.argv[2]))
