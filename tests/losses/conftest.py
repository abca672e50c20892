"""The losses look for a softmax in the first calls of a process; a test counts its calls from 0. Sums by the core or without."""

import itertools

import pytest

from linkboy.losses import _arguments, _small


@pytest.fixture(autouse=True)
def _first_calls(monkeypatch):
    monkeypatch.setattr(_arguments, "_calls", itertools.count())


@pytest.fixture
def compiled():
    """The compiled core, skipping where there is none."""
    if _small.CORE is None:
        pytest.skip("the compiled core is not here")
    return _small.CORE


@pytest.fixture
def without_core(monkeypatch):
    monkeypatch.setattr(_small, "CORE", None)
