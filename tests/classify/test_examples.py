"""The example runs, and its classifier has learned."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_from_python.py"


def test_the_classifier_of_the_example_predicts(tmp_path, capsys):
    classifier = runpy.run_path(str(EXAMPLE))["main"](tmp_path / "model")
    assert list(classifier.predict(["clean quiet", "脏 吵"]).labels) == ["good", "bad"]
    assert "precision" in capsys.readouterr().out
