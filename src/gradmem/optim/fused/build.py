"""Build the CPU kernels on first use, and find them again afterwards.

The source needs a C++17 compiler with OpenMP and takes some seconds; the library is kept in a cache
folder under a name made of all that went into it: source, compiler, options.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

SOURCES = Path(__file__).with_name("kernels")

# By what torch found the processor to have.
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
_FEATURES = {"AVX2": _AVX2, "AVX512": [*_AVX2, *_AVX512]}
_OPTIONS = [
    "-std=c++17",
    "-O3",
    # Fused multiply-add would round differently in the vectors of a loop and in its remainder, and
    # where one ends depends on how the data is aligned.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
    "-shared",
]
_PATIENCE = 300  # seconds


class BuildError(Exception):
    """The kernels cannot be built here; says why."""


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, built if they have not been.

    The compiler is the environment variable CXX, or c++, g++ or clang++; the folder
    GRADMEM_CACHE_DIR, or gradmem in the user's cache folder. What lies there and is not whole is
    built anew.

    Raises:
        BuildError: there is no compiler, it failed, or there is no room for what it makes.
    """
    try:
        return _library()
    except (OSError, AttributeError, ValueError) as error:
        raise BuildError(f"the kernels cannot be built and loaded: {error}") from None


def _library() -> ctypes.CDLL:
    compiler = _compiler()
    options = [*_OPTIONS, *_FEATURES.get(torch.backends.cpu.get_cpu_capability(), [])]
    linked = [*_openmp(), "-Wl,--as-needed"] if sys.platform == "linux" else []
    version = _run([*compiler, "--version"])
    sources = [path.read_text(encoding="utf-8") for path in sorted(SOURCES.iterdir())]
    parts = (*sources, *compiler, version, platform.machine(), *options, *linked)
    name = "kernels-" + _digest("\n".join(parts).encode())
    path = _found(name) or _build(name, [*compiler, *linked[-1:], *options], linked[:-1])
    return _declared(ctypes.CDLL(str(path)))


def _declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of its functions' arguments, as kernels.cpp has them."""
    address, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    for name in ("sgd", "rmsprop", "adam", "critical_adam"):
        function = getattr(kernels, f"gradmem_{name}")
        function.argtypes = [address, integer, address, integer, integer, address, integer]
    kernels.gradmem_squares.argtypes = [address, address, integer, integer, address, integer]
    arrays: list[Any] = [address, address, address, integer, integer]
    kernels.gradmem_momenta.argtypes = [*arrays, number, number, address, address, integer]
    kernels.gradmem_tensor_bytes.restype = kernels.gradmem_has_float16.restype = integer
    return kernels


def _compiler() -> list[str]:
    """The compiler's command; CXX may have more words than one, as "ccache g++" has."""
    chosen = os.environ.get("CXX", "").strip()
    candidates = [chosen] if chosen else ["c++", "g++", "clang++"]
    for candidate in candidates:
        program, *words = shlex.split(candidate)
        if found := shutil.which(program):
            return [found, *words]
    raise BuildError(
        f"no C++ compiler was found (tried {', '.join(candidates)}); install one, such as the "
        "package g++, or set CXX"
    )


def _openmp() -> list[str]:
    """torch's own OpenMP library, so that one set of threads serves both."""
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]
    return [str(path) for path in found[:1]]


def _cache_folder() -> Path:
    if chosen := os.environ.get("GRADMEM_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradmem"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]


def _found(name: str) -> Path | None:
    """A library in the cache that is whole, as its name tells: to load one that was cut short would
    end the process.
    """
    try:
        for path in _cache_folder().glob(f"{name}-*.so"):
            if path.stem == f"{name}-{_digest(path.read_bytes())}":
                return path
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        pass
    return None


def _room() -> Path:
    """A folder that only this user writes to, as what lies there is going to be run: the cache, or
    one for this process alone.
    """
    try:
        folder = _cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    folder = Path(tempfile.mkdtemp(prefix="gradmem-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _build(name: str, command: Sequence[str], libraries: Sequence[str]) -> Path:
    """Compile beside the final place and rename: others see the whole library or none."""
    room = _room()
    with tempfile.TemporaryDirectory(dir=room, prefix="building-") as folder:
        made = Path(folder) / f"{name}.so"
        _run([*command, str(SOURCES / "kernels.cpp"), *libraries, "-o", str(made)])
        return made.replace(room / f"{name}-{_digest(made.read_bytes())}.so")


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"the C++ compiler could not be run: {error}") from None
    if done.returncode:
        words = done.stderr.strip().splitlines()[-5:]
        raise BuildError(f"the C++ compiler {command[0]} failed: " + " / ".join(words))
    return done.stdout
