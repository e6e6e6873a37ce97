"""Claims, and several processes on one study."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from gradmem.lab import claims as module
from gradmem.lab.claims import Claims, machine, started
from gradmem.lab.errors import LabError, StoreError
from gradmem.lab.study import Study
from gradmem.lab.workers import work_together

from .helpers import Line, Told, carried_out, contents, tiny_plan


def claim_file(folder, name="run", **changes):
    """A claim as another process would leave it."""
    path = folder / f"{name}.claim"
    holder = {"token": "t", "machine": machine(), "pid": os.getpid(), "started": "0"} | changes
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(holder))
    return path


def test_only_one_has_a_claim_and_it_is_free_again_afterwards(tmp_path):
    first, second = Claims(tmp_path), Claims(tmp_path)
    with first.take("run") as ours:
        assert ours
        assert first.living() == 1
        with second.take("run") as theirs, second.take("other") as other:
            assert (theirs, other) == (False, True)
    with second.take("run") as ours:
        assert ours
    assert {path.name for path in tmp_path.iterdir()} <= {"lock"}


def test_an_error_gives_the_claim_up(tmp_path):
    with pytest.raises(ZeroDivisionError), Claims(tmp_path).take("run"):
        1 / 0  # noqa: B018
    with Claims(tmp_path).take("run") as ours:
        assert ours


def test_a_claim_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    claim_file(tmp_path, pid=process.pid, started=started(process.pid))
    with Claims(tmp_path).take("run") as ours:
        assert not ours
    process.kill()
    time.sleep(0.1)
    with Claims(tmp_path).take("run") as ours:  # not yet waited for: a zombie is dead
        assert ours
    process.communicate()


def test_claims_of_the_dead_are_swept_away_and_others_stay(tmp_path):
    dead = claim_file(tmp_path, "dead", started="long ago")
    elsewhere = claim_file(tmp_path, "elsewhere", machine="elsewhere", started="long ago")
    claims = Claims(tmp_path)
    with claims.take("mine"):
        claims.sweep()
        assert claims.living() == 2
        assert (tmp_path / "mine.claim").exists()
    assert elsewhere.exists()
    assert not dead.exists()


def test_a_number_used_again_is_another_process(tmp_path):
    claim_file(tmp_path, started="long ago")
    with Claims(tmp_path).take("run") as ours:
        assert ours


def test_a_claim_from_elsewhere_is_taken_over_when_nobody_touches_it(tmp_path):
    path = claim_file(tmp_path, machine="elsewhere")
    os.utime(path, (0, 0))  # its clock may be wrong: what counts is that nothing changes
    claims = Claims(tmp_path, patience=0.15)
    for _ in range(3):
        with claims.take("run") as ours:
            assert not ours
        time.sleep(0.1)
        os.utime(path, (time.time(), time.time()))
    with claims.take("run") as ours:
        assert not ours
    time.sleep(0.2)
    with claims.take("run") as ours:
        assert ours


def test_a_holder_touches_its_claim(tmp_path):
    claims = Claims(tmp_path, heartbeat=0.02)
    with claims.take("run"):
        path = tmp_path / "run.claim"
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_who_was_taken_for_dead_does_not_remove_the_others_claim(tmp_path):
    with Claims(tmp_path).take("run"):
        path = claim_file(tmp_path, token="another")
    assert path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_half_a_claim_is_nobodys(tmp_path, text):
    (tmp_path / "run.claim").write_text(text)
    with Claims(tmp_path).take("run") as ours:
        assert ours


def test_a_claim_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match="cannot be written"),
        Claims(tmp_path / "file" / "claims").take("run"),
    ):
        pass


def test_without_proc_the_number_alone_decides(monkeypatch):
    monkeypatch.setattr(module, "Path", lambda *parts: Missing())
    assert started(os.getpid()) == ""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert started(process.pid) is None


class Missing:
    def read_text(self, **options):
        raise FileNotFoundError

    def exists(self):
        return False


def test_claims_exclude_each_other_under_load(tmp_path):
    inside, most = [], []

    def contend():
        claims = Claims(tmp_path)
        for _ in range(30):
            with claims.take("run") as ours:
                if ours:
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.001)
                    inside.pop()

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}


# Several processes on one study


def opened(folder, plan, watcher, warn):
    return Study(plan, folder, warn=warn), watcher


def together(plan, folder, count=2):
    told, warnings = Told(), []
    study = Study(plan, folder)
    work_together(count, partial(opened, folder, plan), study, told, warnings.append)
    return study.comparison(), told, warnings


def logged(task, folder):
    task.log = str(folder / "log")
    return task


def test_two_processes_share_the_work_and_the_numbers_are_those_of_one(tmp_path):
    task = logged(Line(), tmp_path)
    task.pause = 0.002
    plan = tiny_plan(task=task, trials=12, seeds=8)
    comparison, told, _ = together(plan, tmp_path / "two")
    processes = Counter((tmp_path / "log").read_text().split())
    assert sum(processes.values()) == plan.runs  # none was made twice
    assert len(processes) == 2  # and both had a share
    names = [event.result.config for event in told.events]
    assert len(names) == plan.runs
    alone, _ = carried_out(plan, tmp_path / "one")
    assert contents(tmp_path / "two" / "runs") == contents(tmp_path / "one" / "runs")
    assert [each.options for each in comparison.results] == [each.options for each in alone.results]


class Fatal(Line):
    """Kills its process."""

    def loss(self, model, batch):
        self.note(f"{os.getpid()}")
        os.kill(os.getpid(), signal.SIGKILL)


class Raising(Line):
    def loss(self, model, batch):
        raise ValueError("no such luck")


def test_a_run_that_kills_its_process_is_tried_twice_and_counted_as_crashed(tmp_path):
    plan = tiny_plan("adam", task=logged(Fatal(), tmp_path), trials=1)
    with pytest.raises(LabError, match=r"crashed: its process died 2 times .*SIGKILL.*memory"):
        together(plan, tmp_path, count=1)
    assert len((tmp_path / "log").read_text().split()) == 2


def test_what_one_of_them_cannot_go_on_with_stops_all(tmp_path):
    with pytest.raises(LabError, match=r"every run so far, .* crashed: ValueError: no such luck"):
        together(tiny_plan("adam", task=Raising(), trials=20), tmp_path)


def test_a_study_of_another_task_of_that_name_is_not_taken_for_this_one(tmp_path):
    plan = tiny_plan("adam", task=Line(), trials=1, seeds=1)
    carried_out(plan, tmp_path)
    newer = Line()
    newer.version = 2
    _, told = carried_out(replace(plan, task=newer), tmp_path)
    assert not any(event.reused for event in told.events)
