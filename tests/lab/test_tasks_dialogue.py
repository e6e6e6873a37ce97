"""The dialogue tasks: MultiWOZ and the Schema-Guided set, the LSTM and RoBERTa as a decoder."""

import math
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from gradmem.lab.data.catalogue import DATA_SETS, DataSet, File
from gradmem.lab.data.dialogues import Goal
from gradmem.lab.optimizers import OPTIMIZERS
from gradmem.lab.tasks import evaluate, get_task, multiwoz, seeded
from gradmem.lab.tasks.dialogue import shortened
from gradmem.lab.tasks.dialogue_model import LAST, NO_WORD, EncoderDecoder
from gradmem.lab.tasks.dialogue_scores import bleu, informs, succeeds
from gradmem.lab.tasks.multiwoz import divided, held_out
from gradmem.lab.tasks.windows import NOTHING
from gradmem.lab.training import Training

from .dialogue_files import (
    multiwoz_dialogues,
    trained,
    write_guided,
    write_json,
    write_release,
)
from .test_libsvm import DATA

LSTM, ROBERTA = "multiwoz-lstm", "multiwoz-roberta"
# In the released program 55,200 more: two layers that no output depends on.
PARAMETERS = 519_200

with_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
with_sacrebleu = pytest.mark.skipif(
    find_spec("sacrebleu") is None, reason="sacrebleu is not installed"
)
both = pytest.mark.parametrize("name", [LSTM, pytest.param(ROBERTA, marks=with_transformers)])


pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(scope="module")
def real():
    """MultiWOZ as it lies in the data folder; read once."""
    task = get_task(LSTM, DATA)
    if sentence := task.missing():
        pytest.skip(sentence)
    return task


# What is read ------------------------------------------------------------------------------------


def test_a_release_is_divided_by_its_lists(dialogues):
    task = get_task(LSTM, dialogues)
    parts = task.dialogues()
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [28, 6, 6]
    assert [each.name for each in parts.validation] == [f"MUL{number:04}" for number in range(6)]
    assert len(task.data().train) == 3 * 28
    assert task.partial == f"{multiwoz.NO_DATABASE[0].upper()}{multiwoz.NO_DATABASE[1:]}"


def test_databases_are_read_and_part_of_what_a_run_depends_on(dialogues, tmp_path):
    write_release(tmp_path)
    before = get_task(LSTM, tmp_path).versions()
    write_json(tmp_path / "multiwoz" / "restaurant_db.json", [{"food": "italian"}])
    task = get_task(LSTM, tmp_path)
    assert task.partial is None
    assert task.versions() != before
    assert task.versions()["data"] == before["data"] == get_task(LSTM, dialogues).versions()["data"]
    assert get_task(LSTM, tmp_path).data().train.inputs["database"][:, :6].sum() > 0
    assert get_task(LSTM, dialogues).data().train.inputs["database"][:, :24].sum() == 0


def test_three_files_are_the_three_parts(tmp_path, monkeypatch):
    files = tuple(File(f"multiwoz/{name}.json", None, ()) for name in ("val", "test"))
    sets = {**DATA_SETS, "multiwoz-part": DataSet("multiwoz-part", files)}
    monkeypatch.setattr("gradmem.lab.data.catalogue.DATA_SETS", sets)
    for first, name in ((30, "val"), (34, "test")):
        write_json(tmp_path / "multiwoz" / f"{name}.json", multiwoz_dialogues(4, first))
    # The training file is not there: a part of the validation dialogues trains, and that is said.
    monkeypatch.setattr(multiwoz, "HELD_OUT", 1)
    task = get_task(LSTM, tmp_path)
    assert task.missing() is None
    assert task.partial.startswith("This is a part of MultiWOZ 2.1")
    sizes = [len(part) for part in vars(task.dialogues()).values()]
    assert sizes == [3, 1, 4]
    write_json(tmp_path / "multiwoz" / "train.json", multiwoz_dialogues(10))
    task = get_task(LSTM, tmp_path)
    assert "part of" not in task.partial
    assert [len(part) for part in vars(task.dialogues()).values()] == [10, 4, 4]


