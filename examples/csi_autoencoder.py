"""Channel feedback in bits: an auto-encoder with a quantiser in the middle, and its error against the number of bits.

A phone sees the channel between the antennas of a base station and itself, 32 angles by 16 delays, and has to report it: the
encoder turns it into 64 numbers, each is sent as B bits, and the decoder restores the matrix. One call sets the weights by rule.
For each B the model is trained with the quantiser in the middle, where `encode_bits` and `decode_bits` let the gradient
pass; it is compared with a model that was trained without a quantiser and quantised afterwards.

    python examples/csi_autoencoder.py [picture.png] [steps]
"""

import math
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import linkboy as lb

ANTENNAS, SUBCARRIERS, DELAYS = 32, 128, 16
BITS = (1, 2, 4, 8)


def convolution(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.3))


class Refine(nn.Module):
    """Clean each entry of a matrix by what surrounds it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(convolution(2, 8), convolution(8, 16), nn.Conv2d(16, 2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class CsiAutoEncoder(nn.Module):
    """(N, 2, 32, 16), real and imaginary part, to the same by way of 64 numbers in (0, 1) of `bits` bits each."""

    def __init__(self, feedback: int = 64) -> None:
        super().__init__()
        shape = (2, ANTENNAS, DELAYS)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), feedback), nn.BatchNorm1d(feedback))
        self.decoder = nn.Sequential(
            nn.BatchNorm1d(feedback), nn.Linear(feedback, math.prod(shape)), nn.Unflatten(1, shape), Refine()
        )

    def forward(self, x: Tensor, bits: int | None = None) -> Tensor:
        feedback = torch.sigmoid(self.encoder(x))
        if bits is not None:
            sent = lb.encode_bits(feedback, bits=bits)  # (N, 64 * bits), zeros and ones
            feedback = lb.decode_bits(sent, bits=bits)
        return self.decoder(feedback)


RULES = [
    lb.Rule(nn.Conv2d, "weight", nn.init.kaiming_normal_, a=0.3),
    lb.Rule(nn.Linear, "weight", nn.init.xavier_uniform_),
    lb.Rule(nn.BatchNorm1d, "weight", 1),
    lb.Rule(nn.BatchNorm2d, "weight", 1),
    lb.Rule("*.bias", init=0),
]


def channels(count: int, seed: int) -> Tensor:
    """Return `(count, 2, 32, 16)`: the channels of one site, angle by delay, each of mean square 1.

    Four clusters of eight rays arrive from directions and after delays that the buildings around the antenna set and that
    shift a little from place to place; their gains are random, and weaker the later they come.
    """
    site, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    clusters, rays = 4, 8
    from_angle = 2 * torch.rand(clusters, 1, generator=site) - 1  # sine of the angle of arrival
    after = 10 * torch.rand(clusters, 1, generator=site)  # in samples

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    sine = (from_angle + 0.02 * normal(clusters, 1) + 0.01 * normal(clusters, rays)).flatten(1)
    delay = (after + 0.3 * normal(clusters, 1).abs() + 0.2 * normal(clusters, rays).abs()).flatten(1)
    gain = torch.complex(normal(clusters * rays), normal(clusters * rays)) * torch.exp(-delay / 6)
    by_antenna = torch.exp(1j * math.pi * sine[..., None] * torch.arange(ANTENNAS))  # (count, clusters * rays, 32)
    by_frequency = torch.exp(-2j * math.pi * delay[..., None] * torch.arange(SUBCARRIERS) / SUBCARRIERS)
    channel = torch.einsum("nr,nra,nrk->nak", gain, by_antenna, by_frequency)
    angle_delay = torch.fft.ifft(torch.fft.fft(channel, dim=1), dim=2)[..., :DELAYS]
    parts = torch.stack([angle_delay.real, angle_delay.imag], 1)
    return parts / parts.square().mean((1, 2, 3), keepdim=True).sqrt()


def train(x: Tensor, bits: int | None, steps: int) -> CsiAutoEncoder:
    """Train on the mean squared error, with so many bits per number in the middle or without a quantiser."""
    torch.manual_seed(0)
    model = CsiAutoEncoder()
    lb.initialize(model, RULES, on_unmatched="raise", generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps)
    for _ in range(steps):
        batch = x[torch.randint(len(x), (32,))]
        optimizer.zero_grad()
        F.mse_loss(model(batch, bits), batch).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def nmse_db(model: CsiAutoEncoder, x: Tensor, bits: int | None) -> float:
    """Return the energy of the error over that of the channel, in decibels; zeros in place of the channel give 0."""
    error = (model(x, bits) - x).square().sum((1, 2, 3)) / x.square().sum((1, 2, 3))
    return 10 * math.log10(error.mean().item())


def draw(path: str, curves: dict[str, list[float]], unquantized: float) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, values in curves.items():
        axes.plot(BITS, values, marker="o", label=name)
    axes.axhline(unquantized, color="gray", linestyle="--", label="no quantiser at all")
    axes.set(xlabel="bits per number (64 numbers)", ylabel="NMSE, dB", xticks=BITS)
    axes.legend()
    figure.savefig(path, dpi=120)


def main(picture: str | None = None, steps: int = 600) -> None:
    x, x_test = channels(4096, seed=1), channels(512, seed=2)
    plain = train(x, None, steps)
    curves = {
        "quantiser in training": [nmse_db(train(x, bits, steps), x_test, bits) for bits in BITS],
        "quantised afterwards": [nmse_db(plain, x_test, bits) for bits in BITS],
    }
    unquantized = nmse_db(plain, x_test, None)
    print(f"NMSE in dB at {', '.join(map(str, BITS))} bits per number; {unquantized:.2f} without a quantiser")
    for name, values in curves.items():
        print(f"  {name:22} {'  '.join(f'{value:6.2f}' for value in values)}")
    if picture:
        draw(picture, curves, unquantized)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
