"""Pretrained vectors for the tokens of a classifier."""

import numpy as np
import torch

from linkboy.classify.encoding._dataset import EncodedTexts
from linkboy.classify.encoding._tokens import TokenEncoder
from linkboy.classify.recipe import TrainingOptions
from linkboy.embeddings import EmbeddingReport, PretrainedEmbedding, load_embeddings


def pretrained_embedding(
    options: TrainingOptions, encoder: TokenEncoder, train: EncodedTexts
) -> tuple[PretrainedEmbedding, EmbeddingReport]:
    """Return an embedding with the vectors of the tokens, and how many of them and of the training text were found."""
    tokenizer = encoder.tokenizer
    tokens = [tokenizer.id_to_token(number) for number in range(tokenizer.vocab_size)]
    counted = [np.bincount(features.ids, minlength=len(encoder)) for features, _, _ in train.pieces()]
    counts = np.sum(counted, axis=0).tolist()
    weight, report = load_embeddings(
        str(options.vectors),
        {token: number for number, token in enumerate(tokens, 1)},
        padding_idx=0,
        on_bad_row="skip",  # the report counts them, and their words are trained from random numbers
        generator=torch.Generator().manual_seed(options.seed),
        counts=dict(zip(tokens, counts[1:], strict=True)),
    )
    freeze = {"all": True, "known": report.known, "none": False}[options.freeze or "none"]
    return PretrainedEmbedding(weight, freeze=freeze, padding_idx=0), report
