"""The tasks on images: their networks, what they read, and that they train and go on exactly."""

import numpy as np
import pytest
import torch
from torch import nn

from gradmem.lab.checkpoint import Checkpoints
from gradmem.lab.data.catalogue import DATA_SETS
from gradmem.lab.findings import findings
from gradmem.lab.run import train
from gradmem.lab.sparsify.problem import hidden_channels
from gradmem.lab.tasks import TASKS, Batch, FixedSplits, cifar, evaluate, get_task, mnist, seeded
from gradmem.lab.tasks.convolutions import Residual, residual_network
from gradmem.lab.tasks.pixels import Pixels

from .helpers import config, tiny_comparison, untimed
from .images import idx_files, of_each, put, records
from .images import images as image_bytes
from .synthetic import comparison
from .test_run import Stopped, stop_after
from .test_tasks import task_or_skip

PARAMETERS = {
    "mnist-logreg": 7_850,
    "mnist-mlp": 25_450,
    "mnist-convnet": 21_840,
    "fashion-mnist-logreg": 7_850,
    "fashion-mnist-mlp": 25_450,
    "fashion-mnist-convnet": 21_840,
    "cifar10-convnet": 62_006,
    "cifar10-convnet-part": 62_006,
    "cifar10-resnet110": 1_730_714,
    "cifar10-resnet18": 701_466,
    "cifar100-convnet": 5_899_236,
    "cifar100-resnet110": 1_736_564,
    "cifar100-resnet18": 713_076,
}
# How many images the large ones are trained on here, half of them a step.
FEW = {
    "cifar10-resnet110": 8,
    "cifar10-resnet18": 16,
    "cifar100-convnet": 16,
    "cifar100-resnet110": 8,
    "cifar100-resnet18": 16,
}
every_task = pytest.mark.parametrize("name", PARAMETERS)


pytestmark = pytest.mark.usefixtures("single_thread")


def classes(name):
    return 100 if name.startswith("cifar100") else 10


def small(name, folder, monkeypatch):
    """The task on a few images of its data set's form."""
    needs = TASKS[name].needs
    if needs.startswith("cifar"):
        fill_cifar(needs, folder, monkeypatch)
    else:
        monkeypatch.setattr(mnist, "VALIDATION_OF_A_CLASS", 2)
        monkeypatch.setattr(mnist, "TRAIN_OF_A_CLASS", 8)
        files = idx_files(needs, of_each(10, 11), of_each(10, 2))
        names = [file.path.rpartition("/")[2] for file in DATA_SETS[needs].files]
        put(folder, monkeypatch, needs, [files[name] for name in names])
    return get_task(name, folder)


def smaller(task, monkeypatch):
    """The same, with no more images than suit it, and how many a step."""
    count = FEW.get(task.name)
    if count is None:
        return 16
    parts = task.data()
    few = FixedSplits(parts.train[:count], parts.validation[:8], parts.test[:8])
    monkeypatch.setattr(type(task), "data", lambda self: few)
    return count // 2


def fill_cifar(needs, folder, monkeypatch):
    if needs == "cifar10-part":
        labels = of_each(10, 20)
        monkeypatch.setattr(cifar, "HELD_OUT_OF_PART", 50)
        put(folder, monkeypatch, needs, [records("cifar10", labels)])
        return
    monkeypatch.setattr(cifar, "VALIDATION", 100 if needs == "cifar100" else 20)
    *train_files, _ = DATA_SETS[needs].files
    number = 2 if needs == "cifar10" else 3
    labels = [of_each(100 if needs == "cifar100" else 10, number, seed) for seed in range(6)]
    texts = [records(needs, labels[seed], seed) for seed, _ in enumerate(train_files)]
    put(folder, monkeypatch, needs, [*texts, records(needs, labels[5][:30], 5)])


# Networks ----------------------------------------------------------------------------------------


def test_all_tasks_on_images_are_looked_at():
    starts = ("mnist", "fashion-mnist", "cifar")
    assert {name for name in TASKS if name.startswith(starts)} == set(PARAMETERS)


@every_task
def test_a_network_has_its_parameters_and_as_many_outputs_as_classes(name, tmp_path):
    task = get_task(name, tmp_path)
    model = task.model(seed=0)
    assert sum(each.numel() for each in model.parameters()) == PARAMETERS[name]
    images = torch.randn((2, 3, 32, 32) if name.startswith("cifar") else (2, 784))
    assert model.eval()(images).shape == (2, classes(name))
    loss = task.loss(model, Batch(images, torch.tensor([0, 1])))
    assert loss.isfinite()
    assert 0 <= task.score(model, Batch(images, torch.tensor([0, 1]))) <= 1


