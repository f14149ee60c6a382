"""First token with a cold and a warm prefix, and decoding beside `transformers`, on a random model over real HTTP."""

from __future__ import annotations

import statistics
import tempfile
import time
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
    """Keys: ttft_cold_s, ttft_warm_s, ttft_ratio, decode_tokens_s, decode_vs_transformers, equal_to_transformers."""
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
        cold, warm, ours_s, theirs_s, equal = [], [], [], [], True
        with serving(home, "--dtype", "fp32") as server:
            client.complete(server.url, server.model, [5] * 20, 4)
            for _ in range(rounds):
                prefix = torch.randint(3, 400, (PREFIX,), generator=generator).tolist()
                first = client.complete(server.url, server.model, [*prefix, 7], 2, temperature=0)
                second = client.complete(server.url, server.model, [*prefix, 9], ANSWER, temperature=0, logprobs=0)
                cold.append(first.first_s)
                warm.append(second.first_s)
                ours_s.append((second.total_s - second.first_s) / (ANSWER - 1))
                ids = torch.tensor([[*prefix, 9]])
                with torch.inference_mode():
                    began = time.monotonic()
                    theirs.generate(ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
                    one = time.monotonic() - began
                    began = time.monotonic()
                    said = theirs.generate(ids, max_new_tokens=ANSWER, do_sample=False, pad_token_id=0)
                theirs_s.append((time.monotonic() - began - one) / (ANSWER - 1))
                text = transformers.AutoTokenizer.from_pretrained(home).decode(said[0, ids.shape[1] :])
                equal = equal and text.startswith(second.text.rstrip("\ufffd")[:100])
    row = {name: statistics.median(each) for name, each in
           (("cold", cold), ("warm", warm), ("ours", ours_s), ("theirs", theirs_s))}  # fmt: skip
    print(table(["figure", "median", "least", "most"], [
        [f"first token, {PREFIX} tokens cold", span(row["cold"]), span(min(cold)), span(max(cold))],
        ["first token, prefix in cache", span(row["warm"]), span(min(warm)), span(max(warm))],
        ["a decoded token", span(row["ours"]), span(min(ours_s)), span(max(ours_s))],
        ["a decoded token, transformers", span(row["theirs"]), span(min(theirs_s)), span(max(theirs_s))],
    ]))  # fmt: skip
    return {"ttft_cold_s": row["cold"], "ttft_warm_s": row["warm"], "ttft_ratio": row["cold"] / row["warm"],
            "decode_tokens_s": 1 / row["ours"], "decode_vs_transformers": row["theirs"] / row["ours"],
            "equal_to_transformers": equal}  # fmt: skip
