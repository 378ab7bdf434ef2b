"""A function of tensors as a graph of ATen operations, whatever else it reads from.

The function runs once over fake tensors. Where the field uses a tensor that it holds (a weight,
something in a closure), the fake that stands for it is put in its place, before autograd sees it:
so that tensors are inputs of the graph, and a module need not be called in a functional way.
"""

from __future__ import annotations

import contextlib
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.overrides import TorchFunctionMode

from ..errors import IsoclineError

__all__ = [
    "Traced",
    "Untraceable",
    "first_line",
    "is_view",
    "shows",
    "standing_in",
    "trace",
    "traces_so_far",
    "written",
]

Body = Callable[..., tuple[Tensor, ...]]


class Untraceable(Exception):  # noqa: N818 (a reason, which becomes a warning)
    """Why a function cannot be made into a graph, and what to change."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A graph and the fake inputs that it was made from.

    Attributes:
        graph: over ATen; its placeholders are the inputs in order.
        inputs: fakes, one for each placeholder.
        text: what the graph computes: equal texts, equal graphs.
        held: places of the tensors that the field holds, which stay the same for a whole solve.
    """

    graph: GraphModule
    inputs: tuple[Tensor, ...]
    text: str
    held: range = range(0)

    def without_unused(self) -> tuple[Traced, list[bool]]:
        """This without those of the held tensors, its last inputs, that nothing uses; which are."""
        places = list(self.graph.graph.find_nodes(op="placeholder"))
        first = self.held.start
        used = [bool(node.users) for node in places[first:]]
        if all(used):
            return self, used
        for node, keep in zip(places[first:], used, strict=True):
            if not keep:
                self.graph.graph.erase_node(node)
        self.graph.recompile()
        kept = (x for x, keep in zip(self.inputs[first:], used, strict=True) if keep)
        inputs = (*self.inputs[:first], *kept)
        held = range(first, len(inputs))
        return Traced(self.graph, inputs, _text(self.graph, inputs), held), used

    def part(self, graph: Graph, inputs: Sequence[Tensor], held: Sequence[int]) -> Traced:
        """Another graph over nodes of this one, with inputs of its own."""
        module = GraphModule(self.graph, graph)
        places = range(held[0], held[-1] + 1) if held else range(0)
        return Traced(module, tuple(inputs), _text(module, inputs), places)


_traces = 0


def traces_so_far() -> int:
    """How many traces were begun in this process."""
    return _traces


