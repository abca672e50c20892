"""Train with accumulated batches, get killed, and resume with bit-identical results.

    python examples/11_train_and_resume.py [directory]
    torchrun --nproc-per-node 2 examples/11_train_and_resume.py runs      # the same script on two processes

The second run below stops inside an epoch, as if it had been killed; the same call resumes it.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import linkboy as lb

directory = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
points = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
data = TensorDataset(points, (points[:, 0] * points[:, 1] > 0).long())
train, valid = torch.utils.data.random_split(data, [400, 100], generator=torch.Generator().manual_seed(0))


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output.argmax(1) == target).double().mean()


def run(name: str, *, max_steps: int | None = None) -> tuple[nn.Module, lb.training.History]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 2))
    history = lb.fit(
        model,
        nn.CrossEntropyLoss(reduction="none"),
        torch.optim.AdamW(model.parameters(), lr=0.01),
        DataLoader(train, batch_size=16, shuffle=True),
        val_loader=DataLoader(valid, batch_size=50),
        metrics={"accuracy": accuracy},
        epochs=12,
        accumulate=2,
        max_steps=max_steps,
        checkpoint=lb.Checkpointer(directory / name, every_steps=20),
        seed=0,
        progress=False,
    )
    return model, history


uncut, history = run("uncut")
run("cut", max_steps=50)
resumed, _ = run("cut")
if lb.is_main_process():
    same = all(torch.equal(a, b) for a, b in zip(uncut.parameters(), resumed.parameters(), strict=True))
    print(
        f"accuracy {history.rows[-1]['accuracy']:.2f} after {history.rows[-1]['step']} steps; the same bits after a stop: {same}"
    )
