"""First token with a cold and a warm prefix, and decoding beside `transformers`, on a random model over real HTTP."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from danlu.cli import client
from danlu.cli.output import span, table
from danlu.cli.serve import serving
from danlu.data import bpe
from danlu.model.export import export
from danlu.model.net import Decoder, init
from danlu.nouns import ModelSpec

PREFIX, ANSWER = 1_000, 64
SPEC = ModelSpec("llama", layers=8, hidden=256, heads=8, kv_heads=4, head_dim=32, ffn=768, vocab=2048, positions=2048)


def measure(rounds: int) -> dict[str, Any]:
    """Keys: ttft_cold_s, ttft_warm_s, ttft_ratio, ttft_vs_transformers (both cold), decode_tokens_s,
    decode_vs_transformers, decode_int8_kv (of the tokens/s with fp32 KV), decode_tp2 (of those of one process),
    equal_to_transformers.
    """
    import transformers

    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "model"
        tokenizer = Path(folder) / "tokenizer"
        tokenizer.mkdir()
        words = Path(client.__file__).read_text(encoding="utf-8")
        bpe.save(bpe.train([words, words[::-1]], 400), tokenizer)
        decoder = Decoder(SPEC)
        init(decoder, 0)
        export(dict(decoder.named_parameters()), SPEC, home, tokenizer)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(home).eval()
        cold, warm, their_cold, equal = [], [], [], True
        token: dict[str, list[float]] = {name: [] for name in ("ours", "8 bits", "2 processes", "theirs")}
        with ExitStack() as servers:
            plain, eight, two = (servers.enter_context(serving(home, "--dtype", "fp32", *more))
                                 for more in ((), ("--kv", "int8"), ("--tp", "2")))  # fmt: skip
            ways = [("ours", plain), ("8 bits", eight), ("2 processes", two)]
            for _, server in ways:
                client.complete(server.url, server.model, [5] * 20, 4)
            for _ in range(rounds):
                ways.append(ways.pop(0))  # nobody is always the first behind the other program's threads
                prefix = torch.randint(3, 400, (PREFIX,), generator=generator).tolist()
                for name, server in ways:
                    first = client.complete(server.url, server.model, [*prefix, 7], 2, temperature=0)
                    found = client.complete(server.url, server.model, [*prefix, 9], ANSWER, temperature=0, logprobs=0)
                    token[name].append((found.total_s - found.first_s) / (ANSWER - 1))
                    if name == "ours":
                        second = found
                        cold.append(first.first_s)
                        warm.append(second.first_s)
                ids = torch.tensor([[*prefix, 9]])
                with torch.inference_mode():
                    began = time.monotonic()
                    theirs.generate(ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
                    one = time.monotonic() - began
                    began = time.monotonic()
                    said = theirs.generate(ids, max_new_tokens=ANSWER, do_sample=False, pad_token_id=0)
                their_cold.append(one)
                token["theirs"].append((time.monotonic() - began - one) / (ANSWER - 1))
                text = transformers.AutoTokenizer.from_pretrained(home).decode(said[0, ids.shape[1] :])
                equal = equal and text.startswith(second.text.rstrip("\ufffd")[:100])
    rows = {f"first token, {PREFIX} tokens cold": cold, "first token, prefix in cache": warm,
            f"first token, {PREFIX} tokens, transformers": their_cold, "a decoded token": token["ours"],
            "a decoded token, KV in 8 bits": token["8 bits"], "a decoded token, 2 processes": token["2 processes"],
            "a decoded token, transformers": token["theirs"]}  # fmt: skip
    print(table(["figure", "median", "least", "most"], [
        [name, *(span(f(each)) for f in (statistics.median, min, max))] for name, each in rows.items()
    ]))  # fmt: skip
    ours = token["ours"]
    return {"ttft_cold_s": statistics.median(cold), "ttft_warm_s": statistics.median(warm),
            "ttft_ratio": statistics.median(cold) / statistics.median(warm),
            "ttft_vs_transformers": ratio(their_cold, cold), "decode_tokens_s": 1 / statistics.median(ours),
            "decode_vs_transformers": ratio(token["theirs"], ours), "decode_int8_kv": ratio(ours, token["8 bits"]),
            "decode_tp2": ratio(ours, token["2 processes"]), "equal_to_transformers": equal}  # fmt: skip


def ratio(a: list[float], b: list[float]) -> float:
    """Median over the rounds of a / b in the same round."""
    return statistics.median(one / other for one, other in zip(a, b, strict=True))
