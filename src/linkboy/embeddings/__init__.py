"""Pretrained vectors: loaded at the speed of the disk, and frozen row by row."""

from linkboy.embeddings.convert import convert_embeddings
from linkboy.embeddings.load import load_embeddings
from linkboy.embeddings.pretrained import PretrainedEmbedding
from linkboy.embeddings.report import EmbeddingReport, SkippedRow

__all__ = ["EmbeddingReport", "PretrainedEmbedding", "SkippedRow", "convert_embeddings", "load_embeddings"]
