"""Tasks on pairs of sentences: encoders, word vectors, what is read where only a part is there."""

import gzip
import json
import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn

from gradmem.lab.checkpoint import Checkpoints
from gradmem.lab.data import glove, nli
from gradmem.lab.data.catalogue import DATA_SETS
from gradmem.lab.errors import TaskError
from gradmem.lab.optimizers import OPTIMIZERS
from gradmem.lab.run import train
from gradmem.lab.tasks import TASKS, FixedSplits, evaluate, get_task
from gradmem.lab.tasks.encoders import Convolutions, InferSent, LastState
from gradmem.lab.tasks.inference import Inference
from gradmem.lab.tasks.multinli import MultinliConvnet, MultinliLstm
from gradmem.lab.tasks.sentences import Sentences
from gradmem.lab.tasks.sick import SickLstm
from gradmem.lab.tasks.snli import SnliConvnet, SnliInferSent, SnliLstm
from gradmem.lab.training import Training

from .helpers import config, real_task, untimed
from .test_libsvm import DATA
from .test_tasks_text import Stopped, count, stop_after

NAMES = [name for name, task in TASKS.items() if issubclass(task, Inference)]
ENCODERS = [LastState, InferSent, Convolutions]
LSTM = 4 * 200 * (300 + 200 + 2)
CONVOLUTIONS = 200 * (3 * 300 + 1) + 3 * 200 * (3 * 200 + 1)
PARAMETERS = {  # without word vectors: encoder, and the head on four times its size
    "lstm": LSTM + 200 * (4 * 200 + 1) + 200 * 201 + 3 * 201,
    "infersent": 2 * LSTM + 200 * (4 * 400 + 1) + 200 * 201 + 3 * 201,
    "convnet": CONVOLUTIONS + 200 * (4 * 800 + 1) + 200 * 201 + 3 * 201,
}
PLACES = ["park", "street", "house", "garden"]


pytestmark = pytest.mark.usefixtures("single_thread")


def lines(number, seed, unlabelled=0):
    """Pairs whose label one word of the hypothesis tells, as SNLI has them."""
    chance, made = torch.Generator().manual_seed(seed), []
    for row in range(number):
        label = nli.LABELS[row % 3]
        first, second = (PLACES[i] for i in torch.randint(0, 4, (2,), generator=chance))
        tell = {"entailment": "outside", "neutral": "tired", "contradiction": "asleep"}[label]
        premise, hypothesis = f"A man isn't in the {first}.", f"A man is {tell} in the {second}."
        gold = "-" if row < unlabelled else label
        record = {"gold_label": gold, "sentence1": premise, "sentence2": hypothesis}
        made.append(json.dumps(record | {"pairID": f"{row}"}))
    return "\n".join(made) + "\n"


