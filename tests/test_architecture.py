"""Who may import whom: torch <- memory <- optim <- registry <- gradmem <- lab; proximal beside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gradmem
import gradmem.proximal

ROOT = Path(gradmem.__file__).parent
# What the modules of each room may import of gradmem, besides their own room.
ALLOWED = {
    "errors": set(),
    "memory": {"errors"},
    "convergence": {"errors", "memory"},
    "optim": {"errors", "memory"},
    "proximal": {"errors", "memory"},
    "registry": {"errors", "optim"},
    "__init__": {"convergence", "errors", "memory", "optim", "registry"},
    "lab": {"gradmem", "errors", "proximal"},
    "__main__": {"lab"},
    "integrations": {"gradmem"},
    "jax": {"errors"},
}
# Rooms that need an extra, and what nothing else may import.
EXTRAS = ("lab", "integrations", "jax")
# Comes with torch's builds for accelerators; imported where a fused pass is first wanted on one.
TRITON = {(f"optim/fused/triton_{part}.py", "triton") for part in ("kernels", "rules")}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "gradmem"


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        yield (relative.parts[0] if len(relative.parts) > 1 else relative.stem), path


def test_every_room_is_known() -> None:
    assert {name for name, _ in modules()} == set(ALLOWED)


def test_imports_point_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for name, path in modules()
        for module in imports(path)
        if module.split(".")[0] == "gradmem" and room(module) not in {name} | ALLOWED[name]
    ]
    assert wrong == []


def test_the_core_imports_torch_alone() -> None:
    known = {"gradmem", "torch", *sys.stdlib_module_names}
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for name, path in modules()
        if name not in EXTRAS
        for module in imports(path)
        if module.split(".")[0] not in known
        and (path.relative_to(ROOT).as_posix(), module.split(".")[0]) not in TRITON
    ]
    assert wrong == []


def test_importing_gradmem_imports_nothing_of_the_extras() -> None:
    heavy = ["gradmem.lab", "matplotlib", "scipy", "sklearn", "rich", "typer"]
    heavy += [
        "gradmem.integrations",
        "gradmem.optim.fused.triton_kernels",
        "transformers",
        "accelerate",
        "lightning",
        "gradmem.jax",
        "jax",
    ]
    code = f"import sys, gradmem; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_public_names_are_sorted_documented_and_all_there() -> None:
    for name in gradmem.__all__:
        assert getattr(gradmem, name).__doc__, name
    assert len(set(gradmem.__all__)) == len(gradmem.__all__)
    public = {name for name in vars(gradmem) if not name.startswith("_")}
    submodules = {name for name, _ in modules()}
    assert public - submodules == set(gradmem.__all__) - {"__version__"}


def test_public_names_of_proximal_are_sorted_documented_and_all_there() -> None:
    names = gradmem.proximal.__all__
    assert names == sorted(names)
    for name in names:
        assert getattr(gradmem.proximal, name).__doc__, name
    public = {name for name in vars(gradmem.proximal) if not name.startswith("_")}
    submodules = {path.stem for name, path in modules() if name == "proximal"}
    assert public - submodules == set(names) - submodules
    assert all(callable(getattr(gradmem.proximal, name)) for name in names)  # and no module


def test_the_torch_internals_we_call_have_the_signature_we_know() -> None:
    """`_init_group` is private to torch: a change must be seen here, not in a training run."""
    import inspect

    import torch

    expected = {
        torch.optim.SGD: "group params grads momentum_buffer_list",
        torch.optim.Adam: (
            "group params_with_grad grads exp_avgs exp_avg_sqs max_exp_avg_sqs state_steps"
        ),
        torch.optim.AdamW: (
            "group params_with_grad grads exp_avgs exp_avg_sqs max_exp_avg_sqs state_steps"
        ),
        torch.optim.RMSprop: (
            "group params_with_grad grads square_avgs momentum_buffer_list grad_avgs state_steps"
        ),
        torch.optim.NAdam: (
            "group params_with_grad grads exp_avgs exp_avg_sqs mu_products state_steps"
        ),
        torch.optim.RAdam: "group params_with_grad grads exp_avgs exp_avg_sqs state_steps",
        torch.optim.Adagrad: "group params_with_grad grads state_sums state_steps",
    }
    for cls, names in expected.items():
        assert list(inspect.signature(cls._init_group).parameters)[1:] == names.split()
