"""The batch check: planted bugs on their lines, no alarm on what is right, and what it says where it cannot see."""

import importlib.util
from pathlib import Path

import pytest
import torch

from linkboy import check_batch


def load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


seeded = load("seeded")


@pytest.mark.parametrize("fake", ["auto", False], ids=["fake", "real"])
@pytest.mark.parametrize("name", seeded.BUGS)
def test_planted_bugs_are_found_on_their_line(name, fake):
    make, inputs, kind = seeded.BUGS[name]
    torch.manual_seed(0)
    report = check_batch(make(), inputs, fake=fake)
    found = [(finding.kind, finding.line) for finding in report.findings]
    assert found[0] == (kind, seeded.line_of_bug(make))
