"""The readers of dialogues: MultiWOZ 2.0 to 2.2 and the Schema-Guided set, texts without values."""

import gzip
import json
import re
import zipfile

import pytest

from gradmem.lab.data import multiwoz, schema_guided
from gradmem.lab.data.delexicalise import Gazetteer, Span, annotated, delexicalised, words
from gradmem.lab.data.dialogues import numbered, numbers, read_json
from gradmem.lab.data.multiwoz_state import ASKED, belief, database, fits
from gradmem.lab.data.schema_guided import Layout
from gradmem.lab.tasks.dialogue_scores import informs, succeeds

from .dialogue_files import (
    NAMES,
    empty_state,
    guided_dialogue,
    multiwoz_dialogue,
    multiwoz_dialogues,
    restaurant_state,
    schema,
    write_json,
)
from .test_libsvm import DATA

VALIDATION = DATA / "multiwoz" / "val.json.zip"
SGD = DATA / "sgd" / "dev" / "dialogues_001.json.gz"


def needs(path):
    return pytest.mark.skipif(not path.exists(), reason=f"there is no {path.name} in {DATA}")


# Texts without values ----------------------------------------------------------------------------


def test_spans_become_placeholders_and_the_longest_of_two_counts():
    text = "The Golden Wok, at 5 Milton Road"
    spans = [Span(19, 20, "[stars]"), Span(4, 14, "[name]"), Span(19, 32, "[address]")]
    assert delexicalised(text, spans) == ("the", "[name]", ",", "at", "[address]")
    assert delexicalised(text, []) == words(text)


def test_an_annotated_value_is_found_wherever_the_text_was_cut_up():
    text = "At the Golden Wok: 2 people, not 2."
    # the numbers are those of another cut, where the colon is a token
    (found,) = annotated(text, "golden  wok", 2, 3, "[name]")
    assert text[found.start : found.end] == "Golden Wok"
    (found,) = annotated(text, "2", 7, 7, "[people]")
    assert (found.start, found.end) == (33, 34)
    assert annotated(text, "three", 40, 41, "[people]") == []
    assert annotated(text, "", 1, 1, "[x]") == [Span(3, 6, "[x]")]


def test_a_list_of_values_finds_the_longest_whole_words():
    known = Gazetteer({"Curry": "[food]", "Curry Garden": "[name]", "12": "[stars]", "": "[none]"})
    spans = known.spans("The curry garden, not 123 curry")
    assert [(span.start, span.end, span.placeholder) for span in spans] == [
        (4, 16, "[name]"),
        (26, 31, "[food]"),
    ]


def test_a_vocabulary_is_of_the_most_frequent_words():
    vocabulary = numbered([("b", "a", "c"), ("b", "a")], 6)
    assert list(vocabulary)[4:] == ["a", "b"]
    assert numbers(("a", "c"), vocabulary) == [4, vocabulary["<unk>"]]


# Vectors -----------------------------------------------------------------------------------------


def test_belief_has_94_inputs_in_their_places():
    start = 14  # after the taxi: one for what is booked, three a slot, one for any of them
    found = belief(restaurant_state("italian", name="curry garden"))
    assert len(found) == 94
    #        booked people day time  food     price    name     area     any
    known = [1, 1, 1, 0, *(0, 0, 1), *(0, 0, 0), *(1, 0, 0), *(0, 1, 0), 1]
    assert list(found[start : start + len(known)]) == known
    assert sum(found) == sum(known)


def test_database_has_30_inputs_and_is_silent_without_files():
    entities = [{"name": name, "food": food} for name in NAMES for food in ("italian", "thai")]
    state = restaurant_state("Italian", name="golden wok")
    found = database(state, {"restaurant": entities, "train": []})
    assert len(found) == 30
    assert found[:6] == (0, 0, 0, 0, 1, 0)  # four of them
    assert found[6:18] == (0,) * 12  # no files for these
    assert found[18:24] == (1, 0, 0, 0, 0, 0)
    assert found[24:] == (0, 1, 1, 0, 1, 0)  # a restaurant is booked
    assert database(state, {})[:24] == (0,) * 24
    trains = [{"leaveAt": f"{hour:02}:00", "day": "monday"} for hour in range(5, 24)]
    asked = empty_state()
    asked["train"]["semi"] |= {"leaveAt": "12:30", "day": "monday"}
    assert database(asked, {"train": trains})[18:24] == (0, 0, 0, 0, 1, 0)  # eleven


def test_what_fits_a_belief_state():
    house = {"type": "guesthouse", "area": "east", "arriveBy": "10:15"}
    assert fits(house, {"type": "Guest House", "area": "dontcare", "stars": "4"})
    assert not fits(house, {"type": "hotel"})
    assert fits(house, {"arriveBy": "10:15"})
    assert not fits(house, {"arriveBy": "9:45"})
    assert fits({"leaveAt": "10:15"}, {"leaveAt": "9:45"})
    assert not fits({"leaveAt": "09:15"}, {"leaveAt": "9:45"})


