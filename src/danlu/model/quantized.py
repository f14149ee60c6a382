"""The quantized folder of docs/formats.md, read: 4-bit matrices where the decoder has its Linears."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu import families
from danlu.errors import NewerFormat, WrongNf4
from danlu.kernels import nf4
from danlu.model.net import Decoder, Linear
from danlu.nouns import ModelSpec
from danlu.tensorfile import Entry

VERSION = 1
PARTS = {"packed": "", "absmax": ".absmax", "scale": ".scale", "offset": ".offset"}  # field of Nf4 -> end of the name
ROUTING = ("router.weight", "shared_gate.weight")  # small, and an error there sends a token to other experts
AGAIN = "quantize the model again: danlu quantize MODEL OUT"


class Nf4Linear(nn.Module):
    """A Linear whose weight is an Nf4 matrix: the same call, about an eighth of the bytes of fp32."""

    def __init__(self, weight: nf4.Nf4, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return nf4.linear(x, self.weight, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Nf4Linear:
        """Follow .to(card); the parts keep their dtypes, whatever the rest of the model is turned to."""
        self.weight = self.weight.map(lambda part: fn(part).to(part.dtype))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def matrices(spec: ModelSpec) -> tuple[str, ...]:
    """Our names of the matrices that are kept in 4 bits."""
    wanted = families.shapes(spec).items()
    return tuple(n for n, shape in wanted if n.startswith("layers.") and len(shape) == 2 and not n.endswith(ROUTING))


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's tensors by their names in a quantized folder, before they are quantized."""
    theirs = families.names(spec)
    return {theirs[ours]: shape for ours, shape in families.shapes(spec).items()}


def parts_of(rows: int, columns: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Field of Nf4 -> dtype and shape in the file, for one matrix."""
    blocks = -(-columns // nf4.BLOCK)
    return {
        "packed": ("U8", (rows, blocks * nf4.BLOCK // 2)), "absmax": ("U8", (rows, blocks)),
        "scale": ("F32", (-(-rows * blocks // nf4.ABSMAX_BLOCK),)), "offset": ("F32", ()),
    }  # fmt: skip


def is_quantized(config: Mapping[str, Any], where: Path) -> bool:
    """Whether a folder's config says that it is quantized. Raises NewerFormat for a version we do not know."""
    if "danlu_quant" not in config:
        return False
    said = config["danlu_quant"]
    if type(said) is not int or said != VERSION:
        raise NewerFormat(f"a quantized folder of version {said!r}", where=str(where),
                          why=f"this danlu reads version {VERSION}",
                          fix="update danlu, or quantize the model again: danlu quantize MODEL OUT")
    return True


def unpacked(spec: ModelSpec, entries: Mapping[str, Entry], where: Path) -> dict[str, Entry]:
    """The entries as those of the model before it was quantized: every 4-bit matrix one entry, without bytes.

    load.check can then check them as for any other folder. Raises WrongNf4 if a part is missing or misshapen.
    """
    theirs, shapes, whole = families.names(spec), families.shapes(spec), dict(entries)
    for ours in matrices(spec):
        name = theirs[ours]
        for field, (dtype, shape) in parts_of(*shapes[ours]).items():
            found = whole.pop(name + PARTS[field], None)
            if found is None or (found.dtype, found.shape) != (dtype, shape):
                text = "is missing" if found is None else f"is {found.dtype} {list(found.shape)}"
                raise WrongNf4(f"{name}{PARTS[field]} {text}", where=str(where),
                               why=f"a matrix of {shapes[ours][0]} x {shapes[ours][1]} needs {dtype} {list(shape)}",
                               fix=AGAIN)
        whole[name] = Entry("BF16", shapes[ours], b"")
    return whole


def place(decoder: Decoder, read: Callable[[str], Tensor], device: str | torch.device) -> None:
    """Put the 4-bit matrices of a quantized folder where the decoder's Linears are; on a CPU no byte is copied.

    read  gives a tensor of the folder by its name there
    Raises WrongNf4 when a scale is not finite or the decoder holds only a share of the matrices.
    """
    theirs, shapes = families.names(decoder.spec), families.shapes(decoder.spec)
    for ours in matrices(decoder.spec):
        home, leaf = ours.removesuffix(".weight").rsplit(".", 1)
        if ".".join(ours.split(".")[:3]) not in decoder.units:
            continue
        unit = decoder.get_submodule(home)
        linear = getattr(unit, leaf)
        assert isinstance(linear, Linear)
        name, (rows, columns) = theirs[ours], shapes[ours]
        if tuple(linear.weight.shape) != (rows, columns):
            raise WrongNf4(f"a share of {name} is asked for",
                           why=f"the card holds {list(linear.weight.shape)} of {rows} x {columns}; scales cross cuts",
                           fix="give the stage one card, or serve the model unquantized")
        setattr(unit, leaf, Nf4Linear(matrix(name, (rows, columns), lambda each: read(each).to(device)), linear.bias))


def matrix(name: str, shape: tuple[int, int], read: Callable[[str], Tensor]) -> nf4.Nf4:
    """The 4-bit matrix of that name in the folder. Raises WrongNf4 when a scale is not finite."""
    fields = {field: read(name + end) for field, end in PARTS.items()}
    if not (fields["scale"].isfinite().all() and fields["offset"].isfinite()):
        raise WrongNf4(f"a scale of {name} is not finite", why="the file was damaged or written by something else",
                       fix=AGAIN)
    return nf4.Nf4(**fields, shape=shape)
