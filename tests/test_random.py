"""Random streams are seeded, kept and given back together."""

import random

import numpy as np
import pytest
import torch

from linkboy import _random

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


def draws(device: str = "cpu") -> list[float]:
    """One number of each stream."""
    numbers = [torch.rand(()).item(), random.random(), float(np.random.rand())]  # noqa: NPY002
    return numbers + ([torch.rand((), device=device).item()] if device != "cpu" else [])


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_equal_seeds_give_equal_numbers_on_every_stream(device):
    found = []
    for number in (3, 3, 4):
        _random.seed(number, torch.device(device))
        found.append(draws(device))
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_restored_state_gives_the_same_numbers_also_after_a_checkpoint(device, tmp_path):
    random.gauss()  # leaves half a pair behind, which belongs to the state
    np.random.randn()  # noqa: NPY002
    state = _random.capture(torch.device(device))
    torch.save(state, tmp_path / "state.pt")
    first = [*draws(device), random.gauss(), float(np.random.randn())]  # noqa: NPY002
    _random.restore(torch.load(tmp_path / "state.pt"), torch.device(device))
    assert [*draws(device), random.gauss(), float(np.random.randn())] == first  # noqa: NPY002


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_block_leaves_no_trace_in_any_stream_even_when_it_raises(device):
    draws(device)
    with _random.same_random_numbers():
        first = draws(device)
    with pytest.raises(RuntimeError), _random.same_random_numbers():
        draws("nowhere")  # it draws from the streams of the host, then raises
    assert draws(device) == first


def test_a_seed_of_more_than_32_bits_is_taken():
    _random.seed((1 << 63) - 1)
    assert len(set(draws())) == 3


def test_states_are_those_that_training_wrote_before():
    state = _random.capture()
    assert set(state) == {"torch", "python", "numpy"}
    assert [type(part) for part in state["python"]] == [int, torch.Tensor, type(random.getstate()[2])]
    assert [type(part) for part in state["numpy"]] == [torch.Tensor, int, int, float]