def test_a_belief_state_by_schema():
    layout = Layout({"restaurant": ("name", "food"), "hotel": ("name",)})
    state = {"restaurant": {"food": ["thai"], "stars": ["4"]}, "hotel": {"name": ["dontcare"]}}
    assert belief_of(state, layout) == (0, 0, 1, 0, 1, 0, 1, 1)
    assert layout.width == 8


def belief_of(state, layout):
    return schema_guided.belief(state, layout)


# MultiWOZ 2.0 and 2.1 ----------------------------------------------------------------------------


@pytest.mark.parametrize("annotations", [True, False])
def test_multiwoz_dialogues_lose_their_values(annotations):
    found = multiwoz_dialogues(3, annotated=annotations)
    for dialogue in multiwoz.dialogues_of(found, {}):
        first, second, third = dialogue.turns
        assert first.user == words("i want [restaurant_food] food , please .")
        # without annotations a name is known from what is booked later
        said = words("[restaurant_name] is nice . its phone is [restaurant_phone] .")
        assert first.response == said
        assert second.user == words("book it for [restaurant_people] people .")
        assert second.response == words("done . your reference is [restaurant_reference] .")
        assert third.response == ("goodbye", "!")
        assert (len(first.belief), len(first.database)) == (94, 30)
        assert sum(second.belief) > sum(first.belief)
        (goal,) = dialogue.goals
        assert goal.offers == {"[restaurant_name]"}
        assert goal.requests == {"[restaurant_phone]", "[restaurant_reference]"}
        answers = [turn.response for turn in dialogue.turns]
        assert informs(dialogue.goals, answers)
        assert succeeds(dialogue.goals, answers)


def test_databases_know_names_where_nothing_is_annotated():
    entities = [{"name": name.lower(), "food": "italian"} for name in NAMES]
    found = multiwoz_dialogues(4, annotated=False)
    for each in found.values():  # of a dialogue in which nothing is booked
        del each["log"][2:]
    for dialogue in multiwoz.dialogues_of(found, {"restaurant": entities}):
        assert dialogue.turns[0].response[0] == "[restaurant_name]"
        assert sum(dialogue.turns[0].database[:6]) == 1


def test_a_booking_is_of_the_domain_that_was_spoken_of_before():
    found = {"one": multiwoz_dialogue(1)}
    user, system = found["one"]["log"][2:4]
    user["dialog_act"], user["span_info"] = {}, []
    system["metadata"] = found["one"]["log"][1]["metadata"]  # nothing tells which it is
    (dialogue,) = multiwoz.dialogues_of(found, {})
    assert "[restaurant_reference]" in dialogue.turns[1].response


def test_goals_of_trains_and_of_what_was_named():
    goal = {
        "train": {"info": {}, "reqt": ["trainID", "price"], "book": {"people": "1"}},
        "hotel": {"info": {"name": "lovell lodge"}, "reqt": ["postcode", "stars"]},
        "taxi": {"info": {}, "reqt": ["phone"]},
        "police": {},
    }
    wanted = {goal.requests: goal.offers for goal in multiwoz.goals_of(goal)}
    assert wanted == {
        frozenset({"[train_trainid]", "[train_reference]"}): {"[train_trainid]"},
        frozenset({"[hotel_postcode]"}): frozenset(),
        frozenset({"[taxi_phone]"}): frozenset(),
    }


def test_a_last_word_without_an_answer_is_left_out():
    found = {"one": multiwoz_dialogue(1)}
    found["one"]["log"].append({"text": "Hello ?", "metadata": {}, "span_info": []})
    (dialogue,) = multiwoz.dialogues_of(found, {})
    assert len(dialogue.turns) == 3


def spoiled(change):
    found = multiwoz_dialogues(2)
    change(found["MUL0001"])
    return found


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ([], "has no dialogues by name"),
        ({}, "has no dialogues by name"),
        ({"a": {"turns": []}}, "dialogue a has no goal and log"),
        (spoiled(lambda each: each.update(log=[])), "dialogue MUL0001 has no turn"),
        (spoiled(lambda each: each["log"][2].pop("text")), "MUL0001 has no text in line 3"),
        (
            spoiled(lambda each: each["log"][1]["span_info"][0].pop()),
            "MUL0001 has spans without act, slot, value and two numbers in line 2",
        ),
        (
            spoiled(lambda each: each["log"][3]["metadata"].pop("taxi")),
            "MUL0001 has no belief state of all domains in line 4",
        ),
    ],
)
def test_another_json_file_is_no_multiwoz(tmp_path, found, sentence):
    path = write_json(tmp_path / "data.json", found)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{sentence}"):
        multiwoz.read_dialogues(path)


@pytest.mark.parametrize("cut", [100, -10])
@pytest.mark.parametrize("packed", [True, False])
def test_a_truncated_file_is_named(tmp_path, cut, packed):
    text = json.dumps(multiwoz_dialogues(2)).encode()
    path = tmp_path / "data.json"
    path.write_bytes((gzip.compress(text) if packed else text)[:cut])
    with pytest.raises(ValueError, match=r"data\.json.*truncated.*get it again"):
        multiwoz.read_dialogues(path)


