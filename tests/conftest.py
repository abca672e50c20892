"""What every test starts from: no window, Ctrl-C in force, and the folder of real data."""

import os
import signal
from pathlib import Path

import pytest

os.environ["MPLBACKEND"] = "Agg"

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> None:
    """Let SIGINT interrupt, as at a terminal: a shell starts what it puts in the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
