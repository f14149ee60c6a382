"""Build the peers of our tables into .peers, once: llama.cpp from llama-cpp-python's sources, bitsandbytes by pip."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

PEERS = Path(__file__).parents[2] / ".peers"
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
)
TARGETS = ("ggml", "llama-bench", "llama-quantize", "llama-batched-bench", "llama-perplexity")


def run(*words: str | Path) -> None:
    """Run a command and show what it says."""
    subprocess.run([str(word) for word in words], check=True)


def build() -> None:
    """Whatever is not there yet; about 20 minutes on one core, most of it llama.cpp."""
    PEERS.mkdir(exist_ok=True)
    pip = (sys.executable, "-m", "pip")
    if not (PEERS / "llama.cpp" / "build" / "bin" / "llama-bench").exists():
        print("llama.cpp: 77 MB of sources to fetch, then 120 files to compile", file=sys.stderr)
        if not list(PEERS.glob("llama_cpp_python-*.tar.gz")):
            run(*pip, "download", "--no-deps", "--no-binary", ":all:", "-d", PEERS, "llama-cpp-python")
        with tarfile.open(next(PEERS.glob("llama_cpp_python-*.tar.gz"))) as sources:
            inside = sources.getnames()[0].split("/")[0]
            sources.extractall(PEERS, filter="data")
        home = PEERS / inside / "vendor" / "llama.cpp"
        run("cmake", "-S", home, "-B", home / "build", *FLAGS)
        run("cmake", "--build", home / "build", "--parallel", "1", "--target", *TARGETS)
        (PEERS / "llama.cpp").symlink_to(home.relative_to(PEERS))
    if not (PEERS / "bnb").exists():
        run(*pip, "install", "--no-deps", "--target", PEERS / "bnb", "bitsandbytes")
