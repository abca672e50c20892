"""A small transformer over tokens, trained from scratch."""

import torch
from torch import Tensor, nn

from linkboy.classify.models._models import LinearHead, TextModel


class TextTransformer(TextModel):
    """A small transformer encoder over token embeddings, trained from scratch, and the mean over the real tokens.

    Args:
        vocabulary: number of token ids; id 0 is padding.
        classes: number of classes.
        width: of embeddings and layers.
        heads: of the attention.
        layers: how many, with the normalisation before each part.
        dropout: share of the activations dropped in training.
        max_length: number of distinct positions; tokens beyond them share the last one.

    Shape: ids `(B, T)` int64 -> logits `(B, classes)`.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        *,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.2,
        max_length: int = 400,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Embedding(max_length, width)
        nn.init.normal_(self.positions.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.head = LinearHead(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits `(B, classes)`."""
        real = ids != 0  # (B, T)
        places = torch.arange(ids.shape[1], device=ids.device).clamp_max(self.positions.num_embeddings - 1)
        x = self.dropout(self.embedding(ids) + self.positions(places))  # (B, T, W)
        hidden = ~real
        hidden[:, 0] = False  # a text without tokens attends to its first padding: a softmax over nothing is nan
        x = self.layers(x, src_key_padding_mask=hidden) * real[:, :, None]
        return self.head(x.sum(1) / real.sum(1, keepdim=True).clamp_min(1))

    def adjust_(self, shift: Tensor, temperature: float) -> None:
        """Change the weights so that the logits are `(logits + shift) / temperature` from now on."""
        self.head.adjust_(shift, temperature)
