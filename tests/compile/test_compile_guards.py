"""A compiled step is run only where it computes what the field does: the guards before it.

Each of these gave wrong numbers, or an error in the place of an answer, before there was a guard.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

import isocline as ic
from isocline.compile import tracing
from isocline.compile.building import Artifact
from isocline.compile.solver import CompiledSolver
from isocline.problem import PackedField

from .compile_cases import answers, same, states

pytestmark = pytest.mark.usefixtures("interpreted")


SHORT = {"solver": "midpoint", "dt0": 0.1, "controller": ic.Constant()}
"""Two evaluations a step: quick to trace."""


def alike(field: Any, y0: Any, watched: Any = (), **options: Any) -> None:
    """A compiled solve and an eager one agree to rounding."""
    options = SHORT | options
    eager, _ = answers(field, y0, watched, **options)
    fast, _ = answers(field, y0, watched, compile=True, **options)
    same(eager, fast)


def eager_after(reason: str, field: Any, y0: Any, watched: Any = (), **options: Any) -> None:
    """A compiled solve warns, and is the eager one to the last bit."""
    options = SHORT | options
    eager, _ = answers(field, y0, watched, **options)
    with pytest.warns(ic.CompileWarning, match=reason):
        fast, _ = answers(field, y0, watched, compile=True, **options)
    assert all(map(torch.equal, eager, fast))


class Scaled(nn.Module):
    """Decay at a rate of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(states(2).abs())

    def forward(self, t: Tensor, y: Tensor, k: Tensor) -> Tensor:
        return -y * self.w * k


def test_a_tensor_given_twice_and_then_two() -> None:
    field = Scaled()
    other = torch.full((2,), 3.0, dtype=torch.float64)
    for k in (field.w, other, field.w):
        alike(field, states(3, 2), [field.w], args=(k,))


def test_weights_tied_at_first_and_untied_later() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(states(2).abs())
            self.other = self.one

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y * self.one + self.other

    field = Pair()
    alike(field, states(3, 2), list(field.parameters()))
    field.other = nn.Parameter(states(2))
    alike(field, states(3, 2), list(field.parameters()))
    field.one = field.other
    alike(field, states(3, 2), list(field.parameters()))


def test_branches_are_part_of_what_names_an_artifact() -> None:
    """Those of torch.cond are graphs inside of the graph, of which it names the places alone."""

    def text(factor: float) -> str:
        inner = make_fx(lambda y: y * factor)(torch.ones(2))
        graph = torch.fx.Graph()
        y = graph.placeholder("y")
        graph.get_attr("branch")
        graph.output((y,))
        return tracing._text(GraphModule({"branch": inner}, graph), [torch.ones(2)])

    assert text(2.0) == text(2.0)
    assert text(2.0) != text(3.0)


def test_the_sources_of_the_compiler_are_part_of_what_names_an_artifact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from isocline.compile import building
    from isocline.compile.passes import Passes

    traced = tracing.trace(lambda y: (y * 2,), [torch.ones(2)])
    before = building._key(traced, Passes())
    assert before == building._key(traced, Passes())
    monkeypatch.setattr(building, "_sources", lambda: "another version")
    assert before != building._key(traced, Passes())


def test_a_checkpointed_block_that_is_compiled_as_it_runs() -> None:
    """Activation checkpointing counts what is saved: traces are not to be in it."""
    field = Scaled()
    k = torch.ones(2, dtype=torch.float64)
    y0 = states(3, 2)

    def gradients(fast: bool) -> list[Tensor]:
        def block(x: Tensor) -> Tensor:
            return ic.solve(field, x, 0.0, 1.0, args=(k,), compile=fast, **SHORT).ys[-1]

        x = y0.clone().requires_grad_()
        end = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        return list(torch.autograd.grad(end.square().sum(), [x, field.w]))

    same(gradients(True), gradients(False))


def test_lazy_negatives_and_conjugates_are_not_misread(interpreted: list[str]) -> None:
    field = Scaled()
    z = torch.complex(states(2), states(2))
    k = z.conj().imag
    assert k.is_neg()
    eager_after("lazy negative", field, states(3, 2), [field.w], args=(k,))
    alike(field, states(3, 2), [field.w], args=(z.imag,))
    made = len(interpreted)
    eager_after("lazy negative", field, states(3, 2), [field.w], args=(k,))
    assert len(interpreted) == made
    y0 = torch.complex(states(4), states(4)).conj().imag
    for start in (y0, y0.abs()[::2]):
        alike(lambda t, y: -y * z.imag.sum(), start, grad=False)