@pytest.mark.parametrize(
    ("name", "home", "schema", "counts", "prefix"),
    [
        (
            "multiwoz22-lstm",
            "multiwoz-2.2",
            "schema.json",
            {"train": 17, "dev": 2, "test": 2},
            "restaurant-",
        ),
        ("sgd-lstm", "sgd", "train/schema.json", {"train": 127, "dev": 20, "test": 34}, ""),
    ],
)
def test_the_schema_guided_sets_are_read_whole(tmp_path, name, home, schema, counts, prefix):
    write_guided(tmp_path / home, schema, counts, prefix, called=name == "sgd-lstm")
    task = get_task(name, tmp_path)
    assert task.missing() is None
    assert task.partial is None
    parts = task.data()
    assert [len(each) for each in vars(parts).values()] == [2 * n for n in counts.values()]
    assert parts.train.inputs["belief"].shape == (2 * counts["train"], 14)
    assert math.isfinite(task.loss(task.model(0), parts.test).item())
    (tmp_path / home / "train" / "dialogues_003.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no {home}/train/dialogues_003\.json"):
        get_task(name, tmp_path).data()


def test_a_release_without_its_lists_says_so(tmp_path):
    write_release(tmp_path)
    (tmp_path / "multiwoz" / "testListFile.json").unlink()
    with pytest.raises(FileNotFoundError, match="there is no multiwoz/testListFile"):
        get_task(LSTM, tmp_path).data()


def test_lists_of_another_release_are_refused(tmp_path):
    everything = dict.fromkeys("abcd")
    assert [set(part) for part in divided(everything, [(tmp_path, ["b"]), (tmp_path, ["d"])])] == [
        {"a", "c"},
        {"b"},
        {"d"},
    ]
    with pytest.raises(
        ValueError, match=r"names 1 dialogues that are not in data\.json .* first e"
    ):
        divided(everything, [(tmp_path, ["a", "e"])])
    with pytest.raises(ValueError, match="first b"):
        divided(everything, [(tmp_path, ["b"]), (tmp_path, ["b"])])
    with pytest.raises(ValueError, match="leave no dialogue"):
        divided(everything, [(tmp_path, list("abcd"))])


def test_the_held_out_dialogues_are_the_same_whatever_their_order():
    names = [f"MUL{number}" for number in range(999)]
    assert held_out(names) == held_out(reversed(names))
    assert len(held_out(names)) == 200


@pytest.mark.parametrize("cut", [400, -1])
def test_a_truncated_file_is_named(tmp_path, cut):
    write_release(tmp_path)
    path = tmp_path / "multiwoz" / "data.json"
    path.write_text(path.read_text()[:cut])
    with pytest.raises(ValueError, match=r"data\.json is not JSON .* truncated .* get it again"):
        get_task(LSTM, tmp_path).data()


def test_a_missing_data_set_says_which_part_would_do(tmp_path):
    said = get_task(LSTM, tmp_path).missing()
    assert "no multiwoz/data.json or multiwoz/train.json" in said
    assert "`gradmem data multiwoz-part` fetches a part" in said
    assert "fetches a part" not in get_task("multiwoz22-lstm", tmp_path).missing()


@pytest.mark.parametrize("name", ["sgd-lstm", LSTM])
def test_other_files_in_the_place_of_a_part_are_refused(name, tmp_path):
    task = get_task(name, tmp_path)
    for file in DATA_SETS[task.part].files:
        write_json(tmp_path / file.path, {})
    task = get_task(name, tmp_path)
    assert task.source == task.part
    assert "is a part of" in task.partial
    with pytest.raises(ValueError, match=r"is not the file it should be: .* get it again"):
        task.data()


# Training ----------------------------------------------------------------------------------------


