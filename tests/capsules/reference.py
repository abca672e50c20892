"""Routing by agreement written from its definition, with the predictions built, and two faults that people copy."""

import torch


def squash(s):
    n2 = (s * s).sum(-1, keepdim=True)
    return s * n2.sqrt() / (1 + n2)


def route(weight, x, iters, grad, *, softmax_over="output", average=False):
    """(R, C, O, I), (B, R, I) -> (B, C, O), from the predictions `u[b, r, c] = weight[r, c] @ x[b, r]`."""
    u = torch.einsum("rcoi,bri->brco", weight, x)
    inner = u.detach() if grad == "last" else u
    axis = {"output": 2, "input": 1}[softmax_over]
    logits = u.new_zeros(u.shape[:3])
    for _ in range(iters - 1):
        v = squash(torch.einsum("brc,brco->bco", logits.softmax(axis), inner))
        grown = torch.einsum("brco,bco->brc", inner, v)
        logits = logits + (grown.mean(0, keepdim=True) if average else grown)
    return squash(torch.einsum("brc,brco->bco", logits.softmax(axis), u))
