"""Turn a GGUF file or a checkpoint of bitsandbytes into a folder danlu works on, or a folder into one of those.

Weights stay what they are: a 4-bit GGUF becomes 16-bit floats of the same values, NF4 with double quantization a
quantized folder of the same bits. The folder that comes out works everywhere: danlu quantize, serve, chat.

example:
  danlu convert llama.Q4_K_M.gguf models/llama
  danlu convert models/tiny tiny.gguf --to q8_0
  danlu convert models/tiny-bnb-4bit models/tiny-4 && danlu convert models/tiny models/tiny-bnb --to bnb
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

FOLDER_DTYPES = ("fp32", "bf16", "fp16")
FILE_KINDS = ("f32", "f16", "bf16", "q8_0")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where from, where to, and in which numbers."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="FILE.gguf or a Hugging Face folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, or FILE.gguf")
    parser.add_argument("--to", choices=(*FOLDER_DTYPES, *FILE_KINDS, "bnb"), default=None,
                        help="numbers to write; default: what the weights have, or 16 bits; bnb: NF4")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was done as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what came out."""
    from danlu.cli import output
    from danlu.errors import BadValue

    line = output.Progress("convert")
    to_file, from_file = args.out.suffix == ".gguf", args.model.suffix == ".gguf"
    if not to_file and not from_file and (done := between_folders(args.model, args.out, args.to, line)):
        return report(args, done, line)
    if to_file == from_file or args.to == "bnb":
        raise BadValue(
            f"{args.model} to {args.out}",
            why="one of the two must be a .gguf file and the other a folder; of two folders one is bitsandbytes'",
            fix="danlu convert model.gguf FOLDER, danlu convert FOLDER model.gguf, or FOLDER OUT --to bnb",
        )
    known = FILE_KINDS if to_file else FOLDER_DTYPES
    if args.to is not None and args.to not in known:
        raise BadValue(
            f"--to {args.to}",
            why=f"a {'GGUF file' if to_file else 'folder'} can have {', '.join(known)}",
            fix=f"danlu convert {args.model} {args.out} --to {known[1]}",
        )
    return report(args, (to_gguf if to_file else from_gguf)(args.model, args.out, args.to, line), line)


def report(args: argparse.Namespace, done: dict[str, Any], line: Any) -> int:
    """Say what came out."""
    from danlu.cli import output

    line.done(f"{args.out}: {done['convert.family']}, {done['convert.params']:,} parameters, "
              f"{output.size(done['convert.bytes'])}")  # fmt: skip
    output.write_json(args.json, done)
    return 0


def between_folders(folder: Path, out: Path, to: str | None, line: Any) -> dict[str, Any] | None:
    """From a checkpoint of bitsandbytes or into one, None if neither is asked for. Raises what model/bnb.py raises."""
    from danlu import families
    from danlu.model import bnb

    if to not in (None, "bnb"):
        return None
    if to is None and not bnb.is_bnb(families.read(folder)):
        return None
    spec = (bnb.write if to else bnb.read)(folder, out, line.show)
    written = sum(each.stat().st_size for each in out.iterdir())
    return {"convert.family": spec.family, "convert.params": spec.params, "convert.bytes": written}


def from_gguf(path: Path, out: Path, to: str | None, line: Any) -> dict[str, Any]:
    """Write a folder from a GGUF file. Raises BadGguf, UnsupportedModel, BadModel, WrongWeights, DiskFull."""
    import tempfile

    import torch

    from danlu import gguf
    from danlu.model import gguf as model
    from danlu.model import gguf_tokens
    from danlu.model.export import export

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, None: None}
    file = gguf.read(path)
    spec = model.spec_of(file, str(path))
    sources = model.sources(file, spec, dtypes[to], str(path))
    with tempfile.TemporaryDirectory() as words:
        found = gguf_tokens.write(file.metadata, Path(words), str(path))
        export(sources, spec, out, Path(words) if found else None, progress=line.show)
    written = sum(each.stat().st_size for each in out.iterdir())
    return {"convert.family": spec.family, "convert.params": spec.params, "convert.bytes": written}


def to_gguf(folder: Path, out: Path, to: str | None, line: Any) -> dict[str, Any]:
    """Write a GGUF file from a folder. Raises what loading a folder raises, UnsupportedModel, DiskFull."""
    from danlu.model import gguf as model
    from danlu.model import gguf_tokens, load

    spec, tensors = load.parameters(folder)
    words = gguf_tokens.words(folder, spec.vocab)
    model.write(tensors, spec, out, (to or "f16").upper(), words, line.show)
    return {"convert.family": spec.family, "convert.params": spec.params, "convert.bytes": out.stat().st_size}
