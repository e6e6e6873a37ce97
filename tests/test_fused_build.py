"""The kernels are compiled once, found again, and done without where they cannot be had.

A small script stands for the compiler: it notes what it was asked, and copies the library that was
really made. One slow test compiles.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fused_cases import CLASSES, count_passes, make, needs_kernels, twins
from gradmem.optim.fused import build, native
from optimizers import assert_same, parameters, snapshot, train

pytestmark = needs_kernels

CACHED = (build.library, native.reason_against, native.available)


class Compiler:
    """A script that answers as a compiler would; `calls` are the times it was asked to compile."""

    def __init__(self, folder, library, compiling='cp "$library" "$last"'):
        self.log = folder / "log"
        self.path = folder / "a compiler"
        self.path.write_text(
            textwrap.dedent(f"""\
                #!/bin/sh
                library='{library}'
                case "$*" in *--version) printf 'fake \\377 1.0\\n'; exit 0;; esac
                echo "$@" >> '{self.log}'
                for last; do :; done
                {compiling}
            """)
        )
        self.path.chmod(0o755)

    @property
    def calls(self):
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def fresh():
    """Forget what was built and found, now, again within a test, and afterwards."""

    def forget():
        for function in CACHED:
            function.cache_clear()

    yield forget
    forget()


@pytest.fixture
def compiler(tmp_path, monkeypatch, fresh):
    """Makes the compiler that is found from now on, with an empty cache."""
    library = build.library()._name
    monkeypatch.setenv("GRADMEM_CACHE_DIR", str(tmp_path / "cache"))
    fresh()

    def made(*compiling):
        found = Compiler(tmp_path, library, *compiling)
        monkeypatch.setenv("CXX", f"'{found.path}'")
        return found

    return made


def kept(tmp_path):
    return sorted((tmp_path / "cache").iterdir())


# Compiled once -----------------------------------------------------------------------------------


def test_what_was_compiled_is_found_again(compiler, tmp_path, fresh):
    found = compiler()
    for _ in range(3):
        build.library()
        fresh()
    assert found.calls == 1
    (path,) = kept(tmp_path)  # nothing is left lying about
    assert path.suffix == ".so"
    assert build.library()._name == str(path)


def test_another_source_or_compiler_is_compiled_anew(compiler, tmp_path, fresh, monkeypatch):
    found = compiler()
    build.library()
    sources = build.SOURCES
    monkeypatch.setattr(build, "SOURCES", tmp_path / "other")
    shutil.copytree(sources, build.SOURCES)
    with (build.SOURCES / "rules.h").open("a") as header:
        header.write("// another")
    fresh()
    build.library()
    monkeypatch.setenv("CXX", f"'{found.path}' -DOTHER")
    fresh()
    build.library()
    assert found.calls == len(kept(tmp_path)) == 3
    assert found.log.read_text().splitlines()[2].startswith("-DOTHER ")


def spoil(path, keep):
    data = path.read_bytes()
    path.unlink()  # written in place, what this process has loaded would change too
    path.write_bytes(data[: int(keep * len(data))])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_library_that_was_cut_short_is_made_anew(compiler, tmp_path, fresh, share):
    """To load it would end the process with a bus error."""
    found = compiler()
    build.library()
    spoil(kept(tmp_path)[0], share)
    fresh()
    assert native.reason_against() is None
    assert found.calls == 2
    assert len(kept(tmp_path)) == 1


def test_a_library_of_other_contents_is_not_loaded(compiler, tmp_path, fresh):
    found = compiler()
    build.library()
    path = kept(tmp_path)[0]
    path.unlink()
    path.write_bytes(b"\x7fELF and what not")
    fresh()
    assert native.reason_against() is None
    assert found.calls == 2


def load_in_child(fresh):
    fresh()
    os._exit(0 if native.reason_against() is None else 1)


def test_two_processes_that_build_at_once(compiler, tmp_path, fresh):
    found = compiler('cp "$library" "$last"; sleep 0.3')
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system does not fork")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=load_in_child, args=(fresh,)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert found.calls == 3
    assert len(kept(tmp_path)) == 1
    assert native.reason_against() is None
    assert found.calls == 3


# Folders -----------------------------------------------------------------------------------------


def test_without_a_folder_to_keep_it_in_it_is_built_for_this_process(
    compiler, tmp_path, fresh, monkeypatch
):
    found = compiler()
    (tmp_path / "cache").write_text("a file")
    assert native.reason_against() is None
    assert not Path(build.library()._name).is_relative_to(tmp_path)
    monkeypatch.delenv("GRADMEM_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    fresh()
    assert native.reason_against() is None
    assert found.calls == 2


def test_a_filled_folder_need_not_be_writable(compiler, tmp_path, fresh, monkeypatch):
    found = compiler()
    build.library()
    fresh()
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("cache"))
    assert build.library()._name == str(kept(tmp_path)[0])
    assert found.calls == 1
    kept(tmp_path)[0].unlink()
    fresh()
    assert native.reason_against() is None
    assert not kept(tmp_path)


def test_the_user_cache_folder_is_the_default(compiler, tmp_path, monkeypatch):
    compiler()
    monkeypatch.delenv("GRADMEM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Path(build.library()._name).parent == tmp_path / "xdg" / "gradmem"


# Done without ------------------------------------------------------------------------------------

FAILURES = {
    "echo 'kernels.cpp:1: no such thing' >&2; exit 1": "failed: kernels.cpp:1: no such thing",
    "printf '\\377\\376' >&2; exit 1": "the C.. compiler .* failed",
    ":": "cannot be built and loaded: .*No such file",
    'echo rubbish > "$last"': "cannot be built and loaded: .*(invalid|too short)",
    'cp /dev/null "$last"': "cannot be built and loaded: .*too short",
}


@pytest.mark.parametrize("compiling", FAILURES)
def test_a_compiler_that_fails_is_told_of_once_and_training_goes_on(
    compiler, monkeypatch, compiling
):
    found = compiler(compiling)
    passes = count_passes(monkeypatch)
    params = parameters()
    plain = twins(params)
    optimizer = make("RMSprop_C", params)
    with pytest.warns(RuntimeWarning, match="fused=True goes on.*" + FAILURES[compiling]) as seen:
        train(optimizer, params, 3)
    assert len(seen) == 1
    assert Path(seen[0].filename).is_relative_to(Path(native.__file__).parents[1])
    assert found.calls == 1
    assert not passes
    other = make("RMSprop_C", plain, fused=None)
    train(other, plain, 3)
    ours, expected = snapshot(optimizer, params), snapshot(other, plain)
    assert_same(ours, expected)


@pytest.mark.parametrize("name", CLASSES)
def test_without_kernels_every_class_goes_on(compiler, name):
    compiler("exit 1")
    results = []
    for fused in (True, None):
        params = parameters(shapes=[(300,), (2, 3)])
        optimizer = make(name, params, fused=fused)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            train(optimizer, params, 5)
        assert [each.category for each in seen] == ([RuntimeWarning] if fused else [])
        results.append([p.detach() for p in params])
    assert_same(*results, rtol=1e-5, atol=1e-6)


def test_a_library_of_another_layout_is_not_used(monkeypatch, fresh):
    fresh()
    other = SimpleNamespace(gradmem_tensor_bytes=lambda: 8)
    monkeypatch.setattr(native, "library", lambda: other)
    assert native.reason_against() == (
        "the compiled kernels have another layout than this version of the library"
    )


@pytest.mark.parametrize("words", ["'unbalanced", "no-such-program -x"])
def test_a_compiler_that_is_not_there(words, monkeypatch, fresh):
    fresh()
    monkeypatch.setenv("CXX", words)
    with pytest.raises(build.BuildError, match=r"No closing quotation|no C\+\+ compiler was"):
        build.library()


PROGRAM = """
import warnings
import torch, gradmem
torch.set_num_threads(1)
results = []
for fused in (True, None):
    torch.manual_seed(0)
    model = torch.nn.Linear(30, 20)
    optimizer = gradmem.Adam_C(model.parameters(), lr=0.01, fused=fused)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(5, 30)).square().mean().backward()
            optimizer.step()
    results.append((model.weight.detach(), [str(each.message) for each in seen]))
(ours, said), (theirs, nothing) = results
assert len(said) == 1 and not nothing, (said, nothing)
torch.testing.assert_close(ours, theirs)
print(said[0])
"""


def test_a_machine_without_a_compiler(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "CXX"}
    environment.update(PATH=str(tmp_path), GRADMEM_CACHE_DIR=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler was found (tried c++, g++, clang++)" in done.stdout
    assert "install one, such as the package g++, or set CXX" in done.stdout


@pytest.mark.slow
def test_the_kernels_are_compiled(tmp_path, monkeypatch, fresh):
    monkeypatch.setenv("GRADMEM_CACHE_DIR", str(tmp_path))
    fresh()
    assert native.reason_against() is None
    assert len(list(tmp_path.iterdir())) == 1
    params = parameters()
    train(make("Adam_C", params), params, 3)
    assert all(torch.isfinite(p).all() for p in params)
