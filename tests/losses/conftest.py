"""The losses look for a softmax in the first calls of a process; a test counts its calls from 0."""

import itertools

import pytest

from linkboy.losses import _arguments


@pytest.fixture(autouse=True)
def _first_calls(monkeypatch):
    monkeypatch.setattr(_arguments, "_calls", itertools.count())
