"""A whole model in the native engine beside llama.cpp: decode, prefill, eight sequences at once, experts; and the 84
layers of Yuan2.0-102B, of which four lie in memory and run 21 times over.

Weights are random and made in place, so any shape that fits memory runs; speed does not depend on their values.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from danlu import families, plugins
from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.errors import UnknownPlugin
from danlu.fleet.vendors import cpu
from danlu.kernels.lower import lower
from danlu.kernels.program import FREQUENCIES, Code
from danlu.kernels.runner import Runner
from danlu.kernels.step import Cache, Piece, Step
from danlu.model.net import Causal, Decoder, init
from danlu.model.rope import rope_frequencies
from danlu.nouns import ModelSpec
from danlu.serve.kv import edge_widths
from danlu.shares import cut, in_proportion

PARTS = load("parts/random_model")
SHAPES, DISTINCT, Model, read_rate, PAGE = PARTS.SHAPES, PARTS.DISTINCT, PARTS.Model, PARTS.read_rate, PARTS.PAGE
SOCKETS = 4
SERVER = ("4 sockets, DDR5-4800 x 8, as measured for Yuan2.0-102B", 995e9)  # bytes/s of its memory, read


def measure(rounds: int) -> dict[str, Any]:
    """Keys: decode_vs_iq4nl, decode_vs_q4_0, prefill_vs_iq4nl, batch8_vs_llamacpp, moe_vs_llamacpp (peers built),
    decode_tokens_s, decode_roof, prefill_tokens_s, batch8_tokens_s, bytes_per_param, yuan102b_token_s,
    yuan102b_roof_share, native_logit_error, moe_whole_tokens_s (where memory holds it).
    """
    with torch.inference_mode():
        found = {"native_logit_error": logit_error()}
        found |= beside(rounds)
        found |= experts(rounds) | whole_mixture(rounds)
        found |= yuan(rounds)
    return found


def beside(rounds: int) -> dict[str, Any]:
    """The 1.1B Llama shape beside llama.cpp, in turn."""
    peer, spec = load("peers/llama_bench"), SHAPES["llama-1.1b"]
    per_param = bytes_per_param()
    model, threads, far = Model(spec, tokens=520, sequences=8), torch.get_num_threads(), torch.ones(2**27)
    model.decode(4)
    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, Callable[[], float]] = {
            "decode": lambda: 32 / model.decode(32),
            "prefill 512": lambda: 512 / model.prefill(512),
            "8 sequences": lambda: 8 * 16 / model.decode(16, 8),
        }
        rates: dict[str, Callable[[], float]] = {f"read {way}": lambda way=way: read_rate(far, way) for way in range(4)}
        if peer.there():
            files = {name: Path(folder) / f"{name}.gguf" for name in ("iq4_nl", "q4_0")}
            for name, kind in (("iq4_nl", peer.IQ4_NL), ("q4_0", peer.Q4_0)):
                peer.write(files[name], spec, kind)
                cases[f"decode, llama.cpp {name}"] = lambda name=name: peer.speed(files[name], threads, tokens=32)
            cases["prefill 512, llama.cpp iq4_nl"] = lambda: peer.speed(files["iq4_nl"], threads, prompt=512)
            cases["8 sequences, llama.cpp iq4_nl"] = lambda: peer.batch_speed(files["iq4_nl"], threads, 8, 16)
        seen = in_turn({**cases, **rates}, rounds)
    show("Llama shape, 1.1 B parameters", {name: seen[name] for name in cases}, "tokens/s")
    roof = max(max(seen[name]) for name in rates)
    share = statistics.median(seen["decode"]) * model.token_bytes / roof
    print(f"decode reads {share:.0%} of {roof / 1e9:.1f} GB/s, the best of {4 * rounds} readings; "
          f"{per_param:.3f} bytes per parameter resident")  # fmt: skip
    middle = {name: statistics.median(each) for name, each in seen.items()}
    pairs = {"decode_vs_iq4nl": ("decode", "decode, llama.cpp iq4_nl"),
             "decode_vs_q4_0": ("decode", "decode, llama.cpp q4_0"),
             "prefill_vs_iq4nl": ("prefill 512", "prefill 512, llama.cpp iq4_nl"),
             "batch8_vs_llamacpp": ("8 sequences", "8 sequences, llama.cpp iq4_nl")}  # fmt: skip
    ratios = {key: ratio(seen, *pair) for key, pair in pairs.items() if pair[1] in seen}
    return {**ratios, "decode_tokens_s": middle["decode"], "decode_roof": share,
            "prefill_tokens_s": middle["prefill 512"], "batch8_tokens_s": middle["8 sequences"],
            "bytes_per_param": per_param}  # fmt: skip


def experts(rounds: int) -> dict[str, Any]:
    """Eight of 48 layers of a 30B-A3B shape beside llama.cpp's IQ4_NL of the same eight."""
    peer, spec = load("peers/llama_bench"), replace(SHAPES["qwen3-30b-a3b"], layers=DISTINCT["qwen3-30b-a3b"])
    model, threads = Model(spec, tokens=40), torch.get_num_threads()
    model.decode(4)
    cases: dict[str, Callable[[], float]] = {"decode": lambda: 32 / model.decode(32)}
    with tempfile.TemporaryDirectory() as folder:
        if peer.there():
            file = Path(folder) / "moe.gguf"
            peer.write(file, spec, peer.IQ4_NL)
            cases["decode, llama.cpp iq4_nl"] = lambda: peer.speed(file, threads, tokens=32)
        seen = in_turn(cases, rounds)
    show(f"30B-A3B shape, {spec.layers} of 48 layers, 128 experts", seen, "tokens/s")
    return {"moe_vs_llamacpp": ratio(seen, *cases)} if len(cases) > 1 else {}


