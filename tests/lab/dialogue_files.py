"""Dialogues made up here, in the forms of MultiWOZ 2.0 to 2.2 and of the Schema-Guided set."""

import json
import random

import torch

from gradmem.lab.data.multiwoz_state import ASKED, BOOKED
from gradmem.lab.tasks import seeded

NAMES = ("Pizza Hut City Centre", "Curry Garden", "Saint Johns Chop House", "Golden Wok")
FOODS = ("italian", "indian", "british", "chinese")
PHONE = "01223323737"


def empty_state():
    return {
        domain: {
            "book": {"booked": [], **dict.fromkeys(BOOKED.get(domain, ()), "")},
            "semi": dict.fromkeys(ASKED[domain], ""),
        }
        for domain in ASKED
    }


def restaurant_state(food, **booked):
    state = empty_state()
    state["restaurant"]["semi"] |= {"food": food, "area": "dontcare", "name": "not mentioned"}
    if booked:
        state["restaurant"]["book"] |= {"booked": [booked], "people": "2", "day": "monday"}
    return state


def multiwoz_dialogue(number, annotated=True):
    """Three turns about a restaurant; the texts are cut up at blanks, as ConvLab has them."""
    draw = random.Random(number)
    name, food = draw.choice(NAMES), draw.choice(FOODS)
    reference = "".join(draw.choices("ABCDEFGH", k=7)) + "7"
    lines = [
        (f"I want {food} food , please .", [("Restaurant-Inform", "Food", food)], {}),
        (
            f"{name} is nice . Its phone is {PHONE} .",
            [("Restaurant-Inform", "Name", name), ("Restaurant-Inform", "Phone", PHONE)],
            restaurant_state(food),
        ),
        ("Book it for 2 people .", [("Restaurant-Inform", "People", "2")], {}),
        (
            f"Done . Your reference is {reference} .",
            [("Booking-Book", "Ref", reference)],
            restaurant_state(food, name=name.lower(), reference=reference),
        ),
        ("Thank you .", [], {}),
        ("Goodbye !", [], restaurant_state(food, name=name.lower(), reference=reference)),
    ]
    goal = {
        "restaurant": {"info": {"food": food}, "reqt": ["phone"], "book": {"people": "2"}},
        "hotel": {},
        "message": ["You want to eat"],
    }
    return {"goal": goal, "log": [_line(*each, annotated) for each in lines]}


def _line(text, values, metadata, annotated):
    line = {"text": text, "metadata": metadata}
    if annotated:
        tokens = text.split()
        line["dialog_act"] = {act: [[slot, value]] for act, slot, value in values}
        line["span_info"] = [
            [act, slot, value, *_tokens(tokens, value.split())] for act, slot, value in values
        ]
    return line


def _tokens(tokens, value):
    (first,) = (
        place for place in range(len(tokens)) if tokens[place : place + len(value)] == value
    )
    return first, first + len(value) - 1


def multiwoz_dialogues(count, first=0, annotated=True, ending=""):
    return {
        f"MUL{number:04}{ending}": multiwoz_dialogue(number, annotated)
        for number in range(first, first + count)
    }


def write_json(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return path


def write_release(folder, count=40, held=6, annotated=True):
    """``data.json`` and its two lists, as MultiWOZ 2.0 and 2.1 have them."""
    everything = multiwoz_dialogues(count, annotated=annotated, ending=".json")
    write_json(folder / "multiwoz" / "data.json", everything)
    names = list(everything)
    (folder / "multiwoz" / "valListFile.json").write_text("\n".join(names[:held]) + "\n")
    (folder / "multiwoz" / "testListFile.json").write_text("\n".join(names[held : 2 * held]))


def schema(prefix=""):
    slots = ("name", "food", "phone")
    return [
        {"service_name": service, "slots": [{"name": f"{prefix}{slot}"} for slot in slots]}
        for service in ("restaurant", "hotel_2")
    ]


def guided_dialogue(number, prefix="", called=True):
    """Two turns; the values are annotated by characters."""
    draw = random.Random(number)
    name, food = draw.choice(NAMES), draw.choice(FOODS)
    asked = f"I want {food} food."
    told = f"{name} is nice, its phone is {PHONE}."
    state = {
        "active_intent": "Find",
        "requested_slots": [f"{prefix}phone"],
        "slot_values": {f"{prefix}food": [food]},
    }
    call = {"service_call": {"method": "Find"}, "service_results": [{}, {}]} if called else {}
    return {
        "dialogue_id": f"{number}_00000",
        "services": ["restaurant"],
        "turns": [
            _turn("USER", asked, {f"{prefix}food": food}, state=state),
            _turn("SYSTEM", told, {f"{prefix}name": name, f"{prefix}phone": PHONE}, **call),
            _turn("USER", "Thanks!", {}, state={**state, "requested_slots": []}),
            _turn("SYSTEM", "Goodbye.", {}),
        ],
    }


def _turn(speaker, text, values, **more):
    slots = [
        {"slot": slot, "start": text.index(value), "exclusive_end": text.index(value) + len(value)}
        for slot, value in values.items()
    ]
    frame = {"service": "restaurant", "slots": slots, **more}
    return {"speaker": speaker, "utterance": text, "frames": [frame]}


def write_guided(home, schema_file, counts, prefix="", called=True):
    """A schema, and files of one dialogue each in a folder a part."""
    write_json(home / schema_file, schema(prefix))
    number = 0
    for part, count in counts.items():
        for file in range(1, count + 1):
            number += 1
            write_json(
                home / part / f"dialogues_{file:03}.json",
                [guided_dialogue(number, prefix, called)],
            )


def trained(task, examples, steps, lr=0.01):
    """Adam on the same few examples: the model, and its losses."""
    model = task.model(0)
    optimizer, losses = torch.optim.Adam(task.parameters(model), lr), []
    with seeded(0, "training"):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = task.loss(model.train(), examples)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm)
            optimizer.step()
            losses.append(loss.item())
    return model, losses
