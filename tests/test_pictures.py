"""The pictures of the documentation: drawn from reports, the same on every run, and loading nothing."""

from pathlib import Path

import pytest
import torch
from benchmarks.pictures import FOLDER, Tagger, svg

from linkboy import summarize


def test_a_picture_loads_nothing_and_is_the_same_again():
    report = summarize(Tagger(), torch.ones(2, 4, dtype=torch.long), torch.tensor([4, 3]))
    text = svg(report, "lstm")
    assert text == svg(report, "lstm")
    assert "@font-face" not in text
    assert f"{report.flops:,}" in text


@pytest.mark.parametrize("name", ["bert", "lstm", "resnet"])
def test_the_pages_show_pictures_that_exist(name):
    assert "@font-face" not in (FOLDER / f"{name}.svg").read_text("utf-8")
    for page in ("parameters.md", "zh/parameters.md"):
        assert f"pictures/{name}.svg" in (Path(FOLDER.parent) / page).read_text("utf-8")


def test_the_picture_of_bert_has_its_flops():
    tokens, width, inner = 128, 768, 3072
    layer = 2 * tokens * (4 * width * width + 2 * width * inner) + 2 * 2 * tokens * tokens * width
    assert f"{12 * layer + 2 * width * width:,}" in (FOLDER / "bert.svg").read_text("utf-8")
