"""The models of the main job: plain modules that take what their encoder collates."""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linkboy.embeddings import PretrainedEmbedding


class TextModel(nn.Module):
    """What the main job trains: gives logits, and can take a change of them into its weights."""

    @abstractmethod
    def adjust_(self, shift: Tensor, temperature: float) -> None:
        """Change the weights so that the logits are `(logits + shift) / temperature` from now on; `shift` is `(C,)`."""


class LinearHead(nn.Linear):
    """A last linear layer, which can take a change of the logits into its weights."""

    @torch.no_grad()
    def adjust_(self, shift: Tensor, temperature: float) -> None:
        """Change the weights so that the logits are `(logits + shift) / temperature` from now on."""
        self.weight /= temperature
        self.bias.add_(shift.to(self.bias)).div_(temperature)


class SoftCap(nn.Module):
    """Keeps logits between `-cap` and `cap`, and adds a shift of each class: `cap * tanh(logits / cap) + shift`.

    Source: Gemma Team 2024, section 2, https://arxiv.org/abs/2408.00118.

    Args:
        cap: above 0.
        classes: number of classes.

    Shape: `(B, classes)` -> `(B, classes)`.
    """

    def __init__(self, cap: float, classes: int) -> None:
        super().__init__()
        self.cap: Tensor
        self.shift: Tensor
        self.register_buffer("cap", torch.tensor(cap))
        self.register_buffer("shift", torch.zeros(classes))

    def forward(self, logits: Tensor) -> Tensor:
        """Return capped logits `(B, classes)`."""
        return self.cap * torch.tanh(logits / self.cap) + self.shift

    def adjust_(self, shift: Tensor, temperature: float) -> None:
        """Make of what it gives `(logits + shift) / temperature`, where what comes has been divided by the temperature."""
        self.cap /= temperature
        self.shift.add_(shift.to(self.shift)).div_(temperature)

    def slope(self, one: float, other: float) -> float:
        """Return the distance of two capped logits over their distance without a cap, between 0 and 1."""
        cap = float(self.cap)
        if abs(one - other) < 1e-6 * cap:
            return 1 - math.tanh(one / cap) ** 2
        return cap * (math.tanh(one / cap) - math.tanh(other / cap)) / (one - other)

    def check(self) -> None:
        """Raise a `ValueError` unless the cap is a number above 0, and the shift finite."""
        if not (self.cap.ndim == 0 and 0 < float(self.cap) < math.inf and self.shift.isfinite().all()):
            raise ValueError("the cap of logits must be a number above 0, with a finite shift for each class")