def whole_mixture(rounds: int) -> dict[str, Any]:
    """All 48 layers of the 30B-A3B shape, each in memory of its own, where memory holds them; none of it twice."""
    spec = SHAPES["qwen3-30b-a3b"]
    if spec.params * 0.55 > 0.9 * cpu.available():
        print(f"all {spec.layers} layers take {spec.params * 0.52 / 1e9:.0f} GB, which this machine does not have free")
        return {}
    model = Model(spec, spec.layers, tokens=40, gathered=False)
    model.decode(4)
    seen = in_turn({"decode": lambda: 32 / model.decode(32)}, rounds)
    show(f"30B-A3B shape, all {spec.layers} layers, {spec.params / 1e9:.1f} B parameters", seen, "tokens/s")
    return {"moe_whole_tokens_s": statistics.median(seen["decode"])}


def yuan(rounds: int) -> dict[str, Any]:
    """The whole 84-layer token of Yuan2.0-102B, by four layers 21 times over, and its share of the read roof."""
    model = Model(SHAPES["yuan-102b"], DISTINCT["yuan-102b"], tokens=32)
    far = torch.ones(2**27)
    model.decode(1)
    rates: dict[str, Callable[[], float]] = {f"read {way}": lambda way=way: read_rate(far, way) for way in range(4)}
    seen = in_turn({"token": lambda: model.decode(1), **rates}, rounds)
    seconds, roof = statistics.median(seen["token"]), max(max(seen[name]) for name in rates)
    share = model.token_bytes / seconds / roof
    show(f"Yuan2.0-102B shape, {model.token_bytes / 1e9:.1f} GB a token", {"token": seen["token"]}, "s")
    print(f"it reads {share:.0%} of {roof / 1e9:.1f} GB/s; at that share {SERVER[0]}: "
          f"{1e3 * model.token_bytes / SERVER[1] / share:.0f} ms a token (forecast)")  # fmt: skip
    return {"yuan102b_token_s": seconds, "yuan102b_roof_share": share}


def profile(shape: str) -> None:
    """Where the time of a decoded token and of a prompt goes, by operator; for `danlu bench kernels --model SHAPE`."""
    if shape not in SHAPES:
        raise UnknownPlugin(f"there is no shape {shape!r}", why=f"there are: {', '.join(SHAPES)}",
                            fix="danlu bench kernels --model llama-1.1b")  # fmt: skip
    spec = SHAPES[shape]
    distinct = DISTINCT.get(shape)
    if shape == "qwen3-30b-a3b":
        spec = replace(spec, layers=DISTINCT[shape])
    prompt = 128 if spec.params < 2e10 else 16
    with torch.inference_mode():
        model = Model(spec, distinct, tokens=max(prompt, 32))
        model.decode(1)
        few = 16 if spec.params < 2e10 else 1
        token = split(model, lambda: model.decode(few) / few, few)
        text = split(model, lambda: model.prefill(prompt), 1)
        roof = max(read_rate(far, way) for far in [torch.ones(2**27)] for way in (0, 1, 2, 3) * 3)
    seconds = sum(token.values())
    rate = model.token_bytes / seconds
    server, how = sockets(spec, token, roof)
    rows = [[kind] + [cell for each in (token, text, server)
                      for cell in (f"{1e3 * each[kind]:.2f}", f"{each[kind] / sum(each.values()):.0%}")]
            for kind in sorted(token, key=lambda kind: -token[kind])]  # fmt: skip
    head = [f"{shape}, {spec.layers} layers", "a token, ms", "share", f"{prompt} tokens, ms", "share",
            "a token there, ms", "share"]  # fmt: skip
    print(table(head, rows))
    print(f"\na token reads {model.token_bytes / 1e9:.2f} GB of weights: {rate / 1e9:.1f} GB/s, {rate / roof:.0%} of a "
          f"roof of {roof / 1e9:.1f} GB/s")  # fmt: skip
    print(f"there (forecast): {SERVER[0]}, at that share of {SERVER[1] / 1e9:.0f} GB/s; {how}: "
          f"{1e3 * sum(server.values()):.1f} ms a token")  # fmt: skip


