"""An output layer that reads its weight from a table whose rows are not one parameter."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class TiedLinear(nn.Module):
    """Multiplies by the weight of an embedding, which it asks for at every call and does not own.

    It stands for the output layer of a model where the embedding it was tied to has been replaced by one that puts its
    `weight` together from several tensors, such as a partly frozen one. The state dict holds the weight once, under the
    embedding, as that of a tied model does when it is saved.

    Args:
        table: a module with a `weight` of shape `(num_embeddings, embedding_dim)`.
        bias: the bias of the output layer it stands for.
    """

    bias: Tensor | None

    def __init__(self, table: nn.Module, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.table = (table,)  # in a tuple, so that it is not registered here a second time
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> Tensor:
        """The weight of the embedding."""
        table: Any = self.table[0]
        return table.weight

    @property
    def in_features(self) -> int:
        """The size of the input."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """The size of the output: the rows of the embedding."""
        return self.weight.shape[0]

    def forward(self, input: Tensor) -> Tensor:
        """Return `input @ weight.T + bias`."""
        return F.linear(input, self.weight, self.bias)
