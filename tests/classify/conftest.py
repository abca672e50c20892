"""Small labelled data for the main job."""

import numpy as np
import pytest

from linkboy.classify.labelled import LabelledTexts

WORDS = {
    "体育": "球队 比赛 冠军 进球 联赛",
    "财经": "股市 基金 银行 涨停 利率",
    "sport": "match goal team league coach",
}


def make_rows(count: int, seed: int = 0) -> LabelledTexts:
    """Return texts of three classes that a linear model tells apart."""
    generator = np.random.default_rng(seed)
    labels = [list(WORDS)[row % 3] for row in range(count)]
    texts = [" ".join(generator.choice(WORDS[label].split(), 3)) + f" {generator.integers(1000)}" for label in labels]
    return LabelledTexts("made up", texts, labels, list(range(1, count + 1)))


@pytest.fixture(scope="session", name="make_rows")
def make_rows_fixture():
    return make_rows


@pytest.fixture
def rows() -> LabelledTexts:
    return make_rows(240)


@pytest.fixture
def tsv(tmp_path, rows):
    """The rows as a file."""
    path = tmp_path / "news.tsv"
    lines = zip(rows.texts, rows.labels, strict=True)
    path.write_text("".join(f"{text}\t{label}\n" for text, label in lines), "utf-8")
    return path
