"""The quantized folder of docs/formats.md, read: 4-bit matrices where the decoder has its Linears.

Version 2 has a matrix in the order of the kernels, which multiply it where the file is mapped; version 1, row by row,
is turned into that order when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu import families
from danlu.errors import NewerFormat, WrongNf4
from danlu.kernels import linear, nf4, q4
from danlu.model.net import Decoder, Linear
from danlu.nouns import ModelSpec
from danlu.tensorfile import Entry

VERSION = 2  # what quantize.py writes
PARTS = {"codes": "", "absmax": ".absmax", "scale": ".scale", "levels": ".levels"}  # field of Q4 -> end of the name
MAPPED = {"map": ".map", "offset": ".offset"}  # further fields of one whose absmax are looked up
REST = ".rest"  # after the name of a matrix in 8 bits: its second 4
PARTS_1 = {"packed": "", "absmax": ".absmax", "scale": ".scale", "offset": ".offset"}  # of version 1: field of Nf4
TAGS = {torch.uint8: "U8", torch.float32: "F32"}
ROUTING = ("router.weight", "shared_gate.weight")  # small, and an error there sends a token to other experts
AGAIN = "quantize the model again: danlu quantize MODEL OUT"


class Q4Linear(nn.Module):
    """A Linear whose weight is a Q4 matrix: the same call, about an eighth of the bytes of fp32."""

    def __init__(self, weight: q4.Q4, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return linear.linear(x, self.weight, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Q4Linear:
        """Follow .to(card); the parts keep their dtypes, whatever the rest of the model is turned to."""
        self.weight = self.weight.each(lambda part: fn(part).to(part.dtype))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def matrices(spec: ModelSpec) -> tuple[str, ...]:
    """Our names of the matrices of the layers that may be kept in 4 bits."""
    wanted = families.shapes(spec).items()
    return tuple(n for n, shape in wanted if n.startswith("layers.") and len(shape) == 2 and not n.endswith(ROUTING))


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's tensors by their names in a quantized folder, before they are quantized."""
    theirs = families.names(spec)
    return {theirs[ours]: shape for ours, shape in families.shapes(spec).items()}


def parts_of(rows: int, columns: int, *, mapped: bool = False) -> dict[str, tuple[str, tuple[int, ...]]]:
    """End of the name -> dtype and shape in a file of version 2, for one matrix without a rest."""
    found, wanted = q4.parts_of(rows, columns, mapped), PARTS | (MAPPED if mapped else {})
    return {end: (TAGS[found[field][0]], found[field][1]) for field, end in wanted.items()}


