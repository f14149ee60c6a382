"""Rooms import only what the table in docs/design.md lets them; lazy imports count."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parent.parent / "src" / "danlu"
EVERYWHERE = {"nouns", "recipe", "errors", "events", "plugins", "native", "tokens", "atomic", "ready", "tensorfile",
              "gguf", "ggml", "families", "shares", "lines", "__init__"}  # fmt: skip
MAY_IMPORT = {
    "fleet": set(), "plan": set(), "store": set(), "launch": set(),
    "kernels": {"fleet"}, "comm": {"fleet"}, "memory": {"fleet"}, "fault": {"fleet"},
    "model": {"kernels"},
    "data": {"store"},
    "train": {"fleet", "plan", "store", "kernels", "model", "comm", "memory", "fault"},
    "serve": {"fleet", "plan", "store", "kernels", "model", "comm", "memory", "fault"},
    "pool": {"fleet", "plan", "memory", "fault", "comm", "launch"},
}  # fmt: skip
TORCH_FREE = EVERYWHERE | {"fleet", "plan", "store", "launch", "cli"}


def room(path: Path) -> str:
    parts = path.relative_to(SRC).parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms of danlu that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in dotted if name.startswith("danlu.") and name.count(".") >= 1}
    return {name for name in found if (SRC / name).is_dir() or (SRC / f"{name}.py").exists()}


def test_every_arrow_is_in_the_table():
    bad = []
    for path in sorted(SRC.rglob("*.py")):
        here = room(path)
        if here == "cli" or here == "__main__":
            continue
        allowed = EVERYWHERE | {here} | (MAY_IMPORT[here] if here not in EVERYWHERE else set())
        bad += [f"{path.relative_to(SRC)} -> {there}" for there in imports(path) - allowed]
    assert not bad, "\n".join(bad)


def test_every_room_is_in_the_table():
    rooms = {p.name for p in SRC.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert rooms - EVERYWHERE - {"cli"} <= set(MAY_IMPORT)


def test_deciding_rooms_load_no_torch():
    modules = [
        ".".join(("danlu", *p.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")
        for p in sorted(SRC.rglob("*.py"))
        if room(p) in TORCH_FREE and p.stem != "__main__"
    ]
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\n"
    code += "sys.exit(1 if 'torch' in sys.modules else 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
