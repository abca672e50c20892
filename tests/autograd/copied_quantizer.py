"""The quantiser that goes around among CSI-feedback projects, in its arithmetic: held beside ours, right and wrong alike."""

import numpy as np
import torch
from torch.autograd import Function


def copied_num2bit(x, bits):
    code = torch.round(x * 2**bits - 0.5).to(torch.uint8)
    rows = np.unpackbits(code.numpy()[..., None], axis=-1).reshape(*code.shape, 8)
    return torch.from_numpy(rows[..., 8 - bits :].reshape(*code.shape[:-1], -1).copy()).float()


def copied_bit2num(b, bits):
    digits = b.reshape(*b.shape[:-1], -1, bits)
    number = sum(digits[..., i] * 2 ** (bits - 1 - i) for i in range(bits))
    return (number + 0.5) / 2**bits


class CopiedQuantize(Function):
    @staticmethod
    def forward(ctx, x, bits):
        ctx.bits = bits
        return copied_num2bit(x, bits)

    @staticmethod
    def backward(ctx, grad):
        return grad.reshape(*grad.shape[:-1], -1, ctx.bits).sum(-1), None  # without / bits; both go around
