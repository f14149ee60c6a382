"""What the planner believes of a unit against what a decoder really does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from danlu.fleet import measure
from danlu.fleet.grids import Grid
from danlu.kernels import ops
from danlu.model.fp8 import Float8, emulated, scaled
from danlu.model.halves import Halves
from danlu.model.net import Causal, Decoder, init
from danlu.model.products import Plain
from danlu.nouns import Card, ModelSpec, Rate, kept_as
from danlu.plan import operator, operators
from danlu.plan.cost import interpolate, unit_costs
from danlu.plan.flop import unit_flop
from danlu.plan.memory import stage_bytes, unit_activation_bytes
from danlu.train.group import TORCH
from danlu.train.optim import AdamW

SPEC = ModelSpec("llama", 2, 96, 6, 3, 16, 160, 320, 256)
SHAPES = [(SPEC, 2, 32), (replace(SPEC, qk_norm=True, kv_heads=6), 3, 16), (replace(SPEC, head_dim=32), 1, 64),
          (replace(SPEC, qkv_bias=True), 2, 32)]  # fmt: skip
MOE = replace(SPEC, experts=8, experts_used=3, ffn=40, recipe=("attn", "moe"))
SPARSE = [(MOE, 2, 32), (replace(MOE, shared_ffn=56, norm_topk=False), 1, 50)]
YUAN = replace(SPEC, kv_heads=6, recipe=("lfa", "mlp"))
PLAIN = Card("a", "cuda", "", {"fp32": 1e12, "bf16": 4e12}, 2**35, 1e11)


@pytest.mark.parametrize(("spec", "batch", "seq"), [*SHAPES, *SPARSE, (YUAN, 2, 24)])
@pytest.mark.parametrize("number", [3, 4, 5])
def test_products_are_those_the_decoder_runs(spec, batch, seq, number):
    unit = spec.units[number]
    at = spec.units.index(unit)
    decoder = Decoder(spec, at, at + 1)
    init(decoder, 0)
    state = Causal(batch, seq)
    x = torch.randn(batch * seq, spec.hidden, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        decoder(x, state, state.meta()).sum().backward()
    counted = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in counted.items() if "mm" in str(op))
    both = (*operators.forward(spec, unit, batch, seq), *operators.backward(spec, unit, batch, seq))
    assert products == sum(op.work * op.times for op in both if op.op.startswith("matmul"))
    ours = sum(op.work * op.times for op in operators.forward(spec, unit, batch, seq) if operators.arithmetic(op.op))
    assert ours == unit_flop(spec, unit, batch, seq)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize(("spec", "batch", "seq"), [*SHAPES, *SPARSE, (YUAN, 2, 24)])
def test_activation_bytes_are_those_autograd_keeps(spec, batch, seq, dtype):
    for start, stop in ((0, 3), (1, 5), (3, 6)):
        decoder = Decoder(spec, start, stop, dtype=TORCH[kept_as(dtype)])
        init(decoder, 0)
        state = Causal(batch, seq)
        rows = batch * seq
        x = torch.randint(0, spec.vocab, (rows,)) if start == 0 else torch.randn(rows, spec.hidden, dtype=decoder.dtype)
        x.requires_grad_(start > 0)
        AdamW(decoder, weight_decay=0.1)
        decoder.halve(Halves(), Float8(multiply=emulated) if dtype == "fp8" else Plain())
        weights = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
        held = {}

        def pack(tensor, held=held, weights=weights):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                held[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = decoder(x, state, state.meta())
            if stop == len(spec.units):
                out = torch.nn.functional.cross_entropy(out.float(), torch.zeros(rows, dtype=torch.int64))
        real = sum(storage.nbytes() for storage in held.values())
        ours = sum(unit_activation_bytes(spec, unit, batch, seq, dtype) for unit in spec.units[start:stop])
        assert real <= ours <= 1.15 * real, (start, stop)


def test_training_state_is_sixteen_bytes_a_parameter():
    whole = stage_bytes(SPEC, 0, len(SPEC.units), in_flight=1, micro_batch=1, seq=16)
    assert whole.weights + whole.gradients + whole.optimizer == 16 * SPEC.params
    half = stage_bytes(SPEC, 0, len(SPEC.units), in_flight=1, micro_batch=1, seq=16, dtype="bf16")
    assert half.weights + half.gradients + half.optimizer == 20 * SPEC.params  # a sum of gradients and weights in fp32
    tied = replace(SPEC, tied=True)
    apart = stage_bytes(tied, 3, len(SPEC.units), in_flight=1, micro_batch=1, seq=16)
    assert apart.weights == 4 * sum(SPEC.unit_params(unit) for unit in SPEC.units[3:])


class Calls(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("spec", "number", "kinds"), [
    (SPEC, 1, ["attn"]), (SPEC, 2, ["mlp"]), (replace(SPEC, qkv_bias=True), 1, ["attn", "bias"]),
    (SPEC, 1, ["cut attn"]), (SPEC, 2, ["cut mlp"]), (YUAN, 1, ["lfa"]),
])  # fmt: skip
def test_glue_is_what_torch_is_asked_beside_the_operators(spec, number, kinds):
    torch.set_num_threads(1)
    if ops.find("norm") is None:
        pytest.skip("torch's own row operators are many calls each")
    angles = 0 if "mlp" in kinds[0] else 9  # operators.entry charges those
    cut = "cut" in kinds[0]
    decoder = Decoder(spec, number, number + 1, reduce=(lambda x: x) if cut else None)
    init(decoder, 0)
    AdamW(decoder, weight_decay=0.1)
    decoder.halve(Halves())
    state = Causal(1, 32)
    meta, x = state.meta(), torch.randn(32, SPEC.hidden).requires_grad_()
    with Calls() as forward:
        out = decoder(x, state, meta)
    gradient = torch.ones_like(out)
    with Calls() as backward:
        out.backward(gradient)
    glue = [sum(operator.GLUE[kind][back] for kind in kinds) for back in (0, 1)]
    for calls, beside_operators, beside in zip((forward, backward), glue, (angles, 0), strict=True):
        timed = sum(
            count for name, count in calls.found.items() if any(each in name for each in ("mm", "_scaled", "copy_"))
        )
        assert calls.found.total() - timed - beside == beside_operators, calls.found


def calls_of_a_mixture(experts):
    spec = replace(MOE, experts=experts)
    decoder = Decoder(spec, 2, 3)
    init(decoder, 0)
    AdamW(decoder, weight_decay=0.1)
    decoder.halve(Halves())
    state = Causal(1, 64)
    meta, x = state.meta(), torch.randn(64, SPEC.hidden).requires_grad_()
    with Calls() as forward:
        out = decoder(x, state, meta)
    gradient = torch.ones_like(out)
    with Calls() as backward:
        out.backward(gradient)
    return forward.found.total(), backward.found.total()


def test_an_expert_is_asked_for_its_products_and_its_glue():
    torch.set_num_threads(1)
    few, many = calls_of_a_mixture(4), calls_of_a_mixture(9)
    for back, products in ((0, 2), (1, 4)):
        assert many[back] - few[back] == 5 * (products + operator.GLUE["expert"][back])


def test_a_declared_card_is_charged_by_its_roof():
    costs = unit_costs(replace(SPEC, hidden=4096, ffn=16384, heads=32, head_dim=128), PLAIN, 8, 2048)
    mlp = costs[2]
    ideal = 6.0 * 8 * 2048 * 4096 * 16384 / 1e12
    assert ideal < mlp.forward_s < 1.05 * ideal
    assert mlp.backward_s == pytest.approx(2 * mlp.forward_s, rel=0.05)
    half = unit_costs(replace(SPEC, hidden=4096, ffn=16384, heads=32, head_dim=128), PLAIN, 8, 2048, "bf16")
    assert half[2].forward_s < mlp.forward_s / 3


def test_rates_are_met_at_their_points_and_lie_between_them_elsewhere():
    grid = {(8, 8): 1e9, (8, 32): 4e9, (32, 8): 2e9, (32, 32): 8e9}
    assert all(interpolate(grid, point) == pytest.approx(rate) for point, rate in grid.items())
    assert interpolate(grid, (16, 8)) == pytest.approx(2**0.5 * 1e9)
    assert interpolate(grid, (1, 1)) == pytest.approx(1e9)
    assert interpolate(grid, (99, 99)) == pytest.approx(8e9)
    del grid[32, 32]
    assert 2e9 <= interpolate(grid, (32, 32)) <= 4e9


def test_every_operator_is_measured_and_every_measured_one_is_used():
    torch.set_num_threads(1)
    tiny = Grid((16,), (16, 32), (16,), (16,), (1024,), 1e9, (), 1, 0.0)
    found = tuple(Rate(p.op, dtype, p.shape, p.work / measure.seconds(p, 0.0))
                  for dtype in ("fp32", "bf16") for p in measure.points(tiny, dtype))  # fmt: skip
    spec = replace(MOE, qk_norm=True, recipe=("attn", "mlp", "moe"))
    used = {
        op.op
        for unit in spec.units
        for both in (operators.forward, operators.backward)
        for op in both(spec, unit, 2, 8)
    }
    used |= {op.op for op in (*operators.entry(spec, spec.units, 2, 8), *operators.norm(9, 9), *operators.step(9, 9))}
    eights = {op.op for op in operators.rounded(operators.forward(spec, "layers.0.mlp", 2, 8), emulated=True)}
    eights |= {op.op for op in operators.rounded(operators.backward(spec, "layers.0.mlp", 2, 8), emulated=True)}
    card = replace(PLAIN, rates=found, flops={"fp32": 1.0}, mem_bw=1e-9)  # a rate that is missed costs an age
    for dtype, more in (("fp32", set()), ("bf16", {"collect"} | eights)):
        assert used | more == {rate.op for rate in found if rate.dtype == dtype} - {"read"}
    for dtype in ("fp32", "bf16", "fp8-emulated"):
        assert sum(cost.forward_s + cost.backward_s for cost in unit_costs(spec, card, 2, 8, dtype)) < 1.0


@pytest.mark.parametrize(
    ("multiply", "number", "kind"), [(m, n, k) for m in (scaled, emulated) for n, k in ((1, "attn"), (2, "mlp"))]
)
def test_rounding_is_about_as_many_calls_as_the_plan_charges(multiply, number, kind):
    torch.set_num_threads(1)
    counted = []
    for products in (Plain(), Float8(multiply=multiply)):
        decoder = Decoder(SPEC, number, number + 1, dtype=torch.bfloat16)
        init(decoder, 0)
        AdamW(decoder, weight_decay=0.1)
        decoder.halve(Halves(), products)
        state = Causal(1, 32)
        x = torch.randn(32, SPEC.hidden).bfloat16().requires_grad_()
        for _ in range(2):  # weights are rounded the first time
            with Calls() as calls:
                decoder(x, state, state.meta()).sum().backward()
        counted.append(calls.found.total())
    rounds = sum(op.times for op in operators.rounded(
        (*operators.forward(SPEC, f"layers.0.{kind}", 1, 32), *operators.backward(SPEC, f"layers.0.{kind}", 1, 32))
    ) if op.op.startswith("matmul"))  # fmt: skip
    assert counted[1] - counted[0] == pytest.approx(rounds * operators.ROUNDS, rel=0.3)


def test_gradients_in_16_bits_are_collected_at_a_rate_of_their_own():
    slow, fast = (
        replace(PLAIN, rates=(Rate("collect", "bf16", (1024,), rate), Rate("collect", "fp32", (1024,), 1.0)))
        for rate in (1e6, 1e9)
    )
    for at in range(1, 3):
        params = SPEC.unit_params(SPEC.units[at])
        late, soon = (unit_costs(SPEC, card, 1, 32, "bf16")[at] for card in (slow, fast))
        assert late.backward_s - soon.backward_s == pytest.approx(params * (1e-6 - 1e-9))
        assert late.weight_s - soon.weight_s == pytest.approx(params * (1e-6 - 1e-9))
        assert late.forward_s == soon.forward_s


def test_a_card_is_charged_for_calling_attention_once_a_layer():
    free = unit_costs(SPEC, PLAIN, 1, 32)
    called = unit_costs(
        SPEC,
        replace(PLAIN, rates=(Rate("attend", "fp32", (32,), 10.0), Rate("attend_back", "fp32", (32,), 5.0))),
        1,
        32,
    )
    more = [(b.forward_s - a.forward_s, b.backward_s - a.backward_s) for a, b in zip(free, called, strict=True)]
    wanted = [(0.1, 0.2) if "attn" in unit else (0.0, 0.0) for unit in SPEC.units]
    assert more == [pytest.approx(each) for each in wanted]
