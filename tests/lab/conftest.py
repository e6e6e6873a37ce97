"""What several of the lab's tests begin with."""

import pytest

from gradmem.lab.run import one_thread

from .dialogue_files import write_release
from .helpers import module_here
from .steep import MINE


@pytest.fixture
def single_thread():
    """Two threads on busy cores are many times slower than one."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    """A data folder with a release of 40 dialogues made up here."""
    home = tmp_path_factory.mktemp("data")
    write_release(home)
    return home


@pytest.fixture
def steep(tmp_path, monkeypatch):
    """A folder to be in, with tasks of one's own; one of which the model has a depth."""
    with module_here("steep_tasks", MINE, tmp_path, monkeypatch):
        yield "steep_tasks:Steep"
