"""torchode, where its own dependency for annotations cannot be installed.

torchode annotates with torchtyping, which wants a typeguard older than others here can live with.
Nothing but annotations uses it, so names without meaning stand in its place.
"""

from __future__ import annotations

import sys
import types
from typing import Any

__all__ = ["torchode"]


class _Anything:
    def __class_getitem__(cls, _: object) -> type[_Anything]:
        return cls


if "torchtyping" not in sys.modules:
    names: Any = types.ModuleType("torchtyping")
    names.TensorType, names.is_float = _Anything, None
    sys.modules["torchtyping"] = names

import torchode  # noqa: E402
