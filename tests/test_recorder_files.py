"""The recorder's beginning and end, copies of recorded optimizers, and files."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
from dataclasses import asdict, fields, replace

import pytest
import torch

import gradmem
from gradmem import MemoryAugmented, Recorder, StepRecord
from optimizers import assert_same, parameters, train


def recorded(steps=6, path=None, **options):
    """A recorder after some steps, its optimizer and parameters."""
    params = parameters()
    optimizer = gradmem.Adam_C(params, lr=0.01, capacity=2, decay=0.95)
    recorder = Recorder(optimizer, path, **options)
    train(optimizer, params, steps)
    return recorder, optimizer, params


def wrapped(params):
    return MemoryAugmented(torch.optim.Adam(params), capacity=2)


def test_every_so_many_calls():
    records = recorded(7)[0].records
    sparse = recorded(7, every=3)[0].records
    assert [record.call for record in sparse] == [3, 6]
    assert sparse == [records[2], records[5]]


@pytest.mark.parametrize(
    ("every", "error"),
    [(0, ValueError), (-2, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)],
)
def test_a_wrong_every_is_refused_and_leaves_no_recorder_nor_file(every, error, tmp_path):
    optimizer = gradmem.Adam_C(parameters())
    with pytest.raises(error, match=f"every must be .*{every}"):
        Recorder(optimizer, tmp_path / "records", every=every)
    assert not list(tmp_path.iterdir())
    Recorder(optimizer)


def test_an_optimizer_without_a_memory_is_refused():
    with pytest.raises(gradmem.OptionTypeError, match=r"type Adam;.*MemoryAugmented"):
        Recorder(torch.optim.Adam(parameters()))


@pytest.mark.parametrize("make", [gradmem.Adam_C, wrapped])
def test_one_recorder_at_a_time(make):
    params = parameters()
    optimizer = make(params)
    first = Recorder(optimizer)
    with pytest.raises(gradmem.OptionError, match="recorder already"):
        Recorder(optimizer)  # before any step
    train(optimizer, params, 2)
    with pytest.raises(gradmem.OptionError, match="recorder already"):
        Recorder(optimizer)
    first.close()
    with Recorder(optimizer, every=2) as second:
        train(optimizer, params, 1)
        first.close()  # once more: that is no business of the second's
        with pytest.raises(gradmem.OptionError, match="recorder already"):
            Recorder(optimizer)
        train(optimizer, params, 1)
    train(optimizer, params, 2)
    assert [len(first.records), len(second.records)] == [2, 1]


def test_an_error_in_the_block_ends_the_recording():
    params = parameters()
    optimizer = gradmem.Adam_C(params)
    with pytest.raises(KeyError), Recorder(optimizer) as recorder:
        raise KeyError
    train(optimizer, params, 1)
    assert recorder.records == []


def test_a_step_that_fails_has_no_record_and_the_next_one_has():
    recorder, optimizer, params = recorded(2)
    optimizer.param_groups[0]["decay"] = 3.0
    with pytest.raises(gradmem.OptionError):
        train(optimizer, params, 1)
    optimizer.param_groups[0]["decay"] = 0.5
    train(optimizer, params, 1)
    assert [(r.call, r.step) for r in recorder.records] == [(1, 1), (2, 2), (4, 3)]


def test_what_a_closure_changes_is_seen():
    """The step begins when the closure is done."""
    recorder, optimizer, params = recorded(1)

    def closure():
        optimizer.param_groups[0]["scope"], optimizer.param_groups[0]["decay"] = "model", 0.5
        optimizer.add_param_group({"params": [extra], "decay": 0.9})
        for p in params:
            p.grad = torch.ones_like(p)
        extra.grad = torch.ones_like(extra)

    extra = torch.nn.Parameter(torch.zeros(2))
    optimizer.step(closure)
    first, second = recorder.records[1:]
    assert (first.scope, first.step, second.scope, second.step) == ("groups 0", 2, "groups 1", 1)
    assert first.norm == pytest.approx(math.sqrt(sum(p.numel() for p in params)))
    assert second.norm == pytest.approx(math.sqrt(2))


def test_a_captured_graph_is_refused(monkeypatch):
    recorder, optimizer, params = recorded(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(gradmem.StepError, match="captured"):
        train(optimizer, params, 1)
    assert len(recorder.records) == 1


@pytest.mark.parametrize("make", [gradmem.Adam_C, gradmem.Adam_CM, wrapped])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_works_and_is_unrecorded(make, copied, tmp_path):
    params = parameters()
    optimizer = make(params)
    with Recorder(optimizer, tmp_path / "records") as recorder:
        train(optimizer, params, 2)
        other = copied(optimizer)
        own = [p for group in other.param_groups for p in group["params"]]
        train(other, own, 3, seed=2)
        assert len(Recorder.read(tmp_path / "records")) == 2
        with Recorder(other) as another:
            train(other, own, 1, seed=3)
        train(optimizer, params, 3, seed=2)
        train(optimizer, params, 1, seed=3)
    assert_same([p.detach() for p in own], [p.detach() for p in params])
    assert [r.step for r in another.records] == [6]
    assert recorder.records == []
    assert len(Recorder.read(tmp_path / "records")) == 6


@pytest.mark.parametrize("make", [gradmem.Adam_C, wrapped])
def test_a_checkpoint_is_the_same(make):
    saved = []
    for on in (False, True):
        params = parameters()
        optimizer = make(params)
        if on:
            Recorder(optimizer)
        train(optimizer, params, 3)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        saved.append(torch.load(file))
    assert_same(*saved)


def test_loading_a_checkpoint_while_recording():
    recorder, optimizer, params = recorded(3)
    saved = copy.deepcopy(optimizer.state_dict())
    train(optimizer, params, 3, seed=4)
    optimizer.load_state_dict(saved)
    train(optimizer, params, 3, seed=4)
    lost, again = recorder.records[3:6], recorder.records[6:]
    assert [replace(r, call=r.call + 3) for r in lost] == again


# Files -------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    recorder, optimizer, params = recorded(3, tmp_path / "records.jsonl")
    for p in params:
        p.grad = torch.full_like(p, math.inf)
    optimizer.step()
    kept = recorded(3)[0].records
    read = Recorder.read(tmp_path / "records.jsonl")  # not closed: every step is on the disk
    recorder.close()
    assert recorder.records == []
    assert list(map(repr, read[:3])) == list(map(repr, kept))
    assert math.isnan(read[3].norm)
    assert (read[3].seen, read[3].step) == (False, 3)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    strict = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert list(strict[0]) == [field.name for field in fields(StepRecord)]


@pytest.mark.parametrize("lost", [1, 2, 50, 10_000])
def test_a_line_cut_off_by_a_kill_is_left_out_and_the_file_goes_on(tmp_path, lost):
    path = tmp_path / "records.jsonl"
    recorder, optimizer, params = recorded(3, path)
    recorder.close()
    whole = path.read_bytes()
    kept = max(0, len(whole) - lost)
    path.write_bytes(whole[:kept])
    left = Recorder.read(path)
    assert len(left) == whole[:kept].count(b"\n") == (2 if lost < 100 else 0)
    with Recorder(optimizer, path):
        train(optimizer, params, 2)
    steps = [record.step for record in Recorder.read(path)]
    assert steps == [record.step for record in left] + [4, 5]


def test_a_cut_line_longer_than_a_block(tmp_path):
    path = tmp_path / "records.jsonl"
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = gradmem.Adam_C([weight], capacity=40_000)
    with Recorder(optimizer, path):
        train(optimizer, [weight], 2)
    path.write_bytes(path.read_bytes()[:-1])
    with Recorder(optimizer, path):
        train(optimizer, [weight], 1)
    assert [record.step for record in Recorder.read(path)] == [1, 3]


def test_a_resumed_run_replaces_the_steps_it_takes_again(tmp_path):
    path = tmp_path / "records.jsonl"
    recorder, optimizer, params = recorded(4, path)
    saved = copy.deepcopy(optimizer.state_dict())
    train(optimizer, params, 3, seed=5)  # lost
    recorder.close()
    optimizer.load_state_dict(saved)
    with Recorder(optimizer, path) as recorder:
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()  # not seen: of step 4, too
        train(optimizer, params, 5, seed=6)
    read = Recorder.read(path)
    assert [record.step for record in read] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9]
    assert [record.call for record in read] == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert len(path.read_text().splitlines()) == 13


def test_of_several_ledgers_only_the_resumed_one_is_taken_back(tmp_path):
    path = tmp_path / "records.jsonl"
    base = StepRecord(1, "a", 1, True, 1.0, math.nan, 1.0, True, 0, None, None, (1,))
    lines = [(scope, step) for step in (1, 2, 3) for scope in "ab"] + [("a", 3), ("a", 4)]
    records = [
        asdict(replace(base, scope=scope, step=step, stored_norm=None)) for scope, step in lines
    ]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    read = [(record.scope, record.step) for record in Recorder.read(path)]
    assert read == [*lines[:4], ("b", 3), ("a", 3), ("a", 4)]


@pytest.mark.parametrize(
    "contents",
    [b"weights\n", b"\x93numpy\x00\xff", b'{"call": 1}\n{"call"', b"[1]\n", b"{}", b"\n", b"1\n"],
)
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path, contents):
    path, optimizer = tmp_path / "precious", gradmem.Adam_C(parameters())
    path.write_bytes(contents)
    with pytest.raises(gradmem.CheckpointError, match="precious"):
        Recorder(optimizer, path)
    assert path.read_bytes() == contents
    Recorder(optimizer)


def test_a_damaged_line_is_refused_by_its_number(tmp_path):
    path = tmp_path / "records.jsonl"
    recorded(3, path)[0].close()
    first, _, last = path.read_bytes().splitlines(keepends=True)
    for damaged in (b"\n", b"\xff\xfe\n", first.replace(b'"held"', b'"holds"')):
        path.write_bytes(first + damaged + last)
        with pytest.raises(gradmem.CheckpointError, match="line 2 of"):
            Recorder.read(path)


def test_an_empty_file_and_no_file(tmp_path):
    (tmp_path / "empty").touch()
    assert Recorder.read(tmp_path / "empty") == []
    with pytest.raises(FileNotFoundError):
        Recorder.read(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        Recorder(gradmem.Adam_C(parameters()), tmp_path / "none" / "records")
