"""The measure of the attacks can fail."""

import pytest
from tests.attacks.conftest import peak_mib


def fill():
    return b"x" * (200 << 20)


def test_memory_that_is_given_back_is_seen():
    assert peak_mib(fill) > 190


def test_an_attack_that_fills_the_memory_or_passes_is_a_failure(refusal):
    def greedy():
        fill()
        raise ValueError("refused at last")

    with pytest.raises(AssertionError, match="MiB for a hostile file"):
        refusal(greedy)
    with pytest.raises(AssertionError, match="not refused"):
        refusal(lambda: None)
