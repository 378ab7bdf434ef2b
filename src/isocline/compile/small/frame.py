"""What stands around the statements of a small graph: a library with one function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.fx import Node

from .arrays import by_rows, shape_of
from .expressions import C_TYPES

__all__ = ["framed"]

_CODES = {"float": "FLOAT", "double": "DOUBLE", "bool": "BOOL"}

_HEAD = """#include <cmath>
#include <limits>
#include <type_traits>
#define ISOCLINE_THREADS 1
{sources}
using namespace isocline;

extern "C" void isocline_link(
    void* copy_of, void* release, void* data_of, void* over, void* empty) {{
  link(copy_of, release, data_of, over, empty);
}}

extern "C" const int64_t isocline_results = {results};

extern "C" int32_t isocline_run(
    void*, Handle* handles, size_t, Handle* results, size_t, void*, void*) {{
  Tensor given[{inputs}];  // they are ours from here on
  for (size_t i = 0; i < {inputs}; ++i) given[i] = Tensor(handles[i]);
  try {{
"""

_TAIL = """
    return 0;
  } catch (const Failed&) {
    return 1;
  }
}
"""


def framed(inputs: Sequence[Node], outputs: Sequence[Node], lines: Sequence[str]) -> str:
    """The source of a library around statements.

    Args:
        inputs: in the statements they lie at `in0`, `in1`, ...
        outputs: tensors are made for them, by rows, which lie at `out0`, `out1`, ...
        lines: the statements.
    """
    heads = []
    for number, node in enumerate(inputs):
        if node.users:
            kind = C_TYPES[node.meta["val"].dtype]
            heads.append(f"{kind}* in{number} = given[{number}].data<{kind}>();")
    for number, node in enumerate(outputs):
        kind, shape = C_TYPES[node.meta["val"].dtype], shape_of(node)
        # A list must not be empty for a pointer to it: one number more than there are axes.
        sizes, strides = (", ".join(map(str, (*each, 0))) for each in by_rows(shape))
        lists = f"{{{sizes}}}, {{{strides}}}"
        heads.append(f"Tensor made{number} = Tensor::rows({len(shape)}, {lists}, {_CODES[kind]});")
        heads.append(f"{kind}* out{number} = made{number}.data<{kind}>();")
    ends = [f"results[{i}] = made{i}.another();" for i in range(len(outputs))]
    head = _HEAD.format(sources=_sources(), inputs=len(inputs), results=len(outputs))
    return head + "\n".join([*heads, *lines, *ends]) + _TAIL


def _sources() -> str:
    root = Path(__file__).parent.parent
    names = ("native/tensors.h", "passes/products.h", "passes/layers.h", "small/small.h")
    texts = [(root / name).read_text() for name in names]
    return "\n".join(text.replace("#pragma once\n", "") for text in texts)