class NgramClassifier(TextModel):
    """A linear model over weighted n-grams, as a bag of embeddings as wide as there are classes.

    With a `scale`, which is there in training only, the weight of an n-gram for a class is what is learned times its
    scale: n-grams that tell classes apart move faster, and are punished less for being large. A `soft_cap` is there where
    the logits that the sum gives are more certain of their largest than they are right.

    Args:
        vocabulary: number of n-grams.
        classes: number of classes.

    Shape: ids `(K,)` int64, offsets `(B + 1,)` int64, weights `(K,)` floating point -> logits `(B, classes)`.
    """

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(max(vocabulary, 1), classes, mode="sum", include_last_offset=True)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.scale: Tensor | None
        self.register_buffer("scale", None, persistent=False)
        self.soft_cap: SoftCap | None = None
        nn.init.zeros_(self.bag.weight)  # the problem is convex: zero is as good a start as any, and reproducible

    def forward(self, ids: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Return logits `(B, classes)`."""
        weight = self.bag.weight if self.scale is None else self.bag.weight * self.scale
        weights = weights.to(weight.dtype)
        bags = F.embedding_bag(ids, weight, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
        return bags + self.bias if self.soft_cap is None else self.soft_cap(bags + self.bias)

    def of_classes(self, ids: Tensor, pair: tuple[int, int]) -> Tensor:
        """Return `(len(ids), 2)`: the weights of n-grams for two classes."""
        return self.bag.weight.detach()[ids][:, list(pair)]

    @torch.no_grad()
    def adjust_(self, shift: Tensor, temperature: float) -> None:
        """Change the weights so that the logits are `(logits + shift) / temperature` from now on, without a `scale`."""
        if self.scale is not None:
            self.bag.weight *= self.scale
            self.scale = None
        self.bag.weight /= temperature
        if self.soft_cap is None:
            self.bias.add_(shift.to(self.bias)).div_(temperature)
        else:
            self.bias /= temperature
            self.soft_cap.adjust_(shift, temperature)


class NgramAndVectorClassifier(TextModel):
    """A linear model over n-grams and over vectors, whose logits add up; a `soft_cap` is one of their sum.

    Args:
        vocabulary: number of n-grams.
        width: of the vectors.
        classes: number of classes.

    Shape: ids, offsets and weights as for `NgramClassifier`, vectors `(B, width)` -> logits `(B, classes)`.
    """

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.ngrams = NgramClassifier(vocabulary, classes)
        self.of_vectors = nn.Linear(width, classes, bias=False)
        self.soft_cap: SoftCap | None = None

    def forward(self, ids: Tensor, offsets: Tensor, weights: Tensor, vectors: Tensor) -> Tensor:
        """Return logits `(B, classes)`."""
        logits = self.ngrams(ids, offsets, weights) + self.of_vectors(vectors)
        return logits if self.soft_cap is None else self.soft_cap(logits)

    @torch.no_grad()
    def adjust_(self, shift: Tensor, temperature: float) -> None:
        """Change the weights so that the logits are `(logits + shift) / temperature` from now on."""
        self.ngrams.adjust_(shift if self.soft_cap is None else torch.zeros_like(shift), temperature)
        self.of_vectors.weight /= temperature
        if self.soft_cap is not None:
            self.soft_cap.adjust_(shift, temperature)


class TextCNN(TextModel):
    """Convolutions of several widths over token embeddings, the maximum over time of each, and a linear layer.

    The maximum looks at real tokens only, so a text's logits do not depend on the texts it is batched with.

    Args:
        vocabulary: number of token ids; id 0 is padding.
        classes: number of classes.
        embedding_dim: width of the embeddings.
        embedding: a module to use for them, of whatever width; by default one of `embedding_dim` with random rows.
        channels: filters of each width.
        widths: how many tokens a filter sees.
        dropout: share of the pooled features dropped in training.

    Shape: ids `(B, T)` int64 -> logits `(B, classes)`.

    Source: Kim 2014, https://arxiv.org/abs/1408.5882.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        *,
        embedding_dim: int = 128,
        embedding: nn.Embedding | PretrainedEmbedding | None = None,
        channels: int = 128,
        widths: tuple[int, ...] = (2, 3, 4),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_dim, padding_idx=0) if embedding is None else embedding
        dim = self.embedding.embedding_dim
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, channels, width) for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.head = LinearHead(channels * len(widths), classes)
        self.widths = widths

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits `(B, classes)`."""
        ids = F.pad(ids, (0, max(self.widths) - 1))  # every token begins a window of every width
        real = ids != 0  # (B, T + w - 1)
        x = self.embedding(ids).transpose(1, 2)  # (B, E, T + w - 1)
        pooled = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            features = F.relu(convolution(x))  # (B, C, T')
            begins_in_text = real[:, None, : real.shape[1] - width + 1]
            pooled.append(features.masked_fill(~begins_in_text, 0.0).amax(2))  # relu: 0 is the least there is
        return self.head(self.dropout(torch.cat(pooled, 1)))

    def adjust_(self, shift: Tensor, temperature: float) -> None:
        """Change the weights so that the logits are `(logits + shift) / temperature` from now on."""
        self.head.adjust_(shift, temperature)