def test_real_dialogues_train_the_papers_model(real):
    if real.source != real.part:
        pytest.skip("the whole data set is there")
    parts = real.data()
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [5928, 1437, 7372]
    names = [{each.name for each in part} for part in vars(real.dialogues()).values()]
    assert [len(each) for each in names] == [799, 200, 1000]
    assert not names[0] & names[1]
    assert parts.train.inputs["belief"].shape == (5928, 94)
    assert parts.train.inputs["database"].shape == (5928, 30)
    assert [len(each) for each in real.vocabularies] == [400, 400]
    assert sum(each.numel() for each in real.model(0).parameters()) == PARAMETERS
    some = parts.train[:32]
    model, losses = trained(real, some, steps=10)
    assert losses[0] == pytest.approx(math.log(400), rel=0.02)
    assert losses[-1] < 0.8 * losses[0]
    loss, score = evaluate(real, model, some)
    assert score == pytest.approx(math.exp(loss), rel=1e-5)


@both
def test_the_loss_falls_and_a_split_in_chunks_gives_the_same(dialogues, name):
    task = get_task(name, dialogues)
    part = task.data().train
    model, losses = trained(task, part[:16], steps=15)
    assert losses[-1] < 0.5 * losses[0]
    whole = evaluate(task, model, part, len(part))
    assert evaluate(task, model, part, 7) == pytest.approx(whole, rel=1e-5)
    assert whole[1] == pytest.approx(math.exp(whole[0]), rel=1e-5)
    assert task.weight(part) == int((part.targets != NOTHING).sum())


@both
@pytest.mark.parametrize("optimizer", ["adam", "sgd_c"])
def test_a_run_goes_on_to_the_same_numbers(dialogues, name, optimizer):
    task, size = get_task(name, dialogues), 32

    def started():
        options = {"lr": 0.01}
        return Training(task, OPTIMIZERS[optimizer], options, seed=3, batch_size=size)

    with seeded(3, "training"):
        straight = started()
        for _ in range(2):
            straight.epoch(of=2)
    with seeded(3, "training"):
        first = started()
        first.epoch(of=2)
        state = first.state()
    again = started()
    with torch.random.fork_rng(devices=[]):
        again.load(state)
        again.epoch(of=2)
    assert again.history.train_loss == straight.history.train_loss
    assert again.history.validation_loss == straight.history.validation_loss
    for key, value in straight.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value)


# The encoder-decoder -----------------------------------------------------------------------------


def test_fillers_change_nothing(dialogues):
    task = get_task(LSTM, dialogues)
    batch = task.data().validation[:6]
    inputs, targets = shortened(batch)
    assert inputs["user"].shape[1] < batch.inputs["user"].shape[1]
    assert targets.shape[1] == inputs["before"].shape[1] < batch.targets.shape[1]
    model = task.model(0)
    some = model(inputs)
    torch.testing.assert_close(model(batch.inputs)[:, : some.shape[1]], some)
    alone, _ = shortened(batch[2:3])
    torch.testing.assert_close(model(alone)[0], some[2, : alone["before"].shape[1]])


def test_an_answer_is_made_of_the_likeliest_words_and_ends(dialogues):
    task = get_task(LSTM, dialogues)
    some = task.data().train[:6]
    model, _ = trained(task, some, steps=150)
    inputs, targets = shortened(some)
    words = model.answer(inputs, longest=30)
    # It has learnt these by heart, so each is what the data say; and stops after the end.
    for said, wanted in zip(words.tolist(), targets.tolist(), strict=True):
        wanted = [word for word in wanted if word != NOTHING]
        assert said[: len(wanted)] == wanted
        assert set(said[len(wanted) :]) <= {LAST}
    answers = task.answers(model, some)
    places = some.inputs["place"].tolist()
    train = task.dialogues().train
    assert answers == [train[number].turns[turn].response for number, turn in places]


@pytest.fixture
def small():
    """An untrained model of nine words, and what one may ask it."""
    with seeded(0):
        model = EncoderDecoder(9, 9, belief=3, database=2, embedding=4, units=5)
    inputs = {
        "user": torch.tensor([[4, 5, NO_WORD], [6, 7, 8]]),
        "before": torch.tensor([[1, 6], [1, 7]]),
        "belief": torch.zeros(2, 3),
        "database": torch.zeros(2, 2),
    }
    return model, inputs


