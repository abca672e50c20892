"""Small labelled data for the main job."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from linkboy._random import same_random_numbers
from linkboy.classify.reading.labelled import LabelledTexts
from linkboy.text import train_wordpiece

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


def save_bert(directory: Path, texts, *, width: int = 32, layers: int = 2, seed: int = 0, **options) -> Path:
    """Write a BERT with a vocabulary of the texts, as transformers saves it."""
    from transformers import BertConfig, BertModel

    vocabulary = train_wordpiece(texts, 400)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        **options,
    )
    with same_random_numbers():
        torch.manual_seed(seed)
        model = BertModel(config)
        model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}), "utf-8"
    )
    return directory


def add_sentence_modules(directory: Path, pooling=None, *more: str) -> Path:
    """Make a directory of transformers one of sentence-transformers."""
    names = ["Transformer", "Pooling", *more]
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{name}" if n else "", "type": f"sentence_transformers.models.{name}"}
        for n, name in enumerate(names)
    ]
    (directory / "modules.json").write_text(json.dumps(modules), "utf-8")
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps(pooling or {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}), "utf-8"
    )
    return directory


@pytest.fixture(scope="session", name="save_bert")
def save_bert_fixture():
    return save_bert


@pytest.fixture(scope="session", name="add_sentence_modules")
def add_sentence_modules_fixture():
    return add_sentence_modules
