"""One of two processes of `test_processes.py`: trains a partly frozen embedding under DistributedDataParallel.

Called as `gloo_worker.py RANK FOLDER`; leaves the state dict of its model.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from linkboy import PretrainedEmbedding

ROWS, DIM, STEPS = 20, 4, 30
FROZEN = torch.tensor([True, False] * (ROWS // 2))


def make_model(seed: int, *, sparse: bool) -> nn.Module:
    torch.manual_seed(seed)
    embedding = PretrainedEmbedding(ROWS, DIM, freeze=FROZEN, padding_idx=1, sparse=sparse)
    return nn.Sequential(embedding, nn.Linear(DIM, 3))


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    # In some steps one process sees frozen rows alone.
    ids = torch.randint(ROWS // 2, (8,), generator=generator) * 2 + (0 if rank == step % 3 else 1)
    return ids, torch.randint(3, (8,), generator=generator)


def train(model: nn.Module, batches, *, sparse: bool) -> None:
    loss_function = nn.CrossEntropyLoss()
    parameters = list(model.parameters())
    dense = [parameter for parameter in parameters if parameter.dim() != 2 or parameter.shape[0] == 3]
    of_rows = [parameter for parameter in parameters if not any(parameter is other for other in dense)]
    optimizers = [torch.optim.AdamW(dense, lr=0.05, weight_decay=0.1)]
    optimizers.append(
        torch.optim.SGD(of_rows, lr=0.1) if sparse else torch.optim.AdamW(of_rows, lr=0.05, weight_decay=0.1)
    )
    for ids, target in batches:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_function(model(ids), target).backward()
        for optimizer in optimizers:
            optimizer.step()


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    for sparse in (False, True):
        model = make_model(
            seed=rank, sparse=sparse
        )  # different at first: DDP takes the rows of rank 0, frozen ones too
        wrapped = DistributedDataParallel(model)
        train(wrapped, [batch(step, rank) for step in range(STEPS)], sparse=sparse)
        torch.save(model.state_dict(), folder / f"rank{rank}-{sparse}.pt")
    dist.barrier()  # a process that leaves while the other still talks to it can bring that one down
    dist.destroy_process_group()
