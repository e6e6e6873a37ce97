"""What a user has written: the object that ``module:attribute`` or ``file.py:attribute`` is."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def is_foreign(name: str) -> bool:
    """Whether ``name`` says where something is, rather than what it is called."""
    return ":" in name


def module_at(place: str) -> ModuleType:
    """The module, or ``file.py``, looked for in the current folder first, then where Python looks.

    Raises:
        ValueError: there is none, or it cannot be imported; says which.
    """
    return _run_file(Path(place)) if place.endswith(".py") else _import(place)


def attribute_of(module: ModuleType, name: str, what: str, is_one: Callable[[Any], bool]) -> Any:
    """What the module calls ``name``.

    Args:
        module: where it is.
        name: of the attribute.
        what: the plural of what is looked for, for the sentence.
        is_one: whether an attribute is such a thing, for those that the sentence names.

    Raises:
        ValueError: there is none; names those that could be meant.
    """
    if not hasattr(module, name):
        known = ", ".join(key for key, value in vars(module).items() if is_one(value))
        where = module.__file__ or module.__name__
        raise ValueError(
            f"{where} has no {name!r}" + (f"; the {what} in it are {known}" if known else "")
        )
    return getattr(module, name)


def digest(module: ModuleType) -> str:
    """Of the module's file, so that runs of an earlier text of it are not taken for this one's."""
    file = getattr(module, "__file__", None)
    if file is None:
        return module.__name__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]


def _import(name: str) -> ModuleType:
    here = _look_in(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"there is no module {error.name!r}, neither in {here} nor installed"
            ) from None
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _run_file(path: Path) -> ModuleType:
    """The file as a module of its name, which can be imported and pickled from then on."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    _look_in(path.parent.resolve())
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise _broken(str(path), error) from error
    return module


def _look_in(folder: Path) -> str:
    """Import from ``folder`` first, as `python -m` does; for what is imported later, too."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return str(folder)


def _broken(name: str, error: Exception) -> ValueError:
    return ValueError(f"{name} cannot be imported: {type(error).__name__}: {error}")
