"""One of two processes of `test_weighting.py`: three accumulated steps with uneven weights, rank 1 fully ignored once.

Called as `gloo_worker.py RANK FOLDER`; leaves the gradient after each way of training, rank 0 that of the single batch.
"""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from linkboy import focal_loss, mse_loss, weighted_mean

STEPS = 3


def make_model() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3).double()


def batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Two processes times three steps, in the order (step, rank)."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for size in (5, 2, 3, 7, 1, 4):
        inputs = torch.randn(size, 4, generator=generator, dtype=torch.float64)
        target = torch.randint(0, 3, (size,), generator=generator)
        weight = torch.rand(size, generator=generator, dtype=torch.float64) * 9
        made.append((inputs, target, weight))
    made[3][1].fill_(-100)  # rank 1 has nothing to learn in step 1
    return made


def flat_gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def losses_and_weights(model, inputs, target, weight):
    kept = torch.where(target == -100, 0.0, weight)
    return focal_loss(model(inputs), target, reduction="none"), kept


def accumulated(rank: int) -> torch.Tensor:
    model = DistributedDataParallel(make_model())
    mine = batches()[rank::2]
    total = torch.stack([torch.where(target == -100, 0.0, weight).sum() for _, target, weight in mine]).sum()
    dist.all_reduce(total)
    for step, batch in enumerate(mine):
        values, weights = losses_and_weights(model, *batch)
        loss = weighted_mean(values, weights, total=total, group=dist.group.WORLD)
        if step < STEPS - 1:
            with model.no_sync():
                loss.backward()
        else:
            loss.backward()
    return flat_gradient(model)


def one_step(rank: int) -> torch.Tensor:
    model = DistributedDataParallel(make_model())
    joined = [torch.cat(column) for column in zip(*batches()[rank::2], strict=True)]
    values, weights = losses_and_weights(model, *joined)
    weighted_mean(values, weights, group=dist.group.WORLD).backward()
    return flat_gradient(model)


def single_batch() -> torch.Tensor:
    model = make_model()
    inputs, target, weight = (torch.cat(column) for column in zip(*batches(), strict=True))
    focal_loss(model(inputs), target, sample_weight=weight).backward()
    return flat_gradient(model)


def check_a_learned_weight_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        weighted_mean(torch.ones(2), torch.ones(2, requires_grad=True), group=dist.group.WORLD)
    assert str(caught.value) == (
        "weights must not require a gradient under group, which divides by a constant; detach them"
    )


def check_no_rank_may_hang(rank: int) -> None:
    values = torch.full((2,), float(rank), requires_grad=True)
    mean = weighted_mean(values, torch.full((2,), 1.0 - rank), group=dist.group.WORLD)
    mean.backward()
    assert mean.item() == 0
    assert values.grad.tolist() == [1.0, 1.0] if rank == 0 else [0.0, 0.0]
    assert mse_loss(values, values).item() == 0


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    check_a_learned_weight_is_refused()
    check_no_rank_may_hang(rank)
    torch.save({"accumulated": accumulated(rank), "one step": one_step(rank)}, folder / f"rank{rank}.pt")
    if rank == 0:
        torch.save(single_batch(), folder / "single.pt")
    dist.destroy_process_group()
