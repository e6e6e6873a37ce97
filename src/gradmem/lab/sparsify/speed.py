"""The smaller model beside the whole one: outputs compared, times taken in turns."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradmem.lab.bench.ratios import Ratio, paired
from gradmem.lab.bench.turns import collector_off, settle_allocator, threads
from gradmem.lab.errors import LabError
from gradmem.lab.sparsify.problem import Problem, hidden_channels, without_small_channels
from gradmem.proximal import shrink

BATCHES = 1, 256
ROUNDS = 30
LEAST_SECONDS = 2e-3  # of what is timed at once: far above the clock's own time
CLOSE = 1e-4  # of the largest output: the difference that rounding may make


@dataclass(frozen=True)
class Speed:
    """What was won by taking channels out.

    Attributes:
        channels, channels_left: hidden ones, before and after.
        parameters, parameters_left: elements of all parameters.
        difference: the largest between the outputs of both, as a share of the largest output.
        ratios: by batch size, time of the smaller model over that of the whole one.
    """

    channels: int
    channels_left: int
    parameters: int
    parameters_left: int
    difference: float
    ratios: Mapping[int, Ratio]


def measure(problem: Problem, weights: Mapping[str, Tensor], threshold: float) -> Speed:
    """Set channels up to the threshold to zero, shrink, compare outputs and times; one thread.

    Raises:
        LabError: the smaller model computes something else.
    """
    model = problem.model(0)
    model.load_state_dict(dict(weights))
    whole = without_small_channels(model, threshold).eval()
    smaller = shrink(whole)  # type: ignore[arg-type]
    examples = problem.data().validation.inputs
    inputs = examples[torch.arange(max(BATCHES)) % len(examples)]
    with threads(1), torch.inference_mode(), collector_off():
        difference = _difference(whole(inputs), smaller(inputs))
        if not difference <= CLOSE:
            raise LabError(
                f"the smaller model of {problem.name} gives other outputs, by {difference:.2g} of "
                "the largest; please report this with the run's files"
            )
        settle_allocator()
        ratios = {size: _ratio(smaller, whole, inputs[:size]) for size in BATCHES}
    return Speed(
        *(_channels(whole), _channels(smaller), _elements(whole), _elements(smaller)),
        *(difference, ratios),
    )


def _difference(whole: Tensor, smaller: Tensor) -> float:
    return float((whole - smaller).abs().max() / whole.abs().max().clamp(min=1e-30))


def _ratio(smaller: nn.Module, whole: nn.Module, inputs: Tensor) -> Ratio:
    """Both take turns, there and back, and another begins every round."""
    calls = math.ceil(LEAST_SECONDS / min(_seconds(whole, inputs, 1) for _ in range(5)))
    ours, theirs = [], []
    for round_ in range(ROUNDS):
        order = (smaller, whole) if round_ % 2 else (whole, smaller)
        times = {smaller: 0.0, whole: 0.0}
        for model in (*order, *reversed(order)):
            times[model] += _seconds(model, inputs, calls)
        ours.append(times[smaller])
        theirs.append(times[whole])
    return paired(ours, theirs)


def _seconds(model: nn.Module, inputs: Tensor, calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        model(inputs)
    return time.perf_counter() - begin


def _channels(model: nn.Module) -> int:
    return sum(groups.count(p.shape) for p, groups in hidden_channels(model).items())


def _elements(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
