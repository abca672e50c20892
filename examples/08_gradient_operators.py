"""Channel feedback in bits: an auto-encoder with a quantiser in the middle, and its error against the number of bits.

A user terminal sees the channel between the antennas of a base station and itself, a matrix of 32 angles by 32 delays, and
has to report it: the encoder makes 128 numbers of it, each goes out as B bits, and the decoder restores the matrix. The
model and its initialisation are those of `02_initialize_by_rule.py`. It is trained twice: with the quantiser in the middle,
through which `encode_bits` and `decode_bits` let the gradient pass, and without, quantised only when it is done.

    python examples/08_gradient_operators.py [picture.png] [steps] [channels]
"""

import math
import sys
from importlib import import_module

import matplotlib as mpl
import torch
from torch import Tensor, nn

import linkboy as lb

mpl.use("Agg")
tip_2 = import_module("02_initialize_by_rule")  # a name that begins with a digit cannot stand in an import
BITS = (1, 2, 3, 4, 5, 6)
ANTENNAS, SUBCARRIERS, DELAYS = 32, 256, 32


def clustered_channels(count: int, generator: torch.Generator) -> Tensor:
    """Return `(count, 2, 32, 32)`: angle by delay, real and imaginary part, values in (0, 1) around 1/2.

    Five clusters of ten rays arrive from one direction and after one delay each, later ones weaker.
    """
    clusters, rays = 5, 10

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    sine = (2 * uniform(clusters, 1) - 1 + 0.03 * normal(clusters, rays)).flatten(1)
    delay = (0.7 * DELAYS * uniform(clusters, 1) + 0.5 * normal(clusters, rays).abs()).flatten(1)
    gain = torch.complex(normal(clusters * rays), normal(clusters * rays)) * torch.exp(-delay / DELAYS)
    phase = -2j * math.pi * delay[..., None] * torch.arange(SUBCARRIERS) / SUBCARRIERS
    by_antenna = torch.exp(1j * math.pi * sine[..., None] * torch.arange(ANTENNAS))  # (count, rays, antennas)
    channel = torch.einsum("nr,nra,nrk->nak", gain, by_antenna, torch.exp(phase))
    angle_delay = torch.fft.ifft(torch.fft.fft(channel, dim=1), dim=2)[..., :DELAYS]
    parts = torch.stack([angle_delay.real, angle_delay.imag], 1)
    return 0.5 + parts / (2.01 * parts.abs().amax((1, 2, 3), keepdim=True))


def restore(model: nn.Module, x: Tensor, bits: int | None) -> Tensor:
    feedback = torch.sigmoid(model.encoder(x))  # (N, 128), values in (0, 1)
    if bits is not None:
        sent = lb.encode_bits(feedback, bits=bits)  # (N, 128 * bits), zeros and ones
        feedback = lb.decode_bits(sent, bits=bits)
    return torch.sigmoid(model.decoder(feedback))


def train(x: Tensor, *, steps: int, quantize: bool) -> nn.Module:
    """Train on mean squared error; `quantize` draws the number of bits anew in every step."""
    torch.manual_seed(0)
    model = tip_2.CsiAutoEncoder()
    lb.initialize(model, tip_2.RULES, on_unmatched="error", generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        batch = x[torch.randint(len(x), (len(x) // 64,))]
        bits = BITS[step % len(BITS)] if quantize else None
        optimizer.zero_grad()
        lb.mse_loss(restore(model, batch, bits), batch).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def nmse_db(model: nn.Module, x: Tensor, bits: int | None) -> float:
    """Return the energy of the error over that of the channel, in decibels."""
    error = (restore(model, x, bits) - x).square().sum((1, 2, 3))
    return 10 * math.log10((error / (x - 0.5).square().sum((1, 2, 3))).mean().item())


def draw(path: str, curves: dict[str, list[float]], unquantized: float) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, values in curves.items():
        axes.plot(BITS, values, marker="o", label=name)
    axes.axhline(unquantized, color="gray", linestyle="--", label="no quantiser at all")
    axes.set(xlabel="bits per number (128 numbers)", ylabel="NMSE, dB", xticks=BITS)
    axes.legend()
    figure.savefig(path, dpi=120)


def main(picture: str | None = None, steps: int = 1200, channels: int = 4096) -> None:
    generator = torch.Generator().manual_seed(0)
    x, x_test = clustered_channels(channels, generator), clustered_channels(channels // 8, generator)
    models = {"quantiser in training": True, "quantised afterwards": False}
    trained = {name: train(x, steps=steps, quantize=quantize) for name, quantize in models.items()}
    curves = {name: [nmse_db(model, x_test, bits) for bits in BITS] for name, model in trained.items()}
    unquantized = nmse_db(trained["quantised afterwards"], x_test, None)
    print(f"NMSE in dB at {', '.join(map(str, BITS))} bits per number; {unquantized:.2f} without a quantiser")
    for name, values in curves.items():
        print(f"  {name:22} {'  '.join(f'{value:6.2f}' for value in values)}")
    if picture:
        draw(picture, curves, unquantized)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
