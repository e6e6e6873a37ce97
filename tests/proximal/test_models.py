"""Groups by kind of layer: each cuts what it says, and zeroing one frees what it is named for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gradmem.errors import OptionError, OptionTypeError
from gradmem.proximal.groups import Groups
from gradmem.proximal.models import groups_of

CONVOLUTIONS = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
TRANSPOSED = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
each_convolution = pytest.mark.parametrize("kind", CONVOLUTIONS + TRANSPOSED)


def zeroed(parameter, groups, index):
    """Sets one group to zero."""
    with torch.no_grad():
        matrix = groups.split(parameter).clone()
        matrix[index] = 0
        parameter.copy_(groups.join(matrix, parameter.shape))


def picture(kind, channels):
    dims = 1 + (CONVOLUTIONS + TRANSPOSED).index(kind) % 3
    return torch.randn(2, channels, *[5] * dims, generator=torch.Generator().manual_seed(0))


def of_weight(module, **options):
    """The groups of a module's weight; nothing else is grouped."""
    (groups,) = groups_of(module, **options).values()
    assert list(groups_of(module, **options)) == [module.weight]
    return groups


# Convolutions ------------------------------------------------------------------------------------


@each_convolution
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_zero_output_group_silences_that_channel(kind, blocks):
    module = kind(4, 6, 2, groups=blocks, bias=False)
    if kind in TRANSPOSED and blocks > 1:
        with pytest.raises(OptionError, match=r"lie along no one axis of the weight; take 'input'"):
            groups_of(module)
        return
    zeroed(module.weight, of_weight(module), 4)
    out = module(picture(kind, 4))
    assert [c for c in range(6) if not out[:, c].any()] == [4]


@each_convolution
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_zero_input_group_stops_that_channel_being_read(kind, blocks):
    module = kind(4, 6, 2, groups=blocks)
    if kind in CONVOLUTIONS and blocks > 1:
        message = r"weight: convolution='input' is impossible with 2 channel groups of 2 input"
        with pytest.raises(OptionError, match=message):
            groups_of(module, convolution="input")
        return
    zeroed(module.weight, of_weight(module, convolution="input"), 2)
    assert read_by(module, picture(kind, 4)) == [0, 1, 3]


def read_by(module, x):
    """The input channels a module's output depends on."""
    x.requires_grad_()
    module(x).square().sum().backward()
    return [c for c in range(x.shape[1]) if x.grad[:, c].any()]


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_depthwise_input_channels(kind):
    module = kind(3, 6, 2, groups=3)
    groups = of_weight(module, convolution="input")
    assert groups.count(module.weight.shape) == 3
    zeroed(module.weight, groups, 1)
    assert read_by(module, picture(kind, 3)) == [0, 2]


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_depthwise_output_channels_of_a_transposed_convolution(kind):
    module = kind(6, 3, 2, groups=3, bias=False)
    groups = of_weight(module)
    assert groups.count(module.weight.shape) == 3
    zeroed(module.weight, groups, 1)
    out = module(picture(kind, 6))
    assert [c for c in range(3) if not out[:, c].any()] == [1]


# Linear layers and embeddings --------------------------------------------------------------------


def test_rows_and_columns():
    module = nn.Linear(4, 3, bias=False)
    assert of_weight(module) == Groups(0)
    assert of_weight(module, linear="columns") == Groups(1)
    zeroed(module.weight, of_weight(module, linear="columns"), 2)
    assert read_by(module, torch.randn(5, 4)) == [0, 1, 3]


@pytest.mark.parametrize("module", [nn.Embedding(7, 3), nn.EmbeddingBag(7, 3)], ids=repr)
def test_embeddings_are_left_alone_unless_asked(module):
    assert groups_of(module) == {}
    assert of_weight(module, embedding="rows") == Groups(0)
    assert of_weight(module, embedding="columns") == Groups(1)


@pytest.mark.parametrize(
    ("module", "option"),
    [
        (nn.Conv2d(2, 3, 2), "convolution"),
        (nn.Linear(2, 3), "linear"),
        (nn.MultiheadAttention(4, 2), "attention"),
        (nn.Embedding(4, 2), "embedding"),
    ],
)
def test_none_leaves_a_kind_alone(module, option):
    assert groups_of(module, **{option: None}) == {}


