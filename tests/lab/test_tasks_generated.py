"""Generated points: what each of their three axes changes and what it leaves, and F1."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from gradmem.lab.checkpoint import Checkpoints
from gradmem.lab.run import train
from gradmem.lab.tasks import Batch, Range, Varied, evaluate, get_task
from gradmem.lab.tasks.generated import CLASS, LABEL, GeneratedLogreg, GeneratedMlp, f1
from gradmem.lab.tasks.varied import checked

from .helpers import config, untimed

BOTH = pytest.mark.parametrize("cls", [GeneratedLogreg, GeneratedMlp])


pytestmark = pytest.mark.usefixtures("single_thread")


def parts_of(task):
    parts = task.data()
    return parts.train, parts.validation, parts.test


def everything(task):
    parts = parts_of(task)
    return tuple(
        torch.cat([getattr(part, what) for part in parts]) for what in ("inputs", "targets")
    )


class Says(nn.Module):
    """The same of all points, or what is given."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, inputs):
        return torch.as_tensor(self.outputs, dtype=torch.float32).expand(len(inputs)).unsqueeze(-1)


# What an axis changes -----------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0])
def test_half_of_the_noise_turns_labels_in_every_part_and_nothing_else_changes(noise):
    clean, noisy = GeneratedMlp(label_noise=0), GeneratedMlp(label_noise=noise)
    for part, same in zip(parts_of(noisy), parts_of(clean), strict=True):
        assert torch.equal(part.inputs, same.inputs)
        assert torch.equal(part.targets[:, CLASS], same.targets[:, LABEL])
        turned = (part.targets[:, LABEL] != part.targets[:, CLASS]).double().mean().item()
        spread = math.sqrt(noise / 2 * (1 - noise / 2) / len(part))
        assert turned == pytest.approx(noise / 2, abs=3 * spread + 1e-12)


def separability(task):
    """Share of all points on the right side of the plane that least squares fits to them."""
    inputs, targets = everything(task)
    rows = np.c_[inputs.double().numpy(), np.ones(len(inputs))]
    sides = 2.0 * targets[:, CLASS].numpy() - 1
    return float((np.sign(rows @ np.linalg.lstsq(rows, sides)[0]) == sides).mean())


def test_separation_moves_the_classes_apart_and_leaves_their_labels():
    tasks = [GeneratedLogreg(separation=value) for value in (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)]
    found = [separability(task) for task in tasks]
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert found[0] < 0.6
    assert found[-1] > 0.95
    for task in tasks:
        assert torch.equal(everything(task)[1], everything(tasks[0])[1])


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2, 0.3, 0.4, 0.5])
def test_the_minority_has_its_share_of_every_part(share):
    for part in parts_of(GeneratedMlp(minority=share)):
        positive = int(part.targets[:, CLASS].sum())
        assert positive == pytest.approx(share * len(part), abs=0.01)


def test_noise_brings_the_minority_nearer_to_a_half():
    shares = [
        everything(GeneratedMlp(minority=0.1, label_noise=noise))[1][:, LABEL].double().mean()
        for noise in (0, 0.5, 1)
    ]
    assert shares == pytest.approx([0.1, 0.3, 0.5], abs=0.05)


def test_every_axis_changes_the_data_at_each_of_its_values():
    task = GeneratedLogreg()
    for name, variation in task.variations.items():
        seen = set()
        for value in variation.values:
            there = task.at(**{name.replace("-", "_"): value})
            seen.add(b"".join(tensor.numpy().tobytes() for tensor in everything(there)))
        assert len(seen) == len(variation.values), name


# Where it is --------------------------------------------------------------------------------------


@BOTH
def test_by_itself_it_is_at_the_generator_s_own_values(cls):
    task = cls()
    assert isinstance(task, Varied)
    assert task.where == {"label-noise": 0.01, "separation": 1.0, "minority": 0.5}
    same = task.at(label_noise=0.01, separation=1, minority=0.5)
    assert (same.name, same.title, same.versions()) == (cls.name, cls.title, task.versions())
    assert isinstance(get_task(cls.name), cls)


def test_elsewhere_its_name_and_title_say_where():
    task = GeneratedMlp().at(label_noise=0.3).at(minority=0.1)
    assert task.name == "generated-mlp-label-noise0.3-minority0.1"
    assert task.title == f"{GeneratedMlp.title}, label-noise 0.3, minority 0.1"
    assert task.versions()["drawn"] == "label-noise 0.3, separation 1.0, minority 0.1"
    assert GeneratedMlp.name == "generated-mlp"


def test_runs_of_values_that_look_alike_are_told_apart():
    one, other = (GeneratedMlp(separation=1 + value) for value in (1e-9, 2e-9))
    assert one.name == other.name
    assert one.versions() != other.versions()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"label_noise": 1.5}, "label-noise must be a number from 0 to 1, got 1.5"),
        ({"label_noise": -0.1}, "label-noise must be a number from 0 to 1, got -0.1"),
        ({"separation": math.nan}, "separation must be a number from 0 to 100, got nan"),
        ({"separation": "far"}, "separation must be a number from 0 to 100, got 'far'"),
        ({"minority": 0.6}, r"minority must be a number from 0\.02 to 0\.5, got 0\.6"),
        ({"minority": True}, "minority must be a number from .*, got True"),
    ],
)
def test_values_out_of_range_are_refused(where, said):
    with pytest.raises(ValueError, match=said):
        GeneratedLogreg().at(**where)


