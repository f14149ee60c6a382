"""Model folders as their publishers write them: a tiny random model by transformers, a byte-level BPE beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = (
    "To whom it may concern: a card is lost and the others go on. Nobody waits for the slowest one.\n"
    "Know what every card can do; split the work in that proportion; move few bytes; survive every fault.\n"
    "丹炉里的火不能熄。一张卡坏了，其余的卡继续算。\n"
)
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
POSITIONS = 640


def bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<|end|>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return tokenizer


def write(folder: Path, family: str = "llama", seed: int = 0):
    """A model folder; returns transformers' own model and tokenizer of it."""
    import transformers

    tokenizer = bpe()
    sizes = dict(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=POSITIONS, initializer_range=0.25,
        bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    if family == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    else:
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes, head_dim=16, tie_word_embeddings=True))
    model = model.eval().requires_grad_(False)
    model.save_pretrained(folder)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=TEMPLATE)
    fast.save_pretrained(folder)
    return model, fast


def answer(model, tokenizer, ids: list[int], count: int) -> str:
    """What transformers answers, greedily."""
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=count,
        pad_token_id=0,
    )
    return tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
