import errno
import json
import os
import time

import pytest

from gradmem.lab.errors import StoreError
from gradmem.lab.files import ABANDONED, remove_abandoned_drafts
from gradmem.lab.run import broken_off, train
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


def full_disk(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_write_that_fails_leaves_the_old_file_and_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "page"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(
        StoreError, match=r"page cannot be written: No space left on device.*goes on"
    ):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path, result):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file" / "runs").save(result)


def test_a_file_that_may_not_be_read_is_no_reason_to_run_again(tmp_path, result, monkeypatch):
    store = Store(tmp_path)
    store.save(result)

    def refuse(path, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(type(tmp_path), "read_text", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        store.load(result.config)


def test_an_interrupted_run_is_noted_but_is_no_result(tmp_path, result):
    store = Store(tmp_path)
    store.save(broken_off(Digits(), result.config, "interrupted", None))
    assert store.load(result.config) is None
    (record,) = tmp_path.iterdir()
    assert json.loads(record.read_text())["status"] == "interrupted"
    store.save(result)
    assert list(tmp_path.iterdir()) == [store.path(result.config)]
    assert store.load(result.config) == result


def test_drafts_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path):
    old, fresh, run = (tmp_path / name for name in (".a.json.1.tmp", ".b.json.2.tmp", "c.json"))
    for path in (old, fresh, run):
        path.write_text("")
    past = time.time() - 2 * ABANDONED
    os.utime(old, (past, past))
    os.utime(run, (past, past))
    remove_abandoned_drafts(tmp_path)
    assert sorted(tmp_path.iterdir()) == [fresh, run]
