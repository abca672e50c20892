"""A capsule network on handwritten digits: 5 splits, and a picture of what the decoder draws from one capsule.

    pip install linkboy scikit-learn
    python examples/capsnet_digits.py digits.png

Of scikit-learn's 1,797 digits of 8 x 8 pixels a quarter is held out. The picture shows what
the decoder draws from the capsule of one class, and what changes when the first entry of that capsule is moved.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

import linkboy as lb


def load() -> tuple[Tensor, Tensor]:
    """Images `(N, 1, 10, 10)` from 0 to 1, with a border of one pixel, and their digits."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    return F.pad(images, (1, 1, 1, 1)), torch.tensor(digits)


def shift(images: Tensor) -> Tensor:
    """Move each image by up to one pixel."""
    batch, _, rows, columns = images.shape
    padded = F.pad(images, (1, 1, 1, 1)).squeeze(1)
    down, right = torch.randint(3, (2, batch, 1, 1))
    which = torch.arange(batch).view(-1, 1, 1)
    return padded[which, torch.arange(rows).view(1, -1, 1) + down, torch.arange(columns) + right].unsqueeze(1)


def train(images: Tensor, target: Tensor, seed: int, epochs: int) -> lb.CapsNet:
    torch.manual_seed(seed)
    model = lb.CapsNet((1, 10, 10), 10, channels=64, primary_capsules=16, kernel_size=3, stride=2, decoder=(128, 256))
    optimizer = torch.optim.Adam(model.parameters())
    batches = -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            seen = shift(images[rows])
            lengths, _, drawn = model(seen, reconstruct=True, target=target[rows])
            loss = lb.margin_loss(lengths, target[rows]) + 0.1 * F.mse_loss(drawn, seen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


@torch.no_grad()
def draw(model: lb.CapsNet, images: Tensor, path: str) -> None:
    """Save originals, drawings, and drawings with one entry of the capsule moved."""
    from matplotlib import pyplot as plt

    lengths, poses, drawn = model(images, reconstruct=True)
    found = lengths.argmax(1)
    moved = []
    for step in (-0.2, -0.1, 0.1, 0.2):
        turned = poses.clone()
        turned[..., 0] += step
        moved.append(model.reconstruct(turned, found))
    lines = {"digit": images, "drawn": drawn} | dict(zip(("-0.2", "-0.1", "+0.1", "+0.2"), moved, strict=True))
    figure, axes = plt.subplots(len(lines), len(images), figsize=(len(images), len(lines)), layout="constrained")
    for row, (name, pictures) in zip(axes, lines.items(), strict=True):
        row[0].set_ylabel(name)
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture.squeeze(0).numpy(), cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", help="where to draw the reconstructions")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=25)
    arguments = parser.parse_args()
    images, digits = load()
    scores, start = [], time.perf_counter()
    for seed in range(arguments.seeds):
        fit, held_out = train_test_split(torch.arange(len(digits)), test_size=0.25, stratify=digits, random_state=seed)
        model = train(images[fit], digits[fit], seed, arguments.epochs)
        with torch.no_grad():
            right = model(images[held_out]).argmax(1) == digits[held_out]
        scores.append(100 * right.float().mean().item())
    seconds = (time.perf_counter() - start) / len(scores)
    print(f"accuracy {sum(scores) / len(scores):.2f}% (mean of {', '.join(f'{s:.2f}' for s in scores)})")
    print(f"{seconds:.0f} s per split on {torch.get_num_threads()} threads")
    if arguments.picture:
        draw(model, images[held_out][:10], arguments.picture)


if __name__ == "__main__":
    main()