def test_lists_and_databases_that_are_none_are_refused(tmp_path):
    (tmp_path / "valListFile").write_text("\n")
    with pytest.raises(ValueError, match="names no dialogues"):
        multiwoz.read_names(tmp_path / "valListFile")
    write_json(tmp_path / "db" / "hotel_db.json", {"name": "one"})
    with pytest.raises(ValueError, match=r"hotel_db\.json is not a list of entities"):
        multiwoz.read_databases(tmp_path)
    write_json(tmp_path / "hotel_db.json", [{"name": "one"}])  # beside the dialogues comes first
    assert multiwoz.read_databases(tmp_path) == {"hotel": [{"name": "one"}]}


@needs(VALIDATION)
def test_real_dialogues_of_multiwoz():
    with zipfile.ZipFile(VALIDATION) as archive:
        everything = json.loads(archive.read("val.json"))
    found = {name: everything[name] for name in list(everything)[:100]}
    dialogues = multiwoz.dialogues_of(found, {})
    turns = [turn for dialogue in dialogues for turn in dialogue.turns]
    assert len(dialogues) == 100
    assert len(turns) == sum(len(each["log"]) // 2 for each in found.values())
    assert {(len(turn.belief), len(turn.database)) for turn in turns} == {(94, 30)}
    assert " ".join(dialogues[0].turns[0].user) == (
        "i need to book a hotel in the [hotel_area] that has [hotel_stars] stars ."
    )
    # The people who wrote the answers reached nearly all goals: so these can be reached.
    answers = [[turn.response for turn in each.turns] for each in dialogues]
    reached = [succeeds(each.goals, said) for each, said in zip(dialogues, answers, strict=True)]
    assert sum(reached) >= 90
    assert any(each.requests for dialogue in dialogues for each in dialogue.goals)
    assert len(ASKED) == 7


# The Schema-Guided form --------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "restaurant-"])  # MultiWOZ 2.2 has one
def test_schema_guided_dialogues_lose_their_values(tmp_path, prefix):
    layout = schema_guided.read_layout(write_json(tmp_path / "schema.json", schema(prefix)))
    assert layout.slots["restaurant"] == ("name", "food", "phone")
    path = write_json(tmp_path / "dialogues_001.json", [guided_dialogue(3, prefix)])
    (dialogue,) = schema_guided.read_dialogues(path, layout)
    first, second = dialogue.turns
    assert first.user == words("i want [restaurant_food] food.")
    assert first.response == words("[restaurant_name] is nice, its phone is [restaurant_phone].")
    assert first.belief == second.belief
    assert sum(first.belief) == 2
    assert first.database == (0, 0, 0, 1, 0, 0)
    assert second.database == (1, 0, 0, 0, 0, 0)
    (goal,) = dialogue.goals
    assert goal.offers == {"[restaurant_name]"}
    assert goal.requests == {"[restaurant_phone]"}
    assert succeeds(dialogue.goals, [first.response, second.response])


def change(path, *keys, to):
    """A dialogue with one value changed."""
    found = inner = guided_dialogue(1)
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return write_json(path, [guided_dialogue(0), found])


@pytest.mark.parametrize(
    ("keys", "to", "sentence"),
    [
        (("turns",), [], "do not alternate"),
        (("turns", 1, "speaker"), "USER", "do not alternate"),
        (("turns", 0, "frames", 0, "state"), {}, "slot_values"),
        (("turns", 1, "frames", 0, "slots", 0, "exclusive_end"), 999, "outside its text"),
    ],
)
def test_another_form_is_refused_with_the_dialogue(tmp_path, keys, to, sentence):
    path = change(tmp_path / "dialogues_001.json", *keys, to=to)
    with pytest.raises(ValueError, match=rf"dialogues_001\.json: dialogue 2 .*{sentence}"):
        schema_guided.read_dialogues(path, Layout({}))


def test_what_is_no_list_or_no_schema_is_refused(tmp_path):
    path = write_json(tmp_path / "some.json", {"a": 1})
    with pytest.raises(ValueError, match="no list of dialogues"):
        schema_guided.read_dialogues(path, Layout({}))
    with pytest.raises(ValueError, match="no schema of services and slots"):
        schema_guided.read_layout(path)
    path.write_text("[{]")
    with pytest.raises(ValueError, match=r"some\.json is not JSON"):
        read_json(path)


@needs(SGD)
def test_real_dialogues_of_the_schema_guided_set():
    layout = schema_guided.read_layout(DATA / "sgd" / "train" / "schema.json.gz")
    assert len(layout.slots) == 16
    dialogues = schema_guided.read_dialogues(SGD, layout)
    for dialogue in dialogues:
        answers = [turn.response for turn in dialogue.turns]
        assert succeeds(dialogue.goals, answers)
        assert {len(turn.belief) for turn in dialogue.turns} == {layout.width}
    spoken = " ".join(" ".join(turn.user) for each in dialogues for turn in each.turns)
    assert "[restaurants_restaurant_name]" in spoken
    assert sum(turn.database[0] for each in dialogues for turn in each.turns) > 0
