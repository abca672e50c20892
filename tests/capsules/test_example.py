"""The example trains on real digits at small size, and draws."""

import re
import runpy
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "capsnet_digits.py"


def test_the_digits_are_learned_and_drawn(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "digits.png"
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(picture), "--seeds", "1", "--epochs", "5"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    accuracy = float(re.search(r"accuracy ([\d.]+)%", capsys.readouterr().out)[1])
    assert accuracy > 90
    assert picture.read_bytes().startswith(b"\x89PNG")