def sockets(spec: ModelSpec, token: Mapping[str, float], roof: float) -> tuple[dict[str, float], str]:
    """Forecast of a token of the model shared by four sockets, by kind of operator, and how the sums were counted.

    token  seconds of a token here, where memory gives `roof` bytes/s
    All but the sums goes as fast as memory is read. A sum is counted as that of two processes of this machine, twice
    over since four add twice as much as two; what lies between sockets makes it slower.
    """
    share = cut(spec, in_proportion(spec, (1,) * SOCKETS), 64)[0]
    sums = sum(op.code == Code.REDUCE for op in lower(spec, share).ops)
    reduce, size = load("kernels/reduce"), max(1, spec.hidden * 4 // 1024)
    there = {kind: seconds * roof / SERVER[1] for kind, seconds in token.items()}
    if not reduce.possible():
        return there, "sums not counted"
    each = statistics.median(reduce.between((size,), 5)[0][0])
    there["reduction"] = SOCKETS / 2 * sums * each
    return there, f"{sums} sums of {size} KiB, {1e6 * each:.1f} us each between two processes here, twice that there"


KINDS: Mapping[Code, str] = {
    Code.LINEAR: "linear", Code.EXPERTS: "linear", Code.COLLECT: "linear", Code.ATTEND: "attention",
    Code.STORE: "attention", Code.ROPE: "attention", Code.ANGLES: "attention", Code.PAST: "convolution",
    Code.REDUCE: "reduction", Code.GATHER: "reduction",
}  # fmt: skip


def split(model: Any, run: Callable[[], float], steps: int) -> dict[str, float]:
    """Seconds by kind of operator, per step. A filter's products count as convolution."""
    runner = model.runner
    run()
    runner.seconds.zero_()
    runner.measure(True)
    run()
    runner.measure(False)
    found: Counter[str] = Counter({"linear": 0.0, "attention": 0.0, "convolution": 0.0, "reduction": 0.0, "other": 0.0})
    for op, seconds in zip(runner.program.ops, runner.seconds.tolist(), strict=True):
        filters = any(".conv" in name for name in op.weights)
        found["convolution" if filters else KINDS.get(op.code, "other")] += seconds / steps
    return dict(found)


def logit_error() -> float:
    """Greatest difference of a logit between the engine in fp32 and the decoder's modules, over every family."""
    worst = 0.0
    for name in plugins.names("danlu.families"):
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
                 "intermediate_size": 96, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48,
                 "num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16,
                 "vocab_size": 211, "max_position_embeddings": 256}  # fmt: skip
        spec = families.spec({"model_type": name, **sizes})
        decoder = Decoder(spec).requires_grad_(False)
        init(decoder, 0)
        tokens = torch.arange(64) * 7 % spec.vocab
        state = Causal(1, 64)
        want = decoder(tokens, state, state.meta())
        kv = [tuple(torch.zeros(64, spec.kv_heads, spec.head_dim) for _ in range(2)) for _ in range(spec.layers)]
        edges = [[torch.zeros(4, width) for width in edge_widths(spec)] for _ in range(spec.layers)]
        weights = {**dict(decoder.named_parameters()), FREQUENCIES: rope_frequencies(spec)}
        runner = Runner(lower(spec), weights, Cache(kv, PAGE, edges), precision="fp32")
        got = runner.run(Step(tokens.tolist(), [Piece(range(4), 0, 64)], range(64)))
        worst = max(worst, float((got - want).abs().max()))
    return worst


def bytes_per_param() -> float:
    """What a process of this model grows by, weights and 64 tokens of one sequence, per parameter."""
    before, spec = resident(), SHAPES["llama-1.1b"]
    model = Model(spec, tokens=64)
    model.decode(32)
    return (resident() - before) / spec.params


def resident() -> int:
    """Bytes of this process that are in memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) * 1024


def in_turn(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Every case once a round, after one round that does not count."""
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for i in range(rounds + 1):
        for name, run in cases.items():
            value = run()
            if i:
                seen[name].append(value)
    return seen


def ratio(seen: Mapping[str, list[float]], ours: str, theirs: str) -> float:
    """Median over the rounds of ours / theirs in the same round."""
    return statistics.median(a / b for a, b in zip(seen[ours], seen[theirs], strict=True))


def show(title: str, seen: Mapping[str, list[float]], unit: str) -> None:
    """One row per case."""
    rows = [[name, *(f"{each:.4g}" for each in (statistics.median(every), min(every), max(every)))]
            for name, every in seen.items()]  # fmt: skip
    print(f"\n{table([f'{title}, {unit}', 'median', 'least', 'most'], rows)}")
