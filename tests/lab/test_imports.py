import ast
import subprocess
import sys
from pathlib import Path

import gradmem

SOURCE = Path(gradmem.__file__).parent
PUBLIC = {"gradmem", "gradmem.proximal"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_the_lab_uses_public_names_only_and_nothing_uses_the_lab():
    for path in SOURCE.rglob("*.py"):
        ours = [name for name in imported(path) if name and name.split(".")[0] == "gradmem"]
        if "lab" in path.relative_to(SOURCE).parts:
            strange = [name for name in ours if not name.startswith("gradmem.lab")]
            assert set(strange) <= PUBLIC, path
        elif path != SOURCE / "__main__.py":
            assert not any(name.startswith("gradmem.lab") for name in ours), path


def test_importing_gradmem_needs_nothing_of_the_lab(tmp_path):
    code = "import sys, gradmem; assert not {'typer', 'rich', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_without_the_extra_the_command_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['typer'] = None; import gradmem.lab.cli"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert said.returncode == 1
    assert "pip install 'gradmem[lab]'" in said.stderr
