import json
import os

import pytest

from gradmem.lab.run import train
from gradmem.lab.store import Store, write_atomically
from gradmem.lab.tasks.digits import Digits

from .helpers import config


@pytest.fixture(scope="module")
def result():
    return train(Digits(), config(optimizer="adam_c"))


def test_what_is_saved_is_loaded(tmp_path, result):
    store = Store(tmp_path / "new" / "folder")
    assert store.load(result.config) is None
    store.save(result)
    assert store.load(result.config) == result


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 101},
        {"epochs": 3},
        {"options": {"lr": 0.02}},
        {"purpose": "tune"},
        {"task_version": 2},
        {"versions": {"gradmem": "0", "torch": "0"}},
    ],
)
def test_another_config_is_another_run(tmp_path, result, changes):
    store = Store(tmp_path)
    store.save(result)
    assert store.load(config(optimizer="adam_c", **changes)) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"status": "finished"}',
        lambda text: json.dumps(json.loads(text) | {"surprise": 1}),
        lambda text: "\udcff",
    ],
)
def test_a_damaged_file_is_no_result_and_is_warned_of(tmp_path, result, damage):
    lines = []
    store = Store(tmp_path, warn=lines.append)
    store.save(result)
    path = store.path(result.config)
    path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    assert store.load(result.config) is None
    assert len(lines) == 1
    assert path.name in lines[0]
    store.save(result)
    assert store.load(result.config) == result


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "page"
    write_atomically(path, "old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
