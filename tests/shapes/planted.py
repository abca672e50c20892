"""Thirty further mistakes: results that depend on the place in the batch, on its size, or on the values of others.

Each is a `forward` whose wrong line ends with `# BUG`, with the layers of its model, its inputs, and whether the finding may be
of another kind than the group: what depends on the size often depends on the place as well.
"""

import torch
import torch.nn.functional as F
from tests.shapes.foreign import Net, linear, real, with_lengths
from torch import nn

LAYERS = {"a": linear(8, 8), "b": linear(8, 4)}
X = real((6, 8))  # (B, T, C)


# --- the place in the batch --------------------------------------------------------------------------------------------
def positions_by_batch(net, x):
    h = net.a(x)
    h = h + net.table[: h.size(0), None]  # BUG
    return net.b(h)


def rank_in_batch(net, x):
    h = net.a(x)
    h = h + torch.arange(h.size(0), dtype=h.dtype)[:, None, None]  # BUG
    return net.b(h)


def ramp(net, x):
    h = net.a(x)
    scale = torch.linspace(0.5, 1.5, h.size(0))
    h = h * scale[:, None, None]  # BUG
    return net.b(h)


def first_is_special(net, x):
    h = net.a(x)
    h = torch.cat([h[:1] * 2, h[1:]])  # BUG
    return net.b(h)


def last_is_dropped(net, x):
    h = net.a(x)
    h = torch.cat([h[:-1], torch.zeros_like(h[-1:])])  # BUG
    return net.b(h)


def every_other(net, x):
    h = net.a(x)
    sign = 1 - 2 * (torch.arange(len(h)) % 2)
    h = h * sign[:, None, None]  # BUG
    return net.b(h)


def causal_over_batch(net, x):
    h = net.a(x).mean(1)
    mask = torch.ones(len(h), len(h)).tril()
    h = mask @ h / 3  # BUG
    return net.b(h)


def rolled(net, x):
    h = net.a(x)
    h = h - h.roll(1, 0)  # BUG
    return net.b(h)


def embedded_place(net, x):
    h = net.a(x)
    h = h + net.embed(torch.arange(len(h)))[:, None]  # BUG
    return net.b(h)


def noise_by_place(net, x):
    h = net.a(x)
    g = torch.Generator().manual_seed(0)
    h = h + torch.randn(h.size(0), 1, 1, generator=g)  # BUG
    return net.b(h)


# --- the size of the batch ----------------------------------------------------------------------------------------------
def divided_by_size(net, x):
    h = net.a(x)
    h = h / h.size(0)  # BUG
    return net.b(h)


def temperature(net, x):
    h = net.a(x)
    scores = (h @ h.transpose(1, 2)) / len(h) ** 0.5  # BUG
    return net.b(scores.softmax(-1) @ h)


def length_taken_from_batch(net, x):
    h = net.a(x)
    h = h.sum(1) / h.shape[0]  # BUG
    return net.b(h)


def size_as_feature(net, x):
    h = net.a(x)
    h = h + torch.full_like(h, len(h)).log()  # BUG
    return net.b(h)


def only_large_batches(net, x):
    h = net.a(x)
    if h.size(0) > 1:  # BUG
        h = h - h.mean(1, keepdim=True)
    return net.b(h)


def dropout_by_size(net, x):
    h = net.a(x)
    h = h * (1 - 1 / (1 + h.size(0)))  # BUG
    return net.b(h)


def sharpened(net, x):
    h = net.a(x)
    h = (h * len(x)).softmax(-1)  # BUG
    return net.b(h)


def padded_to_eight(net, x):
    h = net.a(x)
    h = h * (8 - len(h))  # BUG
    return net.b(h)


def steps_by_batch(net, x):
    h = net.a(x)
    for _ in range(x.size(0)):
        h = torch.tanh(net.a(h))  # BUG
    return net.b(h)


def clipped_norm(net, x):
    h = net.a(x)
    h = h * torch.rsqrt(h.square().sum() + 1)  # BUG
    return net.b(h)


# --- the values of others ------------------------------------------------------------------------------------------------
def centred(net, x):
    h = net.a(x)
    h = h - h.mean(0)  # BUG
    return net.b(h)


def scaled_by_greatest(net, x):
    h = net.a(x)
    h = h / h.abs().max()  # BUG
    return net.b(h)


def softmax_over_batch(net, x):
    h = net.a(x)
    h = h.softmax(0)  # BUG
    return net.b(h)


def padded_to_longest(net, x, lengths):
    h = net.a(x)
    h = h.sum(1) / lengths.max()  # BUG
    return net.b(h)


def masked_by_total(net, x, lengths):
    mask = torch.arange(7) < lengths[:, None]
    h = net.a(x) * mask[..., None]
    h = h.sum(1) / mask.sum()  # BUG
    return net.b(h)


def threshold_of_batch(net, x):
    h = net.a(x)
    h = torch.where(h > h.median(), h, 0.0)  # BUG
    return net.b(h)


def nearest_in_batch(net, x):
    h = net.a(x).mean(1)
    weights = F.softmax(h @ h.T, -1)  # BUG
    return net.b(weights @ h)


def top_of_batch(net, x):
    h = net.a(x)
    level = h.flatten().topk(5).values[-1]  # BUG
    return net.b(h.clamp(max=level))


def quantile_of_batch(net, x):
    h = net.a(x)
    h = h / torch.quantile(h.abs(), 0.9)  # BUG
    return net.b(h)


def standardised(net, x):
    h = net.a(x)
    h = F.batch_norm(h.transpose(1, 2), None, None, training=True)  # BUG
    return net.b(h.transpose(1, 2))


def planted(forward, inputs=X, width=8, **layers):
    made = {name: make() for name, make in {"a": linear(width, 8), "b": linear(8, 4), **layers}.items()}
    return Net(forward, **made), inputs


PLACE = [
    positions_by_batch, rank_in_batch, ramp, first_is_special, last_is_dropped, every_other, causal_over_batch, rolled,
    embedded_place, noise_by_place,
]  # fmt: skip
SIZE = [
    divided_by_size, temperature, length_taken_from_batch, size_as_feature, only_large_batches, dropout_by_size, sharpened,
    padded_to_eight, steps_by_batch, clipped_norm,
]  # fmt: skip
VALUES = [
    centred, scaled_by_greatest, softmax_over_batch, padded_to_longest, masked_by_total, threshold_of_batch, nearest_in_batch,
    top_of_batch, quantile_of_batch, standardised,
]  # fmt: skip
EXTRA = {
    positions_by_batch: {"table": lambda: nn.Parameter(torch.randn(50, 8))},
    embedded_place: {"embed": lambda: nn.Embedding(50, 8)},
    padded_to_longest: {"inputs": with_lengths, "width": 6},
    masked_by_total: {"inputs": with_lengths, "width": 6},
}
BUGS = {
    forward.__name__: lambda forward=forward: planted(forward, **EXTRA.get(forward, {}))
    for forward in PLACE + SIZE + VALUES
}