def trace(
    body: Body,
    examples: Sequence[Tensor],
    dynamic: Sequence[int] = (),
    batch: int | None = None,
    written: int = 0,
) -> Traced:
    """Trace `body(*inputs)`.

    Args:
        body: returns a tuple of tensors.
        examples: real inputs, of the shapes that count.
        dynamic: which inputs have a leading axis of any length at least 2; all have `batch` rows
            here. A flat one, of some multiple of it, has as many elements for each.
        batch: that length, or None where all shapes are fixed.
        written: how many of the last inputs the body adds to in place.

    Returns:
        The traced graph.

    Raises:
        Untraceable: naming the reason.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    global _traces  # noqa: PLW0603
    _traces += 1
    env = ShapeEnv()
    fakes = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    inputs = _fakes(fakes, examples, set(dynamic), batch)
    with warnings.catch_warnings(), fakes:
        warnings.simplefilter("ignore")
        try:
            graph = make_fx(body)(*inputs)
        except (Untraceable, IsoclineError):
            raise
        except Exception as error:
            raise Untraceable(_explain(error)) from error
    if env.guards or env.replacements:
        raise Untraceable("its shapes depend on the size of the batch")
    _check(graph, set(range(len(inputs) - written, len(inputs))))
    return Traced(graph, tuple(inputs), _text(graph, inputs))


def _fakes(
    mode: Any, examples: Sequence[Tensor], dynamic: set[int], batch: int | None
) -> list[Tensor]:
    """Fakes of the examples, those that are dynamic with one symbol for the batch."""
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    def fake(tensor: Tensor, leading: bool) -> Tensor:
        dims = [DimDynamic.STATIC] * tensor.dim()
        if leading:
            dims[0] = DimDynamic.DYNAMIC
        context: Any = StatelessSymbolicContext(dynamic_sizes=dims)
        return mode.from_tensor(tensor.detach(), symbolic_context=context)  # type: ignore[no-any-return]

    if batch is None:
        return [fake(tensor, False) for tensor in examples]
    rows = fake(torch.empty(batch), True).shape[0]
    found = []
    for i, tensor in enumerate(examples):
        if i not in dynamic:
            found.append(fake(tensor, False))
            continue
        each = tensor.shape[0] // batch
        shape = (rows if each == 1 else rows * each, *tensor.shape[1:])
        with mode:
            found.append(torch.empty(shape, dtype=tensor.dtype, device=tensor.device))
    return found


class _StandIns(TorchFunctionMode):
    def __init__(self, stand_ins: dict[int, Tensor]) -> None:
        super().__init__()
        self.stand_ins = stand_ins

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        replaced = tuple(map(self._replaced, args))
        named = {key: self._replaced(value) for key, value in (kwargs or {}).items()}
        return func(*replaced, **named)

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            found = self.stand_ins.get(id(value))
            if found is None and _is_real(value):
                raise Untraceable(_HIDDEN)
            return value if found is None else found
        if type(value) in (tuple, list):
            return type(value)(map(self._replaced, value))
        return value


def _is_real(tensor: Tensor) -> bool:
    """Whether a tensor is from outside of the trace: one that nobody put a fake in the place of."""
    from torch._subclasses.fake_tensor import FakeTensor

    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return not (wrapped or isinstance(tensor, FakeTensor))


@contextlib.contextmanager
def standing_in(tensors: Sequence[Tensor], fakes: Sequence[Tensor]) -> Iterator[None]:
    """Put `fakes` in the place of `tensors` wherever torch is called with them."""
    pairs = {id(tensor): fake for tensor, fake in zip(tensors, fakes, strict=True)}
    with _StandIns(pairs):
        yield


def _explain(error: Exception) -> str:
    """What to tell the user of an exception while tracing."""
    name = type(error).__name__
    if "DataDependent" in name or "data-dependent" in str(error):
        return (
            "it looks at values of tensors while it is evaluated (an `if`, a `.item()`): write it "
            "with torch.where"
        )
    return f"tracing it failed with {name}: {first_line(error)}"


def first_line(error: Exception) -> str:
    """The first line of a message."""
    return str(error).strip().split("\n")[0][:300]


def _check(graph: GraphModule, writable: set[int]) -> None:
    """Refuse what a graph computes differently from the function, or not at all."""
    for name, part in _graphs(graph):
        places = {node: i for i, node in enumerate(part.graph.find_nodes(op="placeholder"))}
        for node in part.graph.nodes:
            if _draws(node):
                raise Untraceable("it draws random numbers: draw them once before the solve")
            for origin in map(_origin, written(node)):
                inside = origin.op != "placeholder" and origin.op != "get_attr"
                if not inside and (name or places.get(origin) not in writable):
                    raise Untraceable("it writes into a tensor that it holds, such as a buffer")


def _named(node: Node) -> list[tuple[Any, Any]]:
    """The arguments of an operator's node, each with what its schema says of it."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    positional = list(zip(schema.arguments, node.args, strict=False))
    rest = schema.arguments[len(positional) :]
    return positional + [
        (part, node.kwargs[part.name]) for part in rest if part.name in node.kwargs
    ]


def _draws(node: Node) -> bool:
    """Whether a node draws random numbers; attention without dropout draws none."""
    target: Any = node.target
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    named = {part.name: part for part in target._schema.arguments}
    if "dropout_p" not in named:
        return True
    given = {part.name: value for part, value in _named(node)}
    return bool(given.get("dropout_p", named["dropout_p"].default_value) != 0)


def written(node: Node) -> Iterator[Node]:
    """The nodes that a node writes into."""
    for part, value in _named(node):
        if part.alias_info is not None and part.alias_info.is_write:
            values = value if isinstance(value, (list, tuple)) else [value]
            yield from (written for written in values if isinstance(written, Node))


def is_view(node: Node) -> bool:
    """Whether a node lies in the memory of its first input."""
    if node.target is operator.getitem:
        return is_view(node.all_input_nodes[0])
    return bool(getattr(node.target, "is_view", False))


def shows(node: Node) -> bool:
    """Whether who writes into a node may write into what it comes from."""
    return node.target is operator.getitem or is_view(node)


def _origin(node: Node) -> Node:
    """The node that `node` is a view of."""
    while shows(node):
        node = node.all_input_nodes[0]
    return node


_HIDDEN = (
    "it uses a tensor that cannot be found in its closure, attributes or arguments: pass it "
    "through `args=`"
)


def _text(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """The graph as text, with the shapes of its inputs and the values of its constants."""
    lines = [f"{t.dtype} {tuple(map(str, t.shape))} {tuple(map(str, t.stride()))}" for t in inputs]
    for name, part in _graphs(graph):
        lines += [name, part.code]
        for node in part.graph.find_nodes(op="get_attr"):
            value = operator.attrgetter(node.target)(part)
            if isinstance(value, Tensor):
                strides = f"{tuple(value.shape)} {value.stride()}"
                lines.append(f"{node.target} {value.dtype} {strides} {value.tolist()}")
            elif not isinstance(value, GraphModule):
                raise Untraceable(f"its graph holds a {type(value).__name__}")
    return "\n".join(lines)


def _graphs(graph: GraphModule) -> list[tuple[str, GraphModule]]:
    """The graph and those inside of it, such as the branches of torch.cond, by name."""
    return [(name, part) for name, part in graph.named_modules() if isinstance(part, GraphModule)]
