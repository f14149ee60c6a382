"""The native library is built once, and its absence is said, never an error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from danlu import native
from danlu.kernels import ops


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with one small source."""
    (tmp_path / "csrc" / "core").mkdir(parents=True)
    source = 'extern "C" __attribute__((visibility("default"))) int danlu_abi() { return 1; }'
    (tmp_path / "csrc" / "core" / "one.cpp").write_text(source)
    return tmp_path


needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")


@needs_compiler
def test_a_library_is_built_once_and_again_when_a_source_changes(root):
    first = native.build(root)
    assert first.seconds > 0 and native.build(root) == native.Built(first.path, 0.0)
    native.open_library(first.path)
    (root / "csrc" / "core" / "two.h").write_text("// new")
    assert native.build(root).path != first.path
    assert sorted(p.suffix for p in (root / "build").iterdir()) == ["", ".so", ".so"]


@needs_compiler
def test_a_build_says_that_it_compiles_and_a_library_that_is_there_says_nothing(root, capsys):
    native.build(root, say=native.compiling)
    assert "compiling the native library of 1 files" in capsys.readouterr().err
    native.build(root, say=native.compiling)
    assert not capsys.readouterr().err


@needs_compiler
def test_a_failed_compile_names_the_error_and_leaves_nothing(root):
    (root / "csrc" / "core" / "two.cpp").write_text("int broken(")
    with pytest.raises(native.NotBuilt, match="two.cpp.*error"):
        native.build(root)
    assert [p.name for p in (root / "build").iterdir()] == ["lock"]


def test_no_compiler_is_said(root, monkeypatch):
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(native.NotBuilt, match="no C\\+\\+ compiler"):
        native.build(root)
    with pytest.raises(native.NotBuilt):
        native.build(root, cxx=str(root / "gone"))


def test_a_broken_library_is_refused(tmp_path):
    broken = tmp_path / "libdanlu-0.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(native.NotBuilt, match="does not load"):
        native.open_library(broken)


@needs_compiler
def test_a_library_of_another_abi_is_refused(root):
    source = root / "csrc" / "core" / "one.cpp"
    source.write_text(source.read_text().replace("return 1", "return 2"))
    with pytest.raises(native.NotBuilt, match="ABI 2"):
        native.open_library(native.build(root).path)


@pytest.mark.procs
@needs_compiler
def test_processes_that_start_together_build_one_library(root):
    code = "import sys, pathlib; from danlu import native; print(native.build(pathlib.Path(sys.argv[1])).seconds > 0)"
    argv = [sys.executable, "-c", code, str(root)]
    procs = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sorted(p.communicate()[0].strip() for p in procs) == ["False", "False", "False", "True"]
    assert len(list((root / "build").glob("*.so"))) == 1


@pytest.mark.procs
def test_without_a_compiler_the_operators_run_in_torch_and_say_so_once(tmp_path):
    """A copy of the package in a checkout without a compiler: the same answer, one warning."""
    shutil.copytree(native.CHECKOUT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copytree(native.CHECKOUT / "csrc", tmp_path / "csrc")
    code = """
import torch
from danlu import events, kernels
from danlu.kernels import codebooks, linear, q4
w, x = codebooks.quantize(torch.randn(6, 64)), torch.randn(2, 64)
for _ in range(2):
    assert torch.allclose(linear.linear(x, w), x @ q4.dequantize_torch(w).T, atol=1e-5)
assert events.fallbacks["native"] == 1
print(kernels.describe())
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stderr.count("warning: no native code") == 1 and done.stdout.startswith("linear_q4: torch")


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo")
def test_instruction_sets_are_those_the_kernel_reports():
    if native.library() is None:
        pytest.skip("no native library")
    flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    assert native.runs("ref") and not native.runs("sse9")
    assert native.runs("avx2") == ({"avx2", "fma"} <= flags)
    assert native.runs("avx512") == ({"avx512f", "avx512bw", "avx512vl", "avx512_vbmi", "avx512_vnni"} <= flags)


def test_a_forked_process_gets_its_own_threads():
    """fork() takes the memory of the thread team but none of its threads."""
    code = """
import os, torch, warnings
from danlu.kernels import codebooks, linear
torch.set_num_threads(2)
w, x = codebooks.quantize(torch.randn(300, 64)), torch.randn(1, 64)
out = linear.linear(x, w)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(linear.linear(x, w), out) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_the_choice_of_kernels_is_explained():
    choices = {choice.operator: choice for choice in ops.describe()}
    assert set(choices) == set(ops.OPERATORS)
    assert (choices["linear_q4"].isa == "avx2") == native.runs("avx2") or native.runs("avx512")
