"""Architectures met after the rules were made, and thirty further mistakes."""

import inspect

import pytest
import torch
from tests.shapes import planted
from tests.shapes.foreign import FOREIGN, Net, linear, real
from torch.utils.flop_counter import FlopCounterMode

from linkboy import check_batch, summarize
from linkboy._calls import arguments_of
from linkboy.parameters._cost import _plain_kernels

QUICK = [
    "hand: best expert",
    "hand: causal",
    "hand: film",
    "hand: mixer",
    "hand: variational",
    "monai: fully connected",
]


def check(name):
    torch.manual_seed(0)
    model, inputs = FOREIGN[name]()
    model.eval()
    report = check_batch(model, inputs)
    assert report.ok, str(report)
    example = inputs(2)
    with _plain_kernels(), FlopCounterMode(display=False) as counter:
        arguments_of(example, model).call(model)
    assert summarize(model, example).flops == counter.get_total_flops()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", QUICK)
def test_no_false_alarm_and_the_flops_of_torch_on_a_few(name):
    if name.startswith("monai"):
        pytest.importorskip("monai")
    check(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sorted(set(FOREIGN) - set(QUICK)))
def test_no_false_alarm_and_the_flops_of_torch_on_the_others(name):
    if name.startswith("monai"):
        pytest.importorskip("monai")
    check(name)


def test_there_are_sixty_of_them():
    assert len(FOREIGN) >= 60


@pytest.mark.parametrize("count", [2, 3, 5])
def test_as_many_outputs_as_samples_are_no_list_of_samples(count):
    model = Net(lambda net, x: tuple(net.a(x) * number for number in range(1, count + 1)), a=linear(4, 4)())
    report = check_batch(model, real((4,)))
    assert report.ok, str(report)


def first_line_is_right(name):
    forward = getattr(planted, name)
    lines, first = inspect.getsourcelines(forward)
    wrong = next(number for number, line in enumerate(lines, first) if line.rstrip().endswith("# BUG"))
    torch.manual_seed(0)
    model, inputs = planted.BUGS[name]()
    report = check_batch(model.eval(), inputs)
    assert not report.ok, name
    return report.findings[0].line == wrong


@pytest.mark.parametrize("name", ["first_is_special", "divided_by_size", "scaled_by_greatest", "padded_to_longest"])
def test_some_of_the_further_mistakes_are_found_on_their_line(name):
    assert first_line_is_right(name)


@pytest.mark.slow
def test_all_of_the_further_mistakes_are_found_and_27_of_30_on_their_line():
    assert len(planted.BUGS) == 30
    assert sum(map(first_line_is_right, planted.BUGS)) >= 27
