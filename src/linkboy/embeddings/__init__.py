"""Pretrained vectors: loaded at the speed of the disk, and frozen row by row."""

import linkboy._compat  # noqa: F401  # refuses a torch that is too old, as every room does
from linkboy.embeddings.convert import convert_embeddings
from linkboy.embeddings.load import load_embeddings
from linkboy.embeddings.pretrained import PretrainedEmbedding
from linkboy.embeddings.report import EmbeddingReport, SkippedRow

__all__ = ["EmbeddingReport", "PretrainedEmbedding", "SkippedRow", "convert_embeddings", "load_embeddings"]
