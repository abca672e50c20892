"""The kinds of classifiers: the encoder and the model of each, made to be trained or for weights that were saved."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from linkboy.classify.encoding._dataset import Encoder
from linkboy.classify.encoding._features import NgramEncoder
from linkboy.classify.encoding._tokens import TokenEncoder
from linkboy.classify.models._capsule import TextCapsuleNet
from linkboy.classify.models._centroids import CentroidClassifier
from linkboy.classify.models._models import NgramAndVectorClassifier, NgramClassifier, SoftCap, TextCNN, TextModel
from linkboy.classify.models._transformer import TextTransformer
from linkboy.classify.recipe import TOKEN_MODELS
from linkboy.embeddings import PretrainedEmbedding

ENCODERS: dict[str, type[NgramEncoder] | type[TokenEncoder]] = {
    "ngram": NgramEncoder,
    **dict.fromkeys(TOKEN_MODELS, TokenEncoder),
}


def make_encoder(model: str, texts: Sequence[str], *, vocab: str | None = None, binary: bool = False) -> Encoder:
    """Learn the encoder that a kind of model takes.

    Args:
        model: the kind of model.
        texts: to learn from.
        vocab: a vocabulary file, for a model that reads tokens.
        binary: whether an n-gram weighs the same however often it occurs and however common it is.
    """
    return TokenEncoder.fit(texts, vocab=vocab) if model in TOKEN_MODELS else NgramEncoder.fit(texts, binary=binary)


def make_model(
    model: str, encoder: Encoder, classes: int, *, embedding: nn.Embedding | PretrainedEmbedding | None = None
) -> TextModel:
    """Build a model with initial weights from torch's global generator; `embedding` is for a `cnn`."""
    if embedding is not None:
        return TextCNN(len(encoder), classes, embedding=embedding)
    kinds = {"ngram": NgramClassifier, "cnn": TextCNN, "capsule": TextCapsuleNet, "transformer": TextTransformer}
    return kinds[model](len(encoder), classes)


def restored_model(kind: str, encoder: Encoder, classes: int, state: Mapping[str, Tensor]) -> TextModel:
    """Build the model that saved weights belong to, with these weights.

    Args:
        kind: the kind of model.
        encoder: its encoder.
        classes: how many classes there are.
        state: the weights by their names.

    Raises:
        KeyError, IndexError, TypeError, ValueError, RuntimeError: they do not belong to such a model.
    """
    with torch.device("meta"), _Undrawn():  # the weights that were read take the place of initial ones
        if "starts" in state:
            model = CentroidClassifier(len(encoder), classes, len(state["values"]))
        elif "of_vectors.weight" in state:
            model = NgramAndVectorClassifier(len(encoder), state["of_vectors.weight"].shape[1], classes)
        else:
            embedding = None
            if kind == "cnn":  # pretrained vectors may be of any width
                embedding = nn.Embedding(len(encoder), state["embedding.weight"].shape[1], padding_idx=0)
            model = make_model(kind, encoder, classes, embedding=embedding)
        if isinstance(model, (NgramClassifier, NgramAndVectorClassifier)) and "soft_cap.cap" in state:
            model.soft_cap = SoftCap(1.0, classes)
    model.load_state_dict(dict(state), assign=True)
    for each in model.modules():
        if isinstance(each, (CentroidClassifier, SoftCap)):
            each.check()
    return model


class _Undrawn(TorchFunctionMode):
    """Leave initial weights out; on the meta device torch loads its compiler to draw them, which takes most of a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return (*args, *(kwargs or {}).values())[0]  # the tensor that would be filled, by position or by name
        return func(*args, **(kwargs or {}))
