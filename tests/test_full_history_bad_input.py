"""What SAG and SAGA refuse, in a sentence and with nothing changed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from full_history_twin import each_class, step_with_index
from gradmem import SAG, GradientError, OptionError, OptionTypeError, StepError
from optimizers import parameters, refuse

BAD = [
    ({"terms": 0}, OptionError, r"^terms must be at least 1, got 0; it is the number N"),
    ({"terms": 2.0}, OptionTypeError, r"^terms must be an integer, got 2.0 \(float\)"),
    ({"terms": True}, OptionTypeError, r"terms must be an integer, got True"),
    ({"lr": -1.0}, OptionError, r"^lr must be a finite number of at least 0, got -1.0"),
    ({"weight_decay": float("nan")}, OptionError, r"weight_decay must be a finite"),
    ({"maximize": 1}, OptionTypeError, r"maximize must be True or False, got 1"),
    ({"max_bytes": -1}, OptionError, r"max_bytes must be at least 0, got -1; None sets no"),
    ({"max_bytes": "2G"}, OptionTypeError, r"max_bytes must be an integer, got '2G'"),
    ({"table_dtype": "bfloat16"}, OptionTypeError, r"table_dtype must be a torch.dtype, got 'b"),
    ({"table_dtype": torch.int8}, OptionError, r"table_dtype must be a type of 16 bits or more"),
    ({"table_dtype": torch.float8_e5m2}, OptionError, r"16 bits or more, got torch.float8"),
    ({"table_dtype": torch.complex64}, OptionError, r"cannot hold the gradient of parameter 0"),
]


@pytest.mark.parametrize(("options", "kind", "sentence"), BAD, ids=lambda x: str(x)[:40])
@each_class
def test_bad_options_are_refused(cls, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        cls(parameters(), **{"terms": 3, **options})


@each_class
def test_sharded_parameters_are_refused(cls):
    class Sharded(torch.nn.Parameter):
        """What is asked of a DTensor here."""

        device_mesh = SimpleNamespace(device_type="cpu")

        def to_local(self):
            return self.data

    with pytest.raises(GradientError, match=r"parameter 0 is sharded over devices.*DDP"):
        cls([Sharded(torch.zeros(2))], terms=2)


def test_divide_by_is_checked():
    with pytest.raises(OptionError, match=r"divide_by must be one of 'seen', 'terms', got 'n'"):
        SAG(parameters(), terms=3, divide_by="n")


@pytest.mark.parametrize(
    ("group", "kind", "sentence"),
    [
        ({"weight_decy": 1}, OptionError, r"group 1: unknown key .*did you mean 'weight_decay'"),
        ({"terms": 4}, OptionError, r"group 1: terms must be 3 as at construction, got 4; set it"),
        ({"lr": "1"}, OptionTypeError, r"param group 1: lr must be a finite number"),
        ({"params": [3]}, TypeError, r"params must be tensors, got int"),
        ({"params": set()}, TypeError, r"must be a list here, got set"),
    ],
)
@each_class
def test_bad_groups_are_refused(cls, group, kind, sentence):
    params = parameters()
    optimizer = cls(params, terms=3)
    step_with_index(optimizer, params, 0)
    new = {"params": parameters(shapes=[(1,)]), **group}
    refuse(kind, lambda: optimizer.add_param_group(new), optimizer, params, sentence)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("index", "kind", "sentence"),
    [
        (3, OptionError, r"index must be in \[0, 3\), got 3"),
        (-1, OptionError, r"index must be in \[0, 3\), got -1"),
        (1.0, OptionTypeError, r"index must be one integer in \[0, 3\).*got 1.0"),
        (True, OptionTypeError, r"index must be one integer"),
        (None, OptionTypeError, r"index must be one integer"),
        ([0, 1], OptionTypeError, r"fixed batches"),
        (torch.tensor([0, 1]), OptionTypeError, r"fixed batches"),
    ],
)
@each_class
def test_bad_indices_are_refused(cls, index, kind, sentence):
    params = parameters()
    optimizer = cls(params, terms=3)
    step_with_index(optimizer, params, 0)
    refuse(kind, lambda: optimizer.step(index=index), optimizer, params, sentence)


@each_class
def test_other_bad_steps_are_refused(cls):
    params = parameters()
    optimizer = cls(params, lr=0.1, terms=3)
    step_with_index(optimizer, params, 0)
    refuse(TypeError, optimizer.step, optimizer, params, "index")
    refuse(StepError, lambda: optimizer.step(3, index=0), optimizer, params, "without arguments")
    inner = lambda: optimizer.step(lambda: None, index=0)  # noqa: E731
    refuse(StepError, lambda: optimizer.step(inner, index=0), optimizer, params, "within a clos")
    optimizer.param_groups[0]["terms"] = 4
    refuse(OptionError, lambda: optimizer.step(index=0), optimizer, params, "terms must be 3")
    optimizer.param_groups[0]["terms"] = 3
    params[0].grad = torch.zeros(3, 4).to_sparse()
    refuse(GradientError, lambda: optimizer.step(index=0), optimizer, params, "sparse=False")


@pytest.mark.parametrize("index", [np.int64(1), torch.tensor(1), torch.tensor([1])])
@each_class
def test_integers_of_any_kind_are_indices(cls, index):
    params = parameters()
    optimizer = cls(params, lr=0.1, terms=3)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step(index=index)
    assert optimizer.state[params[0]]["history_seen"].tolist() == [False, True, False]
