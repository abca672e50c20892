"""The examples run, and show what their text says."""

import re
import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def numbers_by_line(text: str) -> dict[str, float]:
    return {name.strip(): float(value) for name, value in re.findall(r"^  (.+?) {2,}([\d.]+)", text, re.MULTILINE)}


def test_the_long_tail_is_won_by_logit_adjustment(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "long_tail.png"
    monkeypatch.setattr(sys, "argv", ["long_tail.py", str(picture)])
    runpy.run_path(str(EXAMPLES / "long_tail.py"))
    scores = numbers_by_line(capsys.readouterr().out)
    assert list(scores) == ["plain", "weighted", "focal", "weighted focal", "logit-adjusted"]
    assert max(scores, key=scores.__getitem__) == "logit-adjusted"
    assert scores["logit-adjusted"] > scores["plain"] + 4
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_forecast_is_judged_by_what_it_was_trained_on(capsys):
    runpy.run_path(str(EXAMPLES / "sales_forecast.py"))
    scores = numbers_by_line(capsys.readouterr().out)
    assert scores["small network under rmsle_loss"] < 0.75 * scores["constant"]
    assert abs(scores["small network under rmsle_loss"] - scores["LinearRegression on the log"]) < 0.03
