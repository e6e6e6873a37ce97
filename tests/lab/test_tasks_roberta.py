"""RoBERTa as a decoder on dialogues: from a configuration, and from weights in the data folder."""

from importlib.util import find_spec

import pytest
import torch

from gradmem.lab.tasks import get_task, multiwoz, roberta_decoder
from gradmem.lab.tasks.windows import NOTHING

from .dialogue_files import trained, write_json, write_release

ROBERTA = "multiwoz-roberta"

with_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)


pytestmark = pytest.mark.usefixtures("single_thread")


@with_transformers
def test_roberta_is_a_decoder_of_the_size_it_says(dialogues):
    task = get_task(ROBERTA, dialogues)
    assert "from a configuration (2 layers of 128)" in task.title
    model, words = task.model(0), task._coder.size
    width, layers, places = 128, 2, roberta_decoder.LONGEST + 1
    block = 12 * width * width + 13 * width
    head = width * width + 3 * width + words
    tables = (words + places + 1) * width + 2 * width
    assert sum(each.numel() for each in model.parameters()) == tables + layers * block + head
    batch = task.data().train[:2]
    other = batch.inputs.clone()
    other[:, 6] = 5
    one, two = (model.eval()(input_ids=rows).logits for rows in (batch.inputs, other))
    torch.testing.assert_close(one[:, :6], two[:, :6])
    assert not torch.allclose(one[:, 6], two[:, 6])


@with_transformers
def test_a_text_is_the_dialogue_so_far(dialogues):
    task = get_task(ROBERTA, dialogues)
    dialogue = task.dialogues().train[0]
    coder, batch = task._coder, task.data().train
    said = [words for turn in dialogue.turns for words in (turn.user, turn.response)]
    text = [number for words in said for number in (*coder.numbers(words), coder.end)]
    first = len(coder.numbers(said[0])) + len(coder.numbers(said[1])) + 2
    assert batch.inputs[0, :first].tolist() == [coder.begin, *text[: first - 1]]
    assert batch.targets[0, :first].tolist() == text[:first]
    assert set(batch.targets[0, first:].tolist()) == {NOTHING}
    cut = roberta_decoder.texts([dialogue], coder, longest=9)
    assert cut.targets[2].tolist() == text[-9:]
    assert cut.inputs[2].tolist() == [coder.begin, *text[-9:-1]]


@with_transformers
def test_local_weights_are_taken_where_they_are(dialogues, tmp_path):
    from transformers import RobertaConfig, RobertaForCausalLM

    write_release(tmp_path)
    home = tmp_path / "roberta-base"
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,?![]_'", "Ġ"]
    signs = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {sign: number for number, sign in enumerate([*signs, *letters, "Ġi", "Ġis"])}
    write_json(home / "vocab.json", vocabulary)
    (home / "merges.txt").write_text("#version: 0.2\nĠ i\nĠi s\n", encoding="utf-8")
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=roberta_decoder.LONGEST_PRETRAINED + 2,
        is_decoder=True,
    )
    saved = RobertaForCausalLM(config)
    saved.save_pretrained(home)
    task = get_task(ROBERTA, tmp_path)
    assert task.title.endswith("from RoBERTa-base's weights")
    assert task.versions() != get_task(ROBERTA, dialogues).versions()
    assert task._coder.numbers(("it", "is")) == [vocabulary[each] for each in ("Ġi", "t", "Ġis")]
    for seed in (0, 1):
        model = task.model(seed)
        assert model.config.is_decoder
        for key, value in saved.state_dict().items():
            assert torch.equal(model.state_dict()[key], value)
    some = task.data().train[:4]
    assert some.inputs.shape == (4, 256)
    assert trained(task, some, steps=10)[1][-1] < task.loss(saved.eval(), some).item()


def test_without_transformers_the_task_says_what_to_install(dialogues, monkeypatch):
    monkeypatch.setattr("gradmem.lab.tasks.roberta_decoder.find_spec", lambda name: None)
    task = get_task(ROBERTA, dialogues)
    assert "pip install 'gradmem[transformers]'" in task.missing()
    monkeypatch.setattr(multiwoz.Multiwoz, "versions", lambda self: {})
    assert task.versions()["transformers"] == "not installed"


@with_transformers
def test_roberta_base_has_its_known_size():
    from transformers import RobertaConfig, RobertaForCausalLM

    with torch.device("meta"):
        model = RobertaForCausalLM(
            RobertaConfig(
                vocab_size=50_265,
                max_position_embeddings=514,
                type_vocab_size=1,
                is_decoder=True,
            )
        )
    assert sum(each.numel() for each in model.parameters()) == 124_697_433