def _parts_of_1(rows: int, columns: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The same in a file of version 1."""
    blocks = -(-columns // nf4.BLOCK)
    return {
        "": ("U8", (rows, blocks * nf4.BLOCK // 2)), ".absmax": ("U8", (rows, blocks)),
        ".scale": ("F32", (-(-rows * blocks // nf4.ABSMAX_BLOCK),)), ".offset": ("F32", ()),
    }  # fmt: skip


def version_of(config: Mapping[str, Any], where: Path) -> int:
    """The version of a quantized folder, 0 for one that is not. Raises NewerFormat for a version we do not know."""
    if "danlu_quant" not in config:
        return 0
    said = config["danlu_quant"]
    if type(said) is not int or not 1 <= said <= VERSION:
        raise NewerFormat(
            f"a quantized folder of version {said!r}",
            where=str(where),
            why=f"this danlu reads versions 1 to {VERSION}",
            fix="update danlu, or quantize the model again: danlu quantize MODEL OUT",
        )
    return said


def small(spec: ModelSpec, entries: Mapping[str, Entry], version: int) -> tuple[str, ...]:
    """Our names of the matrices that a folder of that version keeps in 4 or 8 bits."""
    if version == 1:
        return matrices(spec)
    theirs = families.names(spec)
    ends = tuple(end for end in (*PARTS.values(), *MAPPED.values(), REST) if end)
    return tuple(ours for ours, shape in families.shapes(spec).items() if len(shape) == 2 and (
        any(theirs[ours] + end in entries for end in ends)
        or (theirs[ours] in entries and entries[theirs[ours]].dtype == "U8")))  # fmt: skip


def unpacked(spec: ModelSpec, entries: Mapping[str, Entry], version: int, where: Path) -> dict[str, Entry]:
    """The entries as those of the model before it was quantized: every small matrix one entry, without bytes.

    load.check can then check them as for any other folder. Raises WrongNf4 if a part is missing or misshapen.
    """
    theirs, shapes, whole = families.names(spec), families.shapes(spec), dict(entries)
    for ours in small(spec, entries, version):
        name, (rows, columns) = theirs[ours], shapes[ours]
        for each in (name, name + REST) if _has_rest(name, entries, version) else (name,):
            said = parts_of(rows, columns, mapped=each + MAPPED["map"] in entries)
            for end, (dtype, shape) in (_parts_of_1(rows, columns) if version == 1 else said).items():
                found = whole.pop(each + end, None)
                if found is None or (found.dtype, found.shape) != (dtype, shape):
                    text = "is missing" if found is None else f"is {found.dtype} {list(found.shape)}"
                    raise WrongNf4(
                        f"{each}{end} {text}",
                        where=str(where),
                        why=f"a matrix of {rows} x {columns} needs {dtype} {list(shape)}",
                        fix=AGAIN,
                    )
        whole[name] = Entry("BF16", shapes[ours], b"")
    return whole


def _has_rest(name: str, entries: Mapping[str, Entry], version: int) -> bool:
    return version > 1 and any(each.startswith(name + REST) for each in entries)


def place(
    decoder: Decoder, entries: Mapping[str, Entry], version: int, read: Callable[[str], Tensor],
    device: str | torch.device,
) -> None:  # fmt: skip
    """Put the small matrices of the layers where the decoder's Linears are; of version 2 no byte is copied on a CPU.

    read  gives a tensor of the folder by its name there
    Raises WrongNf4 when a scale is not finite or the decoder holds only a share of the matrices.
    """
    theirs, shapes = families.names(decoder.spec), families.shapes(decoder.spec)
    for ours in small(decoder.spec, entries, version):
        home, leaf = ours.removesuffix(".weight").rsplit(".", 1) if ours.startswith("layers.") else ("", "")
        if ".".join(ours.split(".")[:3]) not in decoder.units or not home:
            continue
        unit = decoder.get_submodule(home)
        whole = getattr(unit, leaf)
        assert isinstance(whole, Linear)
        name, (rows, columns) = theirs[ours], shapes[ours]
        if tuple(whole.weight.shape) != (rows, columns):
            raise WrongNf4(
                f"a share of {name} is asked for",
                why=f"the card holds {list(whole.weight.shape)} of {rows} x {columns}; scales cross cuts",
                fix="give the stage one card, or serve the model unquantized",
            )
        found = matrix(name, (rows, columns), entries, version, read).each(lambda part: part.to(device))
        setattr(unit, leaf, Q4Linear(found, whole.bias))


def matrix(
    name: str, shape: tuple[int, int], entries: Mapping[str, Entry], version: int, read: Callable[[str], Tensor]
) -> q4.Q4:
    """The small matrix of that name in the folder. Raises WrongNf4 when a scale is not finite."""
    if version == 1:
        found = _finite(name, {field: read(name + end) for field, end in PARTS_1.items()})
        return q4.of_nf4(nf4.Nf4(**found, shape=shape))
    rest = matrix(name + REST, shape, entries, version, read) if _has_rest(name, entries, version) else None
    wanted = PARTS | (MAPPED if name + MAPPED["map"] in entries else {})
    fields: dict[str, Any] = dict(_finite(name, {field: read(name + end) for field, end in wanted.items()}))
    if float(fields["levels"].abs().max()) > 1:
        raise WrongNf4(f"a level of {name} is beyond 1", why="the kernels count on levels within [-1, 1]", fix=AGAIN)
    return q4.Q4(**fields, shape=shape, rest=rest)


def _finite(name: str, fields: dict[str, Tensor]) -> dict[str, Tensor]:
    """The fields themselves. Raises WrongNf4 when a float among them is none."""
    for field, found in fields.items():
        if found.is_floating_point() and not found.isfinite().all():
            raise WrongNf4(
                f"the {field} of {name} is not finite",
                why="the file was damaged or written by something else",
                fix=AGAIN,
            )
    return fields