@pytest.mark.parametrize("name", ["mnist-convnet", "cifar10-convnet", "cifar10-resnet18"])
def test_a_seed_decides_the_initial_weights(name, tmp_path):
    task = get_task(name, tmp_path)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = task.model(3), task.model(3), task.model(4)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(one, same) for one, same, _ in pairs)
    assert not torch.equal(pairs[0][0], pairs[0][2])


def test_layers_that_learn():
    """As the table of experiments counts them: the shortcuts are not among a network's layers."""
    for layers, blocks, widths in ((110, 18, (16, 32, 64)), (18, 2, (16, 32, 64, 128))):
        network = residual_network(10, blocks, widths)
        stages = [each for each in network if isinstance(each, Residual)]
        assert len(stages) == blocks * len(widths)
        assert 2 + 2 * len(stages) == layers
        assert sum(len(each.shortcut) > 0 for each in stages) == len(widths) - 1


def test_the_usual_residual_network_of_18_layers_is_the_known_one():
    """11,173,962 parameters: what the narrow one is a quarter as wide as."""
    with torch.device("meta"):
        network = residual_network(10, 2, (64, 128, 256, 512))
    assert sum(each.numel() for each in network.parameters()) == 11_173_962


def test_stages_halve_the_image():
    image, shapes = torch.randn(1, 3, 32, 32), []
    for layer in residual_network(10, 1, (4, 8, 16)):
        image = layer(image)
        shapes.append(tuple(image.shape[1:]))
    assert [shape for shape in dict.fromkeys(shapes) if len(shape) == 3] == [
        *((4, 32, 32), (8, 16, 16), (16, 8, 8), (16, 1, 1))
    ]


def test_a_residual_block_adds_its_input():
    block = Residual(4, 4).eval()
    nn.init.zeros_(block.change[-1].weight)  # what the convolutions say comes to nothing
    images = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(images), images.relu())


@pytest.mark.parametrize("rows", [slice(1, 2), torch.tensor([1])])
def test_bytes_are_normalised_by_channel_when_they_are_asked_for(rows):
    images = np.array([[[[9, 9]]] * 3, [[[0, 255]]] * 3], np.uint8)
    batch = Batch(Pixels(images, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)), torch.tensor([1, 2]))
    assert batch.inputs.images.dtype == torch.uint8
    found = batch[rows].inputs
    assert torch.allclose(found.squeeze(), torch.tensor([[-1.0, 1.0], [-1.0, 3.0], [0.0, 1.0]]))
    assert found.dtype == torch.float32
    assert len(batch.inputs) == len(batch) == 2


@pytest.mark.parametrize(
    ("name", "channels"),
    [("mnist-convnet", 80), ("cifar10-convnet", 226), ("cifar100-convnet", 2400)],
)
def test_a_network_of_convolutions_can_lose_channels(name, channels, tmp_path):
    """So that `gradmem sparsify` can be called on it; residual ones are refused with a sentence."""
    cut = hidden_channels(get_task(name, tmp_path).model(0))
    assert sum(len(groups.split(layer)) for layer, groups in cut.items()) == channels


def test_dropout_is_in_force_while_training_only(tmp_path):
    task = get_task("mnist-convnet", tmp_path)
    model, images = task.model(0), torch.randn(4, 784)
    kinds = [type(layer).__name__ for layer in model]
    assert [kind for kind in kinds if kind.startswith("Dropout")] == ["Dropout2d", "Dropout"]
    with seeded(0, "training"):
        assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


# Training ----------------------------------------------------------------------------------------


@every_task
def test_it_learns_and_an_interrupted_run_goes_on_bit_for_bit(name, tmp_path, monkeypatch):
    task = small(name, tmp_path / "data", monkeypatch)
    rate = 2e-4 if name == "cifar100-convnet" else 2e-3
    options = {"lr": rate, "capacity": 2, "decay": 0.9}
    size = smaller(task, monkeypatch)
    run = config(task=name, optimizer="adam_c", options=options, epochs=2, batch_size=size)
    whole = train(task, run)
    assert whole.status == "ok", whole.error
    assert whole.curves.train_loss[1] < whole.curves.train_loss[0]
    keep = Checkpoints(tmp_path / "checkpoints", 0.0, warn=pytest.fail)
    with pytest.raises(Stopped):
        train(task, run, checkpoint=keep.of("run"), onlooker=stop_after(1))
    seen = []
    resumed = train(task, run, checkpoint=keep.of("run"), onlooker=seen.append)
    assert [epoch.number for epoch in seen] == [2]
    assert untimed(resumed) == untimed(whole)


