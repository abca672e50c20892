"""Tiny encoders with random weights, saved as transformers and sentence-transformers save them."""

import json
from pathlib import Path

import torch

from linkboy import train_wordpiece
from linkboy._random import same_random_numbers

SENTENCES = ("bert", "roberta")


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
