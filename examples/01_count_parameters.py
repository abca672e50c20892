"""Will it fit? The size of a model while it is built, what training it would take, and the size of a checkpoint on disk.

    python examples/01_count_parameters.py [checkpoint.safetensors | checkpoint.pt]

Without a file it saves and counts the model above. A file is neither loaded nor executed.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import linkboy as lb


class Tagger(nn.Module):
    """A small encoder whose output layer shares its weight with the embedding."""

    def __init__(self, words: int = 8000, width: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # (B, T) -> (B, T, words)
        return self.head(self.encoder(self.embed(ids)))


with torch.device("meta"):  # shapes without memory: a model of any size can be counted
    large = Tagger(words=250_000, width=4096)
print(str(lb.count_parameters(large)).splitlines()[0])

model = Tagger()
ids = torch.zeros(32, 64, dtype=torch.int64)
lb.freeze(model, "encoder.layers.0.*")
print(lb.count_parameters(model, by="module"))
training = lb.summarize(model, ids).training_memory  # weights, gradients, optimizer state, activations
print(f"training a batch of 32 x 64 takes {sum(training.values()) / 2**20:.0f} MiB")

if len(sys.argv) > 1:
    checkpoint = Path(sys.argv[1])
else:
    checkpoint = Path(tempfile.mkdtemp()) / "tagger.pt"
    torch.save(model.state_dict(), checkpoint)
on_disk = lb.count_parameters(checkpoint)
print(f"{checkpoint.name}: {on_disk.total:,} parameters, one tensor under two names: {on_disk.tied}")