def test_without_the_averages_of_batch_normalisation_a_run_would_not_go_on_as_it_was(
    tmp_path, monkeypatch
):
    """That the tests above can fail."""
    task = small("cifar10-resnet18", tmp_path / "data", monkeypatch)
    size = smaller(task, monkeypatch)
    run = config(task=task.name, options={"lr": 2e-3}, epochs=2, batch_size=size)
    keep = Checkpoints(tmp_path / "checkpoints", 0.0, warn=pytest.fail).of("run")
    whole = train(task, run)
    with pytest.raises(Stopped):
        train(task, run, checkpoint=keep, onlooker=stop_after(1))
    state = keep.load()
    averages = [name for name in state["model"] if name.endswith("running_mean")]
    assert len(averages) == 1 + 2 * 8 + 3
    for name in averages:
        state["model"][name].zero_()
    keep.save(state)
    assert untimed(train(task, run, checkpoint=keep)) != untimed(whole)


# Data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fashion-mnist-mlp", "cifar10-convnet", "cifar100-convnet"])
def test_validation_is_balanced_and_disjoint_from_training(name, tmp_path, monkeypatch):
    task = small(name, tmp_path, monkeypatch)
    splits = task.data()
    held = splits.validation.targets.bincount(minlength=classes(name))
    assert held.min() == held.max() > 0
    used = splits.train.targets.bincount(minlength=classes(name))
    assert used.min() == used.max() > 0

    def kept(part):
        return {bytes(image.numpy()) for image in part[:].inputs}

    assert len(kept(splits.train)) == len(splits.train)
    assert not kept(splits.train) & kept(splits.validation)
    again = get_task(name, tmp_path).data()
    assert torch.equal(again.train[:].inputs, splits.train[:].inputs)
    assert torch.equal(again.test.targets, splits.test.targets)


def test_the_last_file_is_the_test_part_in_its_order(tmp_path, monkeypatch):
    task = small("cifar10-convnet", tmp_path, monkeypatch)
    assert task.data().test.targets.tolist() == of_each(10, 2, 5).tolist()
    images = torch.from_numpy(image_bytes("cifar10", of_each(10, 2, 5), 5))
    assert torch.equal(task.data().test.inputs.images, images)


def test_fashion_is_read_as_mnist_and_normalised_by_its_own_constants(tmp_path, monkeypatch):
    inputs = small("fashion-mnist-logreg", tmp_path, monkeypatch).data().test.inputs
    assert inputs.max().item() == pytest.approx((220 / 255 - 0.2860) / 0.3530)
    assert inputs.shape == (20, 784)


@pytest.mark.parametrize(
    "name", ["fashion-mnist-mlp", "cifar10-convnet", "cifar100-convnet", "cifar10-convnet-part"]
)
@pytest.mark.parametrize(
    "spoil",
    [lambda text: text[:-1], lambda text: b"other", lambda text: text[:-1] + bytes([text[-1] ^ 1])],
)
def test_a_truncated_or_another_file_is_named(name, spoil, tmp_path, monkeypatch):
    task = small(name, tmp_path, monkeypatch)
    path = task.files()[-1].path
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path.name} is not the file it should be: .* again"):
        task.data()


# Parts -------------------------------------------------------------------------------------------


def test_a_task_on_a_part_says_so_in_every_report():
    task = TASKS["cifar10-convnet-part"]
    assert "first 4,000" in task.title
    for words in ("a part of CIFAR-10", "3,000", "500", "do not compare"):
        assert words in task.partial
    found = comparison({"adam": [0.4, 0.5, 0.6]}, task=task())
    assert task.partial.rstrip(".") in findings(found).warnings
    assert [name for name in PARAMETERS if TASKS[name].partial] == [task.name]


@pytest.mark.parametrize("name", ["mnist-convnet", "cifar10-convnet-part"])
def test_real_images_are_learnt_a_little(name):
    task = task_or_skip(name)
    splits = task.data()
    model = task.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    before, _ = evaluate(task, model, splits.validation[:250])
    with seeded(0, "training"):
        for rows in torch.arange(0, 60 * 32).split(32):
            optimizer.zero_grad()
            task.loss(model, splits.train[rows]).backward()
            optimizer.step()
    after, _ = evaluate(task, model, splits.validation[:250])
    assert after < before


def test_a_comparison_of_optimizers_is_made_from_images(tmp_path, monkeypatch):
    task = small("fashion-mnist-convnet", tmp_path / "data", monkeypatch)
    found = tiny_comparison(tmp_path / "runs", "sgd", "sgd_c", task=task, trials=1, seeds=1)
    assert [each.runs[0].status for each in found.results] == ["ok", "ok"]
