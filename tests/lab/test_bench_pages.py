"""What `gradmem bench` keeps and shows: the file, the tables, the page, the picture."""

import json

import torch

from gradmem.lab.bench import figure, sets, tables
from gradmem.lab.bench.book import Book, open_book
from gradmem.lab.bench.contestants import CONTESTANTS, Entry
from gradmem.lab.bench.machine import Machine
from gradmem.lab.bench.measure import Measurement, Settings

MACHINE = Machine("a processor", 2, "System", "3", "2", "0", None)


def measured(entry, own=2.0, elements=1000, on="tiny", **more):
    seconds = {"reference": [(1.0, 1.0)] * 6, "own": [(own, own)] * 6}
    return Measurement(on, entry, "measured", elements=elements, seconds=seconds, **more)


def a_book(path=None, device="cpu"):
    book = Book(MACHINE, Settings(device, 1, 6), path=path)
    tiny = sets.ParameterSet("tiny", "a tiny one", (((10, 100), torch.float32),))
    found = [measured(Entry(CONTESTANTS["adam"]), state_bytes=8000)]
    options = {"capacity": 10}
    found += [measured(Entry(CONTESTANTS["adam_c-fused"], "keeps", options), buffer_bytes=100)]
    found += [measured(Entry(CONTESTANTS["sgd_c"], "keeps", {"capacity": 20}, 10), on="other")]
    found += [Measurement("tiny", Entry(CONTESTANTS["lion"]), "not installed", "pip install x")]
    for each in found:
        book.add(tiny, each)
    return book, tiny


def test_a_book_is_read_as_it_was_written(tmp_path):
    book, tiny = a_book(tmp_path / "bench.json")
    again = open_book(tmp_path, MACHINE, book.settings, [tiny])
    assert again == book
    assert again.get(tiny, Entry(CONTESTANTS["adam"])) is not None
    assert again.get(tiny, Entry(CONTESTANTS["lion"])) is None
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(
        json.dumps(again.to_json())
    )


def test_on_an_accelerator_the_table_has_times_too():
    for device, there in (("cpu", False), ("cuda", True)):
        book, _ = a_book(device=device)
        ((heading, table),) = tables.shown(book, ["tiny"], book.entries)
        assert heading == "tiny: 1.0k float32 parameters in 1 tensor, a tiny one"
        assert ("µs" in table.heading) is there
        cells = ["Adam", "", "2.00 (2.00-2.00)", "", *["2,000,000"] * there, "8.0", "0.0"]
        assert table.rows[0] == tuple(cells)
        # Its base is the reference, which it takes turns with anyway.
        assert table.rows[1][3] == "2.00 (2.00-2.00)"


def test_capacities_are_compared_in_a_column_of_their_own():
    book, tiny = a_book()
    large = Entry(CONTESTANTS["adam_c"], "keeps", {"capacity": 50}, smaller=5)
    found = measured(large)
    found.seconds["lesser"] = [(4.0, 4.0)] * 6
    book.add(tiny, found)
    ((_, table),) = tables.shown(book, ["tiny"], book.entries)
    assert table.heading[4] == "/ capacity 5"
    assert [row[4] for row in table.rows] == ["", "", "0.50 (0.50-0.50)"]
    assert book.to_json()["measurements"][-1]["ratio_to_lesser"]["median"] == 0.5


def test_state_kept_on_the_host_of_an_accelerator_has_a_column():
    book, tiny = a_book(device="cuda")
    offloaded = Entry(CONTESTANTS["adam_c"], "keeps", {"capacity": 5, "memory_device": "cpu"})
    book.add(tiny, measured(offloaded, state_bytes=9000, host_bytes=5000))
    ((_, table),) = tables.shown(book, ["tiny"], book.entries)
    assert table.heading[-3:] == ("state", "on host", "work")
    assert table.rows[0][-3:] == ("8.0", "", "0.0")
    assert table.rows[-1][-3:] == ("9.0", "5.0", "0.0")


def test_the_times_of_a_round_are_of_one_step():
    found = measured(Entry(CONTESTANTS["adam"]))
    found.seconds["own"][:] = [(1.0, 3.0)] * 6
    assert found.per_round("own") == [2.0] * 6
    assert tables.microseconds(found) == 2e6


def test_the_picture_has_a_row_for_each_and_is_the_same_every_time():
    book, _ = a_book()
    svg = figure.draw(book)
    assert svg == figure.draw(book)
    assert "Adam_C fused keeps 10" in svg
    assert "Lion" not in svg


def test_a_book_without_a_measurement_has_no_picture():
    book, _ = a_book()
    book.measurements = {k: m for k, m in book.measurements.items() if m.status != "measured"}
    assert figure.draw(book) is None
    assert "bench.svg" not in tables.page(book)


def test_the_page_names_the_machine():
    book, _ = a_book()
    assert "a processor, 2 cores, 1 threads; System, Python 3, torch 2." in tables.page(book)


def test_what_was_warned_of_is_said_once_for_all_it_came_from():
    book, tiny = a_book()
    for name in ("adam_c", "sgd_c"):
        for condition in ("keeps", "replaces"):
            entry = Entry(CONTESTANTS[name], condition, {"capacity": 5})
            book.add(tiny, measured(entry, warned=["RuntimeWarning: no kernel"]))
    line = "Adam_C, SGD_C: RuntimeWarning: no kernel"
    assert tables.warned(book, ["tiny"], book.entries) == [line]
    assert f"## Warnings\n\n- {line}\n" in tables.page(book)
