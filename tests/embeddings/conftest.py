"""The compiled core, for the tests that hold it to the readable path."""

import pytest

from linkboy._compiled import core


@pytest.fixture(scope="session")
def compiled():
    """The compiled core, skipping where there is none."""
    module = core()
    if module is None:
        pytest.skip("the compiled core is not here")
    return module
