"""What every attack must end in: one sentence, and little memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

MOST_MIB = 96


def _status(field: str) -> float:
    """A line of the kernel's account of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak_mib(action: Callable[[], object]) -> float:
    """Run `action` and return by how much the memory of the process rose above what it was."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    action()
    return _status("VmHWM") - before


@pytest.fixture
def refusal() -> Callable[[Callable[[], object]], str]:
    """Call what is attacked and return the one sentence it ends in."""

    def attacked(action: Callable[[], object]) -> str:
        caught: list[Exception] = []

        def run() -> None:
            try:
                action()
            except (ValueError, TypeError, OSError) as error:
                caught.append(error)

        peak = peak_mib(run)
        assert caught, "the attack was not refused"
        assert peak < MOST_MIB, f"{peak:.0f} MiB for a hostile file"
        text = str(caught[0])
        assert "\n" not in text
        assert len(text) < 500
        return text

    return attacked
