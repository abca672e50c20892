"""Pretrained vectors: loaded at the speed of the disk, and kept frozen where they shall be."""

from linkboy.embeddings.convert import convert_embeddings as convert_embeddings
from linkboy.embeddings.load import load_embeddings as load_embeddings
from linkboy.embeddings.module import PretrainedEmbedding as PretrainedEmbedding
from linkboy.embeddings.report import EmbeddingReport as EmbeddingReport