class Watching:
    """Runs a traced graph, and looks at its inputs as compiled code would read them."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        for tensor in inputs:
            assert tensor.is_contiguous()
            assert not tensor.is_neg()
        return list(self.graph(*inputs))


def test_cotangents_lie_in_memory_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from isocline.compile import fitting, program

    made: list[CompiledSolver] = []

    def kept(*given: Any) -> CompiledSolver:
        made.append(CompiledSolver(*given))
        return made[-1]

    monkeypatch.setattr(program, "built", lambda traced, *_: Artifact(Watching(traced.graph).run))
    monkeypatch.setattr(fitting, "CompiledSolver", kept)
    y0 = states(3).requires_grad_()
    ic.solve(lambda t, y: -y, y0, 0.0, 1.0, compile=True, save=ic.SaveAt(dense=True), **SHORT)
    field = PackedField(lambda t, y: -y, made[0].packing)
    stepper, one = made[0].bind(field, field.packing), torch.ones((), dtype=torch.float64)
    lazy = torch.complex(one, -one).conj().imag
    for value in (one, lazy):
        slopes = value.expand(2, 3)  # flattened it is still one number
        found = stepper.pull(0.0, 0.5, y0.detach(), value.expand(3), slopes, [])
        ones = torch.ones(2, 3, dtype=torch.float64)
        plain = stepper.pull(0.0, 0.5, y0.detach(), ones[0], ones, [])
        assert torch.equal(found, plain)


def test_a_buffer_changed_before_the_backward_pass_is_an_error() -> None:
    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("k", torch.ones(2, dtype=torch.float64))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y * self.k

    field = Buffered()

    def loss() -> Tensor:
        y0 = states(3, 2).requires_grad_()
        return ic.solve(field, y0, 0.0, 1.0, compile=True, **SHORT).ys.sum()

    loss().backward()
    late = loss()
    field.k.mul_(2)
    with pytest.raises(ic.GradientError, match=r"shape \(2,\).*changed in place"):
        late.backward()
    with torch.no_grad():
        loss()
    with torch.inference_mode():  # its changes are not counted
        field.k = torch.ones(2, dtype=torch.float64)
    loss().backward()


def test_a_tensor_of_another_layout_or_number_of_dimensions() -> None:
    def field(t: Tensor, y: Tensor, k: Tensor) -> Tensor:
        return -(k @ y) if k.layout is torch.sparse_coo else -k * y

    y0 = states(3, 3)
    sparse = torch.eye(3, dtype=torch.float64).to_sparse()
    eager_after("layout torch.sparse_coo", field, y0, grad=False, args=(sparse,))
    # The rows of the second are as many as those of the batch.
    for k in (states(3, 1), states(3), torch.tensor(2.0, dtype=torch.float64), states(3, 3)):
        alike(field, y0, grad=False, args=(k,))


def test_what_is_nested_too_deeply() -> None:
    deep: list[Any] = [torch.ones(2)]
    for _ in range(3000):
        deep = [deep]
    eager_after("nested too deeply", lambda t, y: -y * len(deep), states(3, 2))


def test_writes_by_operators_over_lists_are_seen() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("one", torch.zeros(2))
            self.register_buffer("other", torch.zeros(2))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            torch._foreach_add_([self.one, self.other], 1.0)
            return -y

    with pytest.warns(ic.CompileWarning, match="writes into a tensor that it holds"):
        ic.solve(Writing(), states(3, 2), 0.0, 1.0, compile=True, **SHORT)

    def body(y: Tensor, sums: Tensor) -> tuple[Tensor, ...]:
        return (torch.cumsum(y, 0, out=sums),)

    with pytest.raises(tracing.Untraceable, match="writes into a tensor"):
        tracing.trace(body, [torch.ones(2), torch.ones(2)])
    rows = torch.ones(2, 2)

    def parts(y: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        rows.unbind()[1].add_(y)
        return (y * 1,)

    with pytest.raises(tracing.Untraceable, match="writes into a tensor"):
        tracing.trace(parts, [torch.ones(2), rows])


def test_attention_without_dropout_draws_nothing() -> None:
    def attend(dropout: float) -> Any:
        def body(q: Tensor) -> tuple[Tensor, ...]:
            function = torch.nn.functional.scaled_dot_product_attention
            return (function(q, q, q, dropout_p=dropout),)

        return body

    q = torch.ones(1, 2, 4, 8)
    assert tracing.trace(attend(0.0), [q]).text
    with pytest.raises(tracing.Untraceable, match="random numbers"):
        tracing.trace(attend(0.5), [q])
