"""Both engines, the compiled core and the readable path, for the tests that ask for them."""

import os

import pytest

from linkboy._compiled import SWITCH, core


@pytest.fixture(params=["core", "reader"])
def engine(request, monkeypatch) -> str:
    """The name of the engine that tokenizers made in this test have; without a compiler, only one of them is there."""
    if request.param == "reader":
        monkeypatch.setenv(SWITCH, "0")
    else:
        if os.environ.get(SWITCH) == "0" or core() is None:
            pytest.skip("the compiled core is not here")
    return request.param


@pytest.fixture
def compiled():
    """The compiled core, skipping where there is none."""
    module = core()
    if module is None:
        pytest.skip("the compiled core is not here")
    return module
