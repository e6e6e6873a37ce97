"""Language models: how a text is cut up, what is carried along, and that they learn."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gradmem.lab.checkpoint import Checkpoints
from gradmem.lab.data.catalogue import DATA_SETS, Found
from gradmem.lab.optimizers import OPTIMIZERS
from gradmem.lab.run import train
from gradmem.lab.tasks import FixedSplits, evaluate, get_task, language, tiny_shakespeare
from gradmem.lab.tasks.language import CarriedLstm
from gradmem.lab.tasks.ptb import PtbLstm, PtbTransformer
from gradmem.lab.tasks.tiny_shakespeare import TinyShakespeare
from gradmem.lab.tasks.transformer import Transformer
from gradmem.lab.tasks.wikitext2 import Wikitext2Lstm
from gradmem.lab.tasks.windows import joined, streams, targets_in, windows
from gradmem.lab.training import Training

from .helpers import Line, config, real_task, untimed
from .test_libsvm import DATA

PARAMETERS = {  # by hand: embedding, LSTM or blocks, output
    "ptb-lstm": 10_000 * 64 + 4 * 128 * (64 + 128 + 2) + 10_000 * (128 + 1),
    "wikitext2-lstm": 33_278 * 64 + 4 * 128 * (64 + 128 + 2) + 33_278 * (128 + 1),
    "ptb-transformer": (10_000 + 64) * 128 + 2 * (12 * 128 * 128 + 13 * 128) + 2 * 128,
    "tiny-shakespeare": (66 + 64) * 128 + 4 * (12 * 128 * 128 + 13 * 128) + 2 * 128,
}
WORDS = [f"w{number}" for number in range(30)]


pytestmark = pytest.mark.usefixtures("single_thread")


def sentences(count, seed):
    """Lines in which a word says much about the next."""
    chance, lines = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        first = torch.randint(0, len(WORDS), (1,), generator=chance)
        steps = (first + torch.randint(1, 4, (11,), generator=chance).cumsum(0)) % len(WORDS)
        lines.append(f" {' '.join(WORDS[step] for step in steps)} \n")
    return "".join(lines)


def written(cls, folder, sizes=(150, 90, 60)):
    """The task on small files in the format of its own."""
    task = cls(folder)
    files = DATA_SETS[task.needs].files
    for seed, (file, size) in enumerate(zip(files, sizes[: len(files)], strict=True)):
        (folder / file.path).parent.mkdir(exist_ok=True, parents=True)
        (folder / file.path).write_text(sentences(size, seed))
    found = tuple(Found(folder / file.path, None) for file in files)
    task.files, task.tokens = lambda: found, None
    return task


class Forgetful(CarriedLstm):
    """Begins every window with nothing, to show that the tests see what is carried."""

    def forward(self, inputs):
        self._state = None
        return super().forward(inputs)


# How a text is cut up ----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [100, 101, 119, 141])
def test_streams_are_the_text_in_its_order(length):
    text = torch.arange(length)
    batch = streams(text, count=4, length=7)
    inputs, first = batch.inputs
    steps = (length - 1) // 4
    assert inputs.shape == batch.targets.shape == (math.ceil(steps / 7), 4, 7)
    assert torch.equal(joined(inputs)[:, :steps].flatten(), text[: 4 * steps])
    assert torch.equal(joined(batch.targets)[:, :steps].flatten(), text[1 : 4 * steps + 1])
    assert (joined(batch.targets)[:, steps:] == -100).all()
    assert targets_in(batch) == 4 * steps
    assert first.tolist() == [True] + [False] * (len(inputs) - 1)


@pytest.mark.parametrize("length", [8, 9, 21, 22])
def test_windows_have_every_symbol_as_a_target_but_the_first(length):
    text = torch.arange(length)
    batch = windows(text, 7)
    assert batch.inputs.shape == batch.targets.shape == (math.ceil((length - 1) / 7), 7)
    assert torch.equal(batch.targets.flatten()[: length - 1], text[1:])
    assert torch.equal(batch.inputs.flatten()[: length - 1], text[:-1])
    assert targets_in(batch) == length - 1


def test_shakespeare_is_divided_in_its_order():
    text = "".join(map(chr, range(40, 1040)))
    parts = tiny_shakespeare.divided(text)
    assert "".join(parts) == text
    assert [len(part) for part in parts] == [900, 50, 50]


# What is carried along ---------------------------------------------------------------------------


def lstm_and_batch(cls=CarriedLstm):
    torch.manual_seed(0)
    model = cls(12, embedding=5, units=6)
    with torch.no_grad():  # so that what is carried weighs
        model.recurrent.weight_hh_l0.mul_(4)
    return model, streams(torch.randint(0, 12, (203,)), count=4, length=7)


def loss_of(model, batch):
    return evaluate(PtbLstm(DATA), model, batch)[0]


def test_the_state_is_carried_over_windows_and_forgotten_where_a_text_begins():
    model, batch = lstm_and_batch()
    steps = (203 - 1) // 4
    tokens, targets = joined(batch.inputs[0])[:, :steps], joined(batch.targets)[:, :steps]
    states, _ = model.recurrent(model.embedding(tokens))
    whole = cross_entropy(model.output(states).flatten(0, 1), targets.flatten()).item()
    task = PtbLstm(DATA)
    for chunk in (1, 3, len(batch)):
        assert evaluate(task, model, batch, chunk) == pytest.approx((whole, math.exp(whole)))
    assert loss_of(lstm_and_batch(Forgetful)[0], batch) != pytest.approx(whole, rel=1e-4)


def test_gradients_reach_back_to_the_beginning_of_the_step_only():
    model, batch = lstm_and_batch()
    model(batch[:1].inputs)
    model(batch[1:2].inputs).sum().backward()  # would raise if it went into the first window
    first, second = (set(batch[i : i + 1].inputs[0].flatten().tolist()) for i in (0, 1))
    rows = model.embedding.weight.grad.abs().sum(dim=1)
    assert rows[list(second)].min() > 0
    assert all(rows[word] == 0 for word in first - second)


def test_training_windows_come_in_their_order(tmp_path):
    seen = []

    class Watched(PtbLstm):
        def loss(self, model, batch):
            if model.training:
                seen.append(batch.inputs[0][0, 0, 0].item())
            return super().loss(model, batch)

    task = written(Watched, tmp_path)
    training = Training(task, OPTIMIZERS["sgd"], {"lr": 0.1}, seed=0, batch_size=1)
    for _ in range(2):
        training.epoch(of=2)
    assert seen == task.data().train.inputs[0][:, 0, 0].tolist() * 2
    assert len(seen) == 2 * training.steps_per_epoch


def test_a_task_that_is_not_ordered_is_shuffled_as_ever():
    seen = []

    class Watched(Line):
        def loss(self, model, batch):
            if model.training:
                seen.append(batch.inputs.flatten())
            return super().loss(model, batch)

    Training(Watched(), OPTIMIZERS["sgd"], {"lr": 0.1}, seed=5, batch_size=8).epoch(of=1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.cat(seen), Line().data().train.inputs.flatten()[order])


# Perplexity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [PtbLstm, PtbTransformer])
def test_the_perplexity_of_a_split_is_exactly_that_of_its_words(tmp_path, cls):
    """The last window is shorter; it counts by its words, whatever the chunks."""
    task = written(cls, tmp_path)
    model, batch = task.model(0), task.data().validation
    assert task.weight(batch) == targets_in(batch) < batch.targets.numel()
    assert task.weight(batch[-1:]) < batch[-1:].targets.numel()
    with torch.no_grad():
        losses = cross_entropy(
            model(batch.inputs).flatten(0, 1), task.targets(batch).flatten(), reduction="none"
        )
    exact = losses.double().sum().item() / task.weight(batch)
    for chunk in (1, 2, 1000):
        found = evaluate(task, model, batch, chunk)
        assert found == pytest.approx((exact, math.exp(exact)), rel=1e-6)


def test_a_perplexity_stays_a_number_where_the_loss_is_large(tmp_path):
    task = written(PtbLstm, tmp_path)
    task.loss = lambda model, batch: torch.tensor(5e3)
    assert evaluate(task, nn.Identity(), task.data().validation)[1] == pytest.approx(math.e**50)
    assert task.metric.worst == 10_000


# Models ------------------------------------------------------------------------------------------


def test_the_transformer_sees_the_places_before_alone():
    model = Transformer(symbols=9, length=12, width=16, blocks=2, heads=4).eval()
    symbols = torch.randint(0, 9, (3, 12), generator=torch.Generator().manual_seed(0))
    changed = symbols.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 9
    before, after = model(symbols), model(changed)
    assert torch.allclose(before[:, :7], after[:, :7], atol=1e-6)
    assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-3)
    assert torch.allclose(model(symbols[:, :5]), before[:, :5], atol=1e-6)
    # every place before matters
    changed = symbols.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 9
    assert (model(changed)[:, 1:] - before[:, 1:]).abs().amin(dim=1).amax(dim=1).min() > 0


def test_the_transformer_knows_the_order_of_what_it_sees():
    model = Transformer(symbols=9, length=12, width=16, blocks=1, heads=4).eval()
    symbols = torch.tensor([[1, 2, 3, 4, 5, 6]])
    swapped = torch.tensor([[2, 1, 3, 4, 5, 6]])
    assert (model(swapped)[:, -1] - model(symbols)[:, -1]).abs().max() > 1e-6


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_are_as_many_as_the_paper_has():
    assert count(CarriedLstm(10_000, embedding=64, units=128)) == PARAMETERS["ptb-lstm"]
    assert round(PARAMETERS["ptb-lstm"] / 1e6, 2) == 2.03
    large = CarriedLstm(33_278, embedding=64, units=128)
    assert count(large) == PARAMETERS["wikitext2-lstm"]


def test_a_deeper_lstm_is_another_task_of_the_same_text(tmp_path):
    task = written(PtbLstm, tmp_path)
    deep = task.at(depth=2)
    deep.files = task.files
    assert (deep.name, deep.folder) == ("ptb-lstm-depth2", task.folder)
    assert task.at(depth=1).name == task.name
    assert count(deep.model(0)) - count(task.model(0)) == 4 * 128 * (128 + 128 + 2)


def test_the_documentation_has_the_numbers_of_parameters():
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    words, more, blocks, characters = PARAMETERS.values()
    assert f"{words:,} and {more:,} parameters" in text
    assert f"{blocks:,} and {characters:,}\n  parameters" in text


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_says_what_it_is(name, tmp_path):
    task = get_task(name, tmp_path)
    assert task.title
    assert task.budget.epochs > 1
    assert not task.reaches_target(task.metric.worst)
    if task.ordered:  # the paper's: 20 streams, 35 words a step, clipped to .25
        assert (task.streams, task.window, task.budget.epochs, task.clip_norm) == (20, 35, 50, 0.25)


# Runs --------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """As a kill would, it passes by everything that handles errors."""


def stop_after(epochs):
    def onlooker(epoch):
        if epoch.number == epochs:
            raise Stopped

    return onlooker


TASKS = [PtbLstm, PtbTransformer, Wikitext2Lstm, TinyShakespeare]


@pytest.mark.parametrize("cls", TASKS)
def test_it_learns_and_an_interrupted_run_goes_on_bit_for_bit(tmp_path, cls):
    sizes = (40,) if cls is TinyShakespeare else (150, 90, 60)
    task = written(cls, tmp_path / "data", sizes)
    rate, batch_size = (0.01, 1) if task.ordered else (3e-3, 10)
    options = {"lr": rate, "capacity": 3}
    run = config(
        task=task.name, optimizer="adam_c", options=options, epochs=3, batch_size=batch_size
    )
    keep = Checkpoints(tmp_path / "kept", 0.0, warn=pytest.fail)
    whole = train(task, run)
    assert whole.status == "ok"
    guessing = math.log(len(task.model(0).output.weight))
    assert whole.curves.validation_loss[-1] < 0.9 * guessing
    with pytest.raises(Stopped):
        train(task, run, checkpoint=keep.of("run"), onlooker=stop_after(2))
    seen = []
    again = written(cls, tmp_path / "data", sizes)
    resumed = train(again, run, checkpoint=keep.of("run"), onlooker=seen.append)
    assert [epoch.number for epoch in seen] == [3]
    assert untimed(resumed) == untimed(whole)


def test_what_an_lstm_carries_matters_to_its_training(tmp_path, monkeypatch):
    """That the test above would notice a state that gets lost."""
    task = written(PtbLstm, tmp_path)
    run = config(task=task.name, options={"lr": 0.01}, epochs=2, batch_size=1)
    carried = train(task, run)
    monkeypatch.setattr(language, "CarriedLstm", Forgetful)
    assert untimed(train(task, run)) != untimed(carried)


# Files -------------------------------------------------------------------------------------------


def test_a_word_that_is_not_in_the_training_text_is_unknown(tmp_path):
    task = written(PtbTransformer, tmp_path)
    path = tmp_path / "ptb" / "ptb.test.txt"
    path.write_text(" w1 strange w2 \n")
    symbols = task.data().test.inputs[0, :3].tolist()
    assert len(task.vocabulary) == len(WORDS) + 2  # with <unk> and <eos>
    assert [task.vocabulary.names[symbol] for symbol in symbols] == ["w1", "<unk>", "w2"]


def test_files_of_another_length_are_refused_where_there_is_no_checksum(tmp_path):
    task = written(Wikitext2Lstm, tmp_path)
    assert {found.sha256 for found in task.files()} == {None}
    task.tokens = Wikitext2Lstm.tokens
    with pytest.raises(ValueError, match=r"wiki.train.tokens has 1,800 words .* has 2,088,628; it"):
        task.data()
    path = tmp_path / "wikitext-2" / "wiki.valid.tokens"
    path.write_text(path.read_text()[:-5])
    task = written(Wikitext2Lstm, tmp_path)
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match=r"wiki.valid.tokens ends in the middle of a line"):
        task.data()


@pytest.mark.parametrize("name", ["ptb-lstm", "tiny-shakespeare"])
def test_a_truncated_file_is_refused_by_its_checksum(name, tmp_path):
    task = get_task(name, tmp_path)
    for file in DATA_SETS[task.needs].files:
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_text("truncated\n")
    with pytest.raises(ValueError, match=r"not the file it should be: .* get it again"):
        task.data()


def test_runs_expire_with_the_files_where_there_is_no_checksum(tmp_path):
    before = written(Wikitext2Lstm, tmp_path).versions()
    assert written(Wikitext2Lstm, tmp_path).versions() == before
    assert written(Wikitext2Lstm, tmp_path, (151, 90, 60)).versions() != before


# The real texts ----------------------------------------------------------------------------------


def test_the_treebank_has_its_words():
    task = real_task("ptb-lstm", DATA)
    assert len(task.vocabulary) == 10_000
    parts = task.data()
    split = [parts.train, parts.validation, parts.test]
    assert [len(part) for part in split] == [1328, 106, 118]
    # of 929,589 / 73,760 / 82,430 all but the first and what does not fill 20 streams
    assert [task.weight(part) for part in split] == [929_580, 73_740, 82_420]
    unknown = task.vocabulary.names.index("<unk>")
    assert (parts.test.targets == unknown).sum().item() == 4_794
    assert "929,589 words" in task.title


def test_the_part_of_the_treebank_has_its_lines_and_their_words():
    task, whole = real_task("ptb-lstm-part", DATA), real_task("ptb-lstm", DATA)
    assert f"{len(task.vocabulary):,} words are theirs" in task.partial
    assert len(task.vocabulary) == task.metric.worst == 8_269
    assert count(task.model(0)) == 64 * 8_269 + 4 * 128 * (64 + 128 + 2) + 8_269 * (128 + 1)
    parts = task.data()
    # of 176,978 / 73,760 / 82,430 all but the first and what does not fill 20 streams
    assert [task.weight(part) for part in (parts.train, parts.validation, parts.test)] == [
        *(176_960, 73_740, 82_420)
    ]
    assert "176,978 words" in task.title
    assert task.vocabulary.names == whole.vocabulary.names[:8_269]
    (first, _), (same, _) = parts.train.inputs, whole.data().train.inputs
    assert torch.equal(first[0, 0], same[0, 0])  # the texts begin alike


def test_shakespeare_has_its_characters():
    task = real_task("tiny-shakespeare", DATA)
    parts = task.data()
    split = [parts.train, parts.validation, parts.test]
    assert [len(part) for part in split] == [15_686, 872, 872]
    assert sum(task.weight(part) for part in split) == 1_115_394 - 3
    assert task.model(0).embedding.num_embeddings == tiny_shakespeare.SYMBOLS
    assert not any((part.targets == 0).any() for part in split)


REAL = {"ptb-lstm": (1, 16), "ptb-transformer": (4, 8), "tiny-shakespeare": (4, 8)}


@pytest.mark.parametrize("name", REAL)
def test_a_few_steps_on_the_real_text_bring_the_loss_down(name):
    task, (size, steps) = real_task(name, DATA), REAL[name]
    model = task.model(0)
    assert count(model) == PARAMETERS[name]
    said = re.search(r"([\d.]+) million", type(task).model.__doc__)
    assert said is None or float(said[1]) == pytest.approx(PARAMETERS[name] / 1e6, abs=5e-3)
    part = task.data().validation[:2]
    apart = 1 if task.ordered else 100  # windows that are not all of one scene
    small = FixedSplits(task.data().train[: size * steps * apart : apart], part, part)
    before = evaluate(task, model, part)
    assert before[0] == pytest.approx(math.log(len(model.output.weight)), rel=0.02)
    task.data = lambda: small
    training = Training(task, OPTIMIZERS["adam"], {"lr": 3e-3}, seed=0, batch_size=size)
    done = training.epoch(of=1)
    assert done.validation_loss < 0.95 * before[0]