def test_after_its_end_an_answer_goes_on_no_more(small, monkeypatch):
    model, inputs = small
    steps = iter([[LAST, 5], [5, 6], [6, LAST], [7, 7]])
    monkeypatch.setattr(model.output, "forward", lambda state: torch.eye(9)[next(steps)])
    assert model.answer(inputs, longest=9).tolist() == [[LAST, LAST, LAST], [5, 6, LAST]]
    steps = iter([[5, 5]] * 4)
    assert model.answer(inputs, longest=4).tolist() == [[5] * 4] * 2


def test_belief_and_database_reach_the_answer(small):
    model, inputs = small
    plain = model(inputs)
    for key in ("belief", "database"):
        assert not torch.allclose(model({**inputs, key: inputs[key] + 1}), plain)


# Scores ------------------------------------------------------------------------------------------


@with_sacrebleu
def test_bleu_is_that_of_the_formula():
    right = ("the", "[hotel_name]", "is", "in", "the", "[hotel_area]")
    short = right[:5]
    assert bleu([right, right], [right, right]) == pytest.approx(100)
    # All 5, 4, 3 and 2 n-grams are right; the answer is one word too short.
    assert bleu([short], [right]) == pytest.approx(100 * math.exp(1 - 6 / 5))
    # Over the corpus, not the mean of two: 10/12, 8/10, 6/8 and 4/6 of the n-grams.
    other = ("a", *right[1:5], "b")
    expected = 100 * (10 / 12 * 8 / 10 * 6 / 8 * 4 / 6) ** 0.25
    assert bleu([right, other], [right, right]) == pytest.approx(expected)


def test_inform_and_success_over_all_domains_and_turns():
    hotel = Goal(frozenset({"[hotel_name]"}), frozenset({"[hotel_phone]", "[hotel_reference]"}))
    train = Goal(frozenset({"[train_trainid]", "[train_other]"}))
    goals = (hotel, train, Goal())
    assert not informs(goals, [("[hotel_name]",)])
    answers = [("[hotel_name]", "[hotel_phone]"), ("the", "[train_other]")]
    assert informs(goals, answers)
    assert not succeeds(goals, answers)
    assert succeeds(goals, [*answers, ("[hotel_reference]",)])
    assert not succeeds(goals, [("[hotel_phone]", "[hotel_reference]", "hotel_name")])


@with_sacrebleu
def test_details_are_of_whole_dialogues(dialogues, monkeypatch):
    task = get_task(LSTM, dialogues)
    part = task.data().validation
    dialogues = task.dialogues().validation
    places = [[28 + number, turn] for number in range(6) for turn in range(3)]
    assert part.inputs["place"].tolist() == places
    right = [turn.response for each in dialogues for turn in each.turns]
    monkeypatch.setattr(task, "answers", lambda model, batch: right)
    assert task.details(None, part) == {
        "BLEU": pytest.approx(100),
        "inform": 100.0,
        "success": 100.0,
    }
    # the last dialogue says nothing of use; the first does not tell the reference
    right[-3:] = [("no",)] * 3
    right[1] = ("done", ".")
    found = task.details(None, part)
    assert found["inform"] == pytest.approx(100 * 5 / 6)
    assert found["success"] == pytest.approx(100 * 4 / 6)
    assert 0 < found["BLEU"] < 100


def test_without_sacrebleu_bleu_says_what_to_install(monkeypatch):
    monkeypatch.setattr("gradmem.lab.tasks.dialogue_scores.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'gradmem\[dialogue\]'"):
        bleu([("a",)], [("a",)])


def test_the_lab_needs_neither_transformers_nor_sacrebleu():
    code = (
        "import sys; sys.modules['transformers'] = sys.modules['sacrebleu'] = None; "
        "from gradmem.lab.tasks import TASKS; print(len(TASKS))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(told.stdout) > 0
