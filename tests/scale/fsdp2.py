"""Run by torchrun on two gloo processes: a model split by `fully_shard` trains as DDP trains the whole one."""

import sys
from pathlib import Path

import torch
from tests.training.helpers import Plain, same_state
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from linkboy.training import Checkpointer, EarlyStopping, fit, is_main_process, predict, wait_for_everyone

SHARED = Path(sys.argv[1] if __name__ == "__main__" else ".")


def run(*, sharded, directory=None, max_steps=None, dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)
    if sharded:
        for layer in (*(part for part in model if isinstance(part, nn.Linear)), model):
            fully_shard(layer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    history = fit(
        model, nn.MSELoss(reduction="none"), optimizer, DataLoader(Plain(21, dtype), batch_size=3, shuffle=True),
        val_loader=DataLoader(Plain(5, dtype), batch_size=2), metrics={"mse": nn.functional.mse_loss}, epochs=3, accumulate=3,
        clip_grad_norm=0.5, ema=0.9, early_stopping=EarlyStopping("mse"), seed=1, max_steps=max_steps, progress=False,
        checkpoint=directory and Checkpointer(directory, every_steps=1000), log=(), device="cpu",
    )  # fmt: skip
    assert all(isinstance(parameter, DTensor) == sharded for parameter in model.parameters())
    whole = [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]
    outputs = predict(model, DataLoader(Plain(5, dtype).inputs, batch_size=3), device="cpu")
    rows = [{key: row[key] for key in ("step", "train_loss", "val_loss", "mse")} for row in history.rows]
    return whole, outputs, rows


def largest_difference(first, second):
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    wait_for_everyone()
    for dtype, limit in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        ddp, fsdp = run(sharded=False, dtype=dtype), run(sharded=True, dtype=dtype)
        difference = largest_difference([*ddp[0], ddp[1]], [*fsdp[0], fsdp[1]])
        assert difference <= limit, difference
        if is_main_process():
            print(f"FSDP2 against DDP in {dtype}: largest difference {difference:.1e}")
    whole = run(sharded=True)
    for cut in range(1, 6):
        run(sharded=True, directory=SHARED / str(cut), max_steps=cut)
        assert same_state(run(sharded=True, directory=SHARED / str(cut)), whole), f"cut after step {cut}"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    model[0].bias.requires_grad_(False)  # written apart from the others
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.02)
    loader = DataLoader(Plain(21), batch_size=3)
    fit(
        model,
        nn.MSELoss(reduction="none"),
        optimizer,
        loader,
        progress=False,
        checkpoint=SHARED / "parts",
        log=(),
        device="cpu",
    )
    weights = Checkpointer.weights(SHARED / "parts")
    for name, parameter in model.named_parameters():
        assert torch.equal(weights[name], parameter.full_tensor()), name
    if is_main_process():
        print("a sharded run resumes to the same bits from every step")