# Attention ---------------------------------------------------------------------------------------

HEADS, WIDTH = 4, 8


def attention(apart):
    torch.manual_seed(0)
    sizes = {"kdim": 6, "vdim": 5} if apart else {}
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_bias_kv=True, **sizes)
    with torch.no_grad():
        module.in_proj_bias.normal_()
    return module


@torch.no_grad()
def attend(module):
    """What every head gives to the out-projection, (samples, places, heads, head width)."""
    generator = torch.Generator().manual_seed(1)
    sizes = (WIDTH, module.kdim, module.vdim)
    queries, keys, values = (torch.randn(2, 3, size, generator=generator) for size in sizes)
    plain = copy.deepcopy(module)
    plain.out_proj.weight.copy_(torch.eye(WIDTH))
    plain.out_proj.bias.zero_()
    heads = plain(queries, keys, values, need_weights=False)[0]
    return heads.unflatten(-1, (HEADS, -1))


@pytest.mark.parametrize("apart", [False, True])
def test_zeroing_a_heads_groups_takes_that_head_alone_away(apart):
    module = attention(apart)
    names = {p: name for name, p in module.named_parameters()}
    groups = groups_of(module, include_biases=True)
    weights = ["q_proj_weight", "k_proj_weight", "v_proj_weight"] if apart else ["in_proj_weight"]
    inner = {*weights, "in_proj_bias", "bias_k", "bias_v"}
    assert {names[p] for p in groups} == inner | {"out_proj.weight", "out_proj.bias"}
    before = attend(module)
    for parameter, cut in groups.items():
        if names[parameter] in inner:
            assert cut.count(parameter.shape) == HEADS
            zeroed(parameter, cut, 2)
            share = (parameter == 0).float().mean().item()
            assert share == 1 / HEADS, names[parameter]
    after = attend(module)
    gone = [h for h in range(HEADS) if not after[:, :, h].any()]
    assert gone == [2]
    others = [0, 1, 3]
    torch.testing.assert_close(after[:, :, others], before[:, :, others])
    assert before[:, :, 2].any()


@pytest.mark.parametrize("apart", [False, True])
def test_zeroing_a_heads_outgoing_group_takes_its_contribution_away(apart):
    module = attention(apart)
    heads, weight, bias = attend(module), module.out_proj.weight, module.out_proj.bias
    with torch.no_grad():
        blocks = weight.clone().unflatten(1, (HEADS, -1))
        wanted = sum(heads[:, :, h] @ blocks[:, h].T for h in (0, 1, 3)) + bias
    zeroed(weight, groups_of(module)[weight], 2)
    with torch.no_grad():
        torch.testing.assert_close(attend(module).flatten(-2) @ weight.T + bias, wanted)


@pytest.mark.parametrize("apart", [False, True])
def test_attention_by_rows_and_columns(apart):
    module = attention(apart)
    count = 4 if apart else 2
    for by, axis in {"rows": 0, "columns": 1}.items():
        assert list(groups_of(module, attention=by).values()) == [Groups(axis)] * count
    biases = groups_of(module, attention="rows", include_biases=True)
    assert biases[module.in_proj_bias].count(module.in_proj_bias.shape) == 3 * WIDTH
    assert biases[module.bias_k].count(module.bias_k.shape) == WIDTH


def test_a_transformer_layer_is_its_parts():
    module = nn.TransformerEncoderLayer(8, 2, 16)
    names = {p: name for name, p in module.named_parameters()}
    assert {names[p]: (g.axis, g.view) for p, g in groups_of(module, linear="columns").items()} == {
        "self_attn.in_proj_weight": (1, (3, 2, 4, 8)),
        "self_attn.out_proj.weight": (1, (8, 2, 4)),
        "linear1.weight": (1, None),
        "linear2.weight": (1, None),
    }


# Biases, norms and others ------------------------------------------------------------------------

NORMS = [
    nn.BatchNorm2d(3),
    nn.InstanceNorm1d(3, affine=True),
    nn.GroupNorm(1, 3),
    nn.LayerNorm((3, 2)),
    nn.RMSNorm(3),
]


