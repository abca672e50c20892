"""Pretrained vectors that lack some words: train the missing rows, and freeze the others.

    python examples/09_frozen_embedding.py [vectors.txt]

`requires_grad = False` also freezes the random rows of the missing words; a hook that masks the gradient lets weight decay
change the frozen rows. The file is made here; any GloVe, word2vec or fastText file will do.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import linkboy as lb

GOOD, BAD = ["clean", "quiet", "干净", "cosy", "舒服"], ["dirty", "noisy", "脏", "grubby", "吵"]
MISSING = {"cosy", "grubby", "舒服", "吵"}


def made_vectors(path: Path) -> Path:
    """Vectors in which the first number tells good from bad."""
    torch.manual_seed(0)
    rows = [(word, sign) for sign, words in ((1, GOOD), (-1, BAD)) for word in words if word not in MISSING]
    lines = [f"{word} {sign} " + " ".join(f"{x:.3f}" for x in torch.randn(7).tolist()) for word, sign in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


path = Path(sys.argv[1]) if len(sys.argv) > 1 else made_vectors(Path(tempfile.mkdtemp()) / "vectors.txt")
words = ["<pad>", *GOOD, *BAD]
weight, report = lb.load_embeddings(path, words, padding_idx=0, generator=torch.Generator().manual_seed(0))
print(report)

embedding = lb.PretrainedEmbedding(weight, freeze=report.known, padding_idx=0)
model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(weight.shape[1], 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
ids, target = torch.arange(1, len(words))[:, None], torch.tensor([1.0] * len(GOOD) + [0.0] * len(BAD))
for _ in range(100):
    optimizer.zero_grad()
    loss = nn.functional.binary_cross_entropy_with_logits(model(ids).squeeze(1), target)
    loss.backward()
    optimizer.step()

held = torch.equal(embedding.weight[report.known], weight[report.known])
learned = not torch.equal(embedding.weight[~report.known], weight[~report.known])
right = ((model(ids).squeeze(1) > 0) == target.bool()).sum().item()
print(f"known rows bit-identical: {held}; missing rows learned: {learned}; right: {right} of {len(target)}")