def test_values_of_a_list_and_of_a_range():
    assert checked("depth", (1, 2), 2.0) == 2
    assert checked("width", ("wide", "slim"), "slim") == "slim"
    assert str(Range(1, math.inf, ())) == "a number of at least 1"
    assert checked("size", Range(1, math.inf, ()), 7) == 7.0
    for variation, value in (((1, 2), True), ((1, 2), 3), (Range(1, math.inf, ()), math.inf)):
        with pytest.raises(ValueError, match="size must be"):
            checked("size", variation, value)


# The score ----------------------------------------------------------------------------------------


def test_f1_is_scikit_learn_s_and_0_where_nothing_is_found():
    generator = torch.Generator().manual_seed(0)
    for share in (0.1, 0.5, 0.9):
        guessed, positive = (torch.rand(2, 50, generator=generator) < share).unbind()
        assert f1(guessed, positive) == pytest.approx(f1_score(positive, guessed))
    none, some = torch.zeros(4, dtype=torch.bool), torch.tensor([True, False, False, False])
    assert f1(none, some) == f1(some, none) == f1(none, none) == 0.0
    assert f1(some, some) == 1.0


@BOTH
def test_the_score_is_by_the_labels_and_the_details_by_the_classes(cls):
    task = cls(label_noise=0.5, minority=0.3)
    test = task.data().test
    knowing = Says(test.targets[:, CLASS] - 0.5)
    assert task.details(knowing, test) == {"F1 before the noise": 1.0}
    assert 0.3 < task.score(knowing, test) < 0.9
    believing = Says(test.targets[:, LABEL] - 0.5)
    assert task.score(believing, test) == 1.0
    assert task.details(believing, test)["F1 before the noise"] < 0.9
    assert task.score(Says(-1.0), test) == task.metric.worst == 0.0
    count = int(test.targets[:, LABEL].sum())
    assert task.score(Says(1.0), test) == pytest.approx(2 * count / (count + len(test)))


def test_the_loss_is_that_of_the_labels():
    task = GeneratedMlp(label_noise=1)
    batch = task.data().train
    other = Batch(batch.inputs, batch.targets.clone())
    model = task.model(0)
    other.targets[:, CLASS] = 0
    assert torch.equal(task.loss(model, batch), task.loss(model, other))
    other.targets[:, LABEL] = 1 - other.targets[:, LABEL]
    assert not torch.equal(task.loss(model, batch), task.loss(model, other))
    certain = Says(100.0 * (2 * batch.targets[:, LABEL] - 1))
    assert task.loss(certain, batch).item() == pytest.approx(0, abs=1e-6)


@BOTH
def test_f1_of_parts_makes_none_of_the_whole(cls):
    task = cls()
    with pytest.raises(ValueError, match=r"F1 of a split is no mean .* \(100 examples\)"):
        evaluate(task, task.model(0), task.data().validation, 60)


# Models and runs ----------------------------------------------------------------------------------


def test_parameters():
    sizes = [
        sum(each.numel() for each in cls().model(0).parameters())
        for cls in (GeneratedLogreg, GeneratedMlp)
    ]
    assert sizes == [10 + 1, 10 * 32 + 32 + 32 + 1]
    assert all(each.count_nonzero() == 0 for each in GeneratedLogreg().model(3).parameters())
    one, other = (GeneratedMlp().model(seed)[0].weight for seed in (0, 1))
    assert not torch.equal(one, other)


@BOTH
def test_it_learns_and_an_interrupted_run_goes_on_bit_for_bit(tmp_path, cls):
    task = cls(label_noise=0.1, separation=2)
    options = {"lr": 0.01, "capacity": 3}
    run = config(task=task.name, optimizer="adam_c", options=options, epochs=2, batch_size=5)
    whole = train(task, run)
    assert whole.status == "ok"
    assert whole.curves.validation_loss[-1] < 0.9 * math.log(2)
    assert whole.details["F1 before the noise"] > whole.test_score > 0.7

    def stop(epoch):
        raise KeyboardInterrupt

    keep = Checkpoints(tmp_path / "kept", 0.0, warn=pytest.fail)
    with pytest.raises(KeyboardInterrupt):
        train(task, run, checkpoint=keep.of("run"), onlooker=stop)
    seen = []
    again = cls(label_noise=0.1, separation=2)
    resumed = train(again, run, checkpoint=keep.of("run"), onlooker=seen.append)
    assert [epoch.number for epoch in seen] == [2]
    assert untimed(resumed) == untimed(whole)


def test_labels_drawn_at_random_teach_nothing():
    task = GeneratedLogreg(label_noise=1)
    options = {"lr": 0.01}
    run = config(task=task.name, options=options, epochs=2, batch_size=10)
    result = train(task, run)
    assert result.validation_loss > 0.9 * math.log(2)
    assert result.details["F1 before the noise"] < 0.7
