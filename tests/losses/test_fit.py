"""The losses inside the training loop: their values per sample and the loop's weights make the full batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from linkboy import binary_focal_loss, focal_loss, mse_loss
from linkboy.training import fit

SAMPLES = 11


def focal_by_definition(output: Tensor, target: Tensor) -> Tensor:
    p = output.softmax(1).gather(1, target[:, None]).squeeze(1)
    return -((1 - p) ** 2) * p.log()


def binary_focal_by_definition(output: Tensor, target: Tensor) -> Tensor:
    p = torch.where(target == 1, output.sigmoid(), 1 - output.sigmoid())
    return -((1 - p) ** 2) * p.log()


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0, 1, 1, 0])
ROWS = torch.randn(SAMPLES, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CASES = {
    "focal": (focal_loss, focal_by_definition, LABELS, (SAMPLES,)),
    "binary": (binary_focal_loss, binary_focal_by_definition, (ROWS > 0).long(), (SAMPLES, 1)),
    "squares": (mse_loss, lambda output, target: (output - target) ** 2, ROWS, (SAMPLES, 1)),
}


@pytest.mark.parametrize(("loss", "definition", "target", "shape"), CASES.values(), ids=CASES.keys())
def test_a_step_of_three_uneven_weighted_batches_is_that_of_the_full_batch(
    loss: Callable[..., Tensor], definition: Callable[..., Tensor], target: Tensor, shape: tuple[int, ...]
):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, 5, generator=generator, dtype=torch.float64)
    weight = torch.rand(shape, generator=generator, dtype=torch.float64) * 4
    weight[3] = 0
    model, plain = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()
    plain.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = DataLoader(TensorDataset(inputs, target, weight), batch_size=4)
    by_sample = lambda output, truth: loss(output, truth, reduction="none")  # noqa: E731
    fit(model, by_sample, optimizer, loader, accumulate=3, max_steps=1, seed=0, progress=False)

    values = definition(plain(inputs), target)
    whole = weight.expand_as(values)
    ((whole * values).sum() / whole.sum()).backward()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter -= 0.5 * parameter.grad
    for trained, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-12, atol=1e-12)