def write(folder, data_set, sizes, pack=False):
    for seed, (file, size) in enumerate(zip(DATA_SETS[data_set].files, sizes, strict=True)):
        path = folder / (file.path + ".gz" * pack)
        path.parent.mkdir(exist_ok=True, parents=True)
        text = lines(size, seed, unlabelled=2).encode()
        path.write_bytes(gzip.compress(text) if pack else text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder with a small SNLI, all of it."""
    monkeypatch.setattr("gradmem.lab.tasks.snli.Snli.pairs", (60, 30, 30))
    write(tmp_path, "snli", (62, 32, 32))
    return tmp_path


def without_vectors(task):
    """Parameters beside those of words."""
    model = task.model(0)
    return count(model) - count(model.words)


# Encoders ----------------------------------------------------------------------------------------


def test_rows_of_sentences_are_filled_up_in_a_batch_only():
    rows = Sentences.of([[3], [4, 5, 6], [], [7, 8]])
    assert len(rows) == 4
    symbols, lengths = rows[torch.tensor([3, 0, 3])].filled()
    assert symbols.tolist() == [[7, 8], [3, 0], [7, 8]]
    assert lengths.tolist() == [2, 1, 2]
    assert rows[1:3].filled()[0].tolist() == [[4, 5, 6], [0, 0, 0]]
    assert rows[2:3].filled()[1].tolist() == [1]
    assert {field.name for field in fields(rows)} == {"symbols", "starts", "lengths"}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_fills_a_sentence_up_has_no_effect(encoder):
    torch.manual_seed(0)
    made, words = encoder(7, 5), torch.randn(3, 9, 7)
    lengths = torch.tensor([4, 9, 1])
    together = made(words, lengths)
    assert together.shape == (3, made.size)
    for row, length in enumerate(lengths.tolist()):
        alone = made(words[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)
    changed = words.clone()
    changed[0, 4:] = 100.0
    torch.testing.assert_close(made(changed, lengths), together)
    changed[0, 3] = 0.0
    assert not torch.allclose(made(changed, lengths)[0], together[0], atol=1e-3)


def test_encoders_are_what_they_are_called():
    torch.manual_seed(0)
    words, lengths = torch.randn(2, 6, 7), torch.tensor([6, 6])
    last, both, stack = (encoder(7, 5) for encoder in ENCODERS)
    torch.testing.assert_close(last(words, lengths), last.recurrent(words)[0][:, -1])
    torch.testing.assert_close(both(words, lengths), both.recurrent(words)[0].amax(dim=1))
    states, largest = words.transpose(1, 2), []
    for layer in stack.layers:
        states = layer(states).relu()
        largest.append(states.amax(dim=2))
    torch.testing.assert_close(stack(words, lengths), torch.cat(largest, dim=1))


@pytest.mark.parametrize("cls", [SnliLstm, SnliInferSent, SnliConvnet])
def test_the_model_is_the_papers(folder, cls):
    task = cls(folder)
    model = task.model(0).eval()
    assert without_vectors(task) == PARAMETERS[task.encoder]
    assert [type(layer).__name__ for layer in model.head] == [
        *("Linear", "ReLU", "Dropout") * 2,
        "Linear",
    ]
    assert [layer.p for layer in model.head if isinstance(layer, nn.Dropout)] == [0.2, 0.2]
    inputs = task.data().validation[:4].inputs
    u, v = (model._encoded(each) for each in inputs)
    features = torch.cat([u, v, (u - v).abs(), u * v], dim=1)
    torch.testing.assert_close(model(inputs), model.head(features))
    assert model(inputs).shape == (4, 3)


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [SnliLstm, SnliInferSent, SnliConvnet])
def test_it_learns_and_an_interrupted_run_goes_on_bit_for_bit(folder, cls, tmp_path):
    options = {"lr": 2e-3, "capacity": 3}
    run = config(task=cls.name, optimizer="adam_c", options=options, epochs=4, batch_size=10)
    whole = train(cls(folder), run)
    assert whole.status == "ok"
    assert whole.validation_loss < 0.8 * math.log(3)
    assert whole.validation_score > 0.5
    keep = Checkpoints(tmp_path / "kept", 0.0, warn=pytest.fail)
    with pytest.raises(Stopped):
        train(cls(folder), run, checkpoint=keep.of("run"), onlooker=stop_after(2))
    seen = []
    resumed = train(cls(folder), run, checkpoint=keep.of("run"), onlooker=seen.append)
    assert [epoch.number for epoch in seen] == [3, 4]
    assert untimed(resumed) == untimed(whole)


def test_evaluation_in_chunks_is_that_of_the_whole(folder):
    task = SnliInferSent(folder)
    model, part = task.model(0), task.data().test
    whole = evaluate(task, model, part, len(part))
    for size in (1, 7):
        assert evaluate(task, model, part, size) == pytest.approx(whole, rel=1e-5)


# Word vectors ------------------------------------------------------------------------------------


def test_trained_vectors_are_for_words_that_occur_twice(folder):
    path = folder / "snli" / "snli_1.0_train.jsonl"
    path.write_text(path.read_text().replace("asleep", "snoring", 1))
    for part in ("dev", "test"):
        path = folder / "snli" / f"snli_1.0_{part}.jsonl"
        path.write_text(path.read_text().replace("tired", "sleepy"))
    task = SnliLstm(folder)
    names = task._words[0].names
    assert {"asleep", "tired"} <= set(names)
    assert not {"snoring", "sleepy"} & set(names)
    assert {"n't", "is", ".", "a"} <= set(names)
    assert task.title == "SNLI, LSTM encoder of 200 units, trained word vectors"
    assert task.model(0).words.weight.shape == (len(names), 300)
    assert "vectors" not in task.versions()


@pytest.fixture
def vectors(folder):
    chance = torch.Generator().manual_seed(0)
    with (folder / "glove.6B.300d.txt").open("w") as file:
        for word in ("a", "man", "is", "outside", "tired", "asleep", "elephant"):
            numbers = torch.randn(300, generator=chance).tolist()
            file.write(f"{word} {' '.join(f'{number:.5f}' for number in numbers)}\n")
    return folder / "glove.6B.300d.txt"


def test_gloves_vectors_are_used_and_not_trained(folder, vectors):
    task = SnliLstm(folder)
    assert task.title == "SNLI, LSTM encoder of 200 units, vectors of glove.6B.300d.txt"
    vocabulary, table = task._words
    assert set(vocabulary.names) == {"<unk>", "a", "man", "is", "outside", "tired", "asleep"}
    assert not table[0].any()
    row = vocabulary.names.index("tired")
    text = next(line for line in vectors.read_text().splitlines() if line.startswith("tired "))
    assert table[row].tolist() == pytest.approx([float(number) for number in text.split()[1:]])
    model = task.model(0)
    assert count(model) == PARAMETERS["lstm"]
    assert not any("words" in name for name in model.state_dict())
    before = model.words.table.clone()
    training = Training(task, OPTIMIZERS["adam"], {"lr": 1e-3}, seed=0, batch_size=30)
    losses = [training.epoch(of=4).train_loss for _ in range(4)]
    assert losses[-1] < losses[0]
    assert torch.equal(training.model.words.table, before)


def test_runs_with_other_vectors_are_other_runs(folder, vectors):
    with_them = SnliLstm(folder).versions()
    assert with_them["vectors"].startswith("glove.6B.300d.txt, ")
    vectors.write_text(vectors.read_text() + glove_line("zebra"))
    assert SnliLstm(folder).versions() != with_them
    vectors.unlink()
    assert SnliLstm(folder).versions() == {"data": with_them["data"]}


def glove_line(word):
    return f"{word} {' '.join(['0.5'] * glove.WIDTH)}\n"


def test_a_truncated_file_of_vectors_is_named(folder, vectors):
    vectors.write_text(vectors.read_text()[:-10])
    with pytest.raises(ValueError, match=r"glove.6B.300d.txt, line 7: .* truncated"):
        SnliLstm(folder).data()


# Files, whole and in part ------------------------------------------------------------------------


def test_the_whole_of_snli_is_read_where_it_is_there(folder):
    (folder / "snli" / "snli_1.0_train_1666.jsonl").write_text(lines(9, 0))
    task = SnliLstm(folder)
    assert (task.source, task.partial) == ("snli", None)
    assert [len(part) for part in parts_of(task)] == [60, 30, 30]
    before = task.versions()
    (folder / "snli" / "snli_1.0_test.jsonl").write_text(lines(32, 9, unlabelled=2))
    assert SnliLstm(folder).versions() != before


def parts_of(task):
    parts = task.data()
    return parts.train, parts.validation, parts.test


def test_a_file_with_too_few_pairs_is_refused(folder):
    path = folder / "snli" / "snli_1.0_dev.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"dev.jsonl has 29 labelled pairs where that of snli has"):
        SnliLstm(folder).data()


def test_a_truncated_file_is_refused(folder):
    path = folder / "snli" / "snli_1.0_dev.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"dev.jsonl, line 32 is not a JSON object .*truncated"):
        SnliLstm(folder).data()


def test_nothing_there_asks_for_the_whole(tmp_path):
    task = SnliLstm(tmp_path)
    assert task.partial is None
    assert "'snli' is not complete" in task.missing()
    assert DATA_SETS["snli"].by_hand in task.missing()


def test_without_the_files_it_is_said_why_they_are_needed_to_find_runs(tmp_path):
    with pytest.raises(TaskError, match="runs of snli-lstm are known by its files, but the data"):
        SnliLstm(tmp_path).versions()
    assert SickLstm(tmp_path).versions()  # by the checksums of the catalogue


def test_multinli_with_its_training_file(tmp_path, monkeypatch):
    monkeypatch.setattr("gradmem.lab.tasks.multinli.Multinli.pairs", (30, 18, 12))
    write(tmp_path, "multinli", (32, 20, 14), pack=True)
    task = MultinliConvnet(tmp_path)
    assert [len(part) for part in parts_of(task)] == [30, 18, 12]
    assert task.partial is None


def test_multinli_without_it_divides_the_matched_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr("gradmem.lab.tasks.multinli.Multinli.part_pairs", (60, 30))
    write(tmp_path, "multinli-dev", (62, 32))
    task = MultinliLstm(tmp_path)
    train, validation, test = task._parts
    assert [len(part) for part in (train, validation, test)] == [48, 12, 30]
    assert sorted(train + validation) == sorted(
        nli.read_pairs(tmp_path / DATA_SETS["multinli-dev"].files[0].path)
    )
    assert [pair.label for pair in validation].count(0) == 4
    assert "four fifths of its matched development set" in task.partial


# The real files ----------------------------------------------------------------------------------


def test_the_part_of_snli_says_that_it_is_one():
    task = real_task("snli-lstm", DATA)
    if task.source == "snli":
        pytest.skip("the whole of SNLI is here")
    assert "Only 1,666 of SNLI's 549,367 training pairs" in task.partial
    assert task.target == 0.45 < SnliLstm.target
    assert [len(part) for part in parts_of(task)] == [1666, 9842, 9824]
    assert parts_of(task)[2].targets.bincount().tolist() == [3368, 3219, 3237]
    # the part is as typed, the rest is cut up: all the same most words are known
    validated = task.data().validation.inputs[0].symbols
    assert (validated == 0).float().mean() < 0.15


def test_the_development_sets_of_multinli_say_what_they_are_used_for():
    task = real_task("multinli-infersent", DATA)
    if task.source == "multinli":
        pytest.skip("the whole of MultiNLI is here")
    assert [len(part) for part in parts_of(task)] == [7852, 1963, 9832]
    assert parts_of(task)[2].targets.bincount().tolist() == [3463, 3129, 3240]
    assert task.partial


def test_sick_is_whole():
    task = real_task("sick-convnet", DATA)
    assert [len(part) for part in parts_of(task)] == [4500, 500, 4927]
    assert parts_of(task)[0].targets.bincount().tolist() == [1299, 2536, 665]
    assert task.partial is None
    assert all(file.sha256 for file in task.files())


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_on_real_pairs_bring_the_loss_down(name):
    task = real_task(name, DATA)
    parts = parts_of(task)
    small = FixedSplits(*(part[:40] for part in parts))
    if task.vectors is None:
        assert without_vectors(task) == PARAMETERS[task.encoder]
    task.data = lambda: small
    before = evaluate(task, task.model(0), small.train)[0]
    assert before == pytest.approx(math.log(3), rel=0.05)
    training = Training(task, OPTIMIZERS["adam"], {"lr": 2e-3}, seed=0, batch_size=20)
    for _ in range(4):
        done = training.epoch(of=4)
    assert math.isfinite(done.validation_loss)
    assert evaluate(task, training.model, small.train)[0] < 0.95 * before


def test_the_documentation_has_the_numbers_of_parameters():
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    lstm, both, stack = (PARAMETERS[name] for name in ("lstm", "infersent", "convnet"))
    assert f"{lstm:,}, {both:,} and {stack:,} parameters" in text


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name, tmp_path):
    task = get_task(name, tmp_path)
    assert task.title.startswith(TASKS[name].title)
    assert (task.budget.epochs, task.budget.batch_size, task.clip_norm) == (20, 128, 5.0)
    assert not task.reaches_target(task.metric.worst)


def test_every_encoder_is_there_for_every_data_set():
    sets = ("snli", "multinli", "sick")
    assert {f"{name}-{encoder}" for name in sets for encoder in PARAMETERS} == set(NAMES)
    assert issubclass(TASKS["sick-lstm"], SickLstm)
