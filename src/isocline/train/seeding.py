"""Random numbers that follow from where they are used."""

from __future__ import annotations

import torch

from ..data import fold_seeds

__all__ = ["generator", "seed_global"]


def generator(*numbers: int) -> torch.Generator:
    """A generator on the CPU, seeded with the numbers folded into one."""
    return torch.Generator().manual_seed(fold_seeds(*numbers))


def seed_global(device: torch.device, *numbers: int) -> None:
    """Seed the generators that modules draw from, with the numbers folded into one.

    Not by `torch.manual_seed`: that looks at every kind of device and notes the call stack, which
    takes seventy times as long (134 us against 2), and more from deep inside a trainer.

    Args:
        device: Where the modules compute; the CPU's generator is seeded in any case.
        *numbers: Such as the seed of the run and the iteration.
    """
    seed = fold_seeds(*numbers)
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