@pytest.mark.parametrize("norm", NORMS, ids=repr)
def test_norms_are_left_alone_unless_asked(norm):
    assert groups_of(norm, include_biases=True) == {}
    groups = groups_of(norm, include_norms=True)
    assert list(groups) == list(norm.parameters())
    for parameter, cut in groups.items():
        assert cut.split(parameter).shape == (parameter.numel(), 1)


@pytest.mark.parametrize(
    "module", [nn.Linear(2, 3), nn.Conv1d(2, 3, 1), nn.ConvTranspose1d(2, 3, 1)]
)
def test_biases_are_left_alone_unless_asked(module):
    assert module.bias not in groups_of(module, include_norms=True)
    assert groups_of(module, include_biases=True)[module.bias].split(module.bias).shape == (3, 1)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))
        self.recurrent = nn.LSTM(2, 3)


def test_other_parameters_are_left_alone():
    assert groups_of(Own(), include_biases=True, include_norms=True) == {}


def test_the_order_is_the_models():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    groups = groups_of(model, include_biases=True, include_norms=True)
    assert list(groups) == list(model.parameters())


# A function, and tied parameters -----------------------------------------------------------------


def test_a_function_decides_or_leaves_it_to_the_kind():
    model = nn.Sequential(nn.Linear(2, 4), Own(), nn.Linear(4, 2))
    calls = []

    def choose(name, module, parameter):
        calls.append((name, module, parameter))
        return {"0.weight": None, "1.weight": Groups(1)}.get(name, NotImplemented)

    groups = groups_of(model, function=choose)
    assert groups == {model[1].weight: Groups(1), model[2].weight: Groups(0)}
    assert [(name, id(p)) for name, _, p in calls] == [
        (name, id(p)) for name, p in model.named_parameters()
    ]
    assert calls[0][1] is model[0]


def test_a_function_may_choose_where_the_kind_is_refused():
    model = nn.Conv2d(4, 6, 2, groups=2)
    chosen = groups_of(model, convolution="input", function=lambda *_: None)
    assert chosen == {}


def test_tied_parameters_are_there_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert groups_of(model) == {model[0].weight: Groups(0)}


@pytest.mark.parametrize("embedding_first", [True, False])
def test_what_is_left_alone_at_one_place_is_left_alone(embedding_first):
    embedding, linear = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    linear.weight = embedding.weight
    model = nn.Sequential(*([embedding, linear] if embedding_first else [linear, embedding]))
    assert groups_of(model) == {}
    assert groups_of(model, embedding="rows") == {linear.weight: Groups(0)}
    with pytest.raises(OptionError, match=r"cut in 2 ways: .*Groups.*choose with function"):
        groups_of(model, embedding="columns")


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"convolution": "rows"}, OptionError, "convolution must be one of 'output', 'input' or"),
        ({"linear": "output"}, OptionError, "linear must be one of 'rows', 'columns' or None"),
        ({"attention": "head"}, OptionError, "attention must be one of 'heads', 'rows', 'col"),
        ({"embedding": 1}, OptionTypeError, "embedding must be one of 'rows', 'columns' or None"),
        ({"include_biases": 1}, OptionTypeError, "include_biases must be True or False, got 1"),
        ({"include_norms": "no"}, OptionTypeError, "include_norms must be True or False"),
        ({"function": "rows"}, OptionTypeError, "function must be callable or None, got 'rows'"),
        (
            {"function": lambda *_: 0},
            OptionTypeError,
            "Groups, None or NotImplemented, got 0 for w",
        ),
        ({"function": lambda *_: Groups(2)}, OptionError, "weight: axis must be one of the 2"),
        ({"function": lambda *_: Groups(0, (5,))}, OptionError, "weight: view must have as many"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        groups_of(nn.Linear(2, 3), **options)


def test_only_models_have_groups():
    with pytest.raises(OptionTypeError, match=r"model must be a torch\.nn\.Module, got list"):
        groups_of([nn.Linear(2, 3)])


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_parameters_are_refused():
    with pytest.raises(OptionError, match=r"0\.weight is not initialised yet .* run a batch"):
        groups_of(nn.Sequential(nn.LazyLinear(3)))
