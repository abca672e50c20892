"""Gradient operators, a bit quantiser, and one call that checks an operator."""

from linkboy.autograd.bits import decode_bits, encode_bits
from linkboy.autograd.check import check_op
from linkboy.autograd.clip import clip_gradient
from linkboy.autograd.quantize import quantize_uniform
from linkboy.autograd.report import OpReport, OpRow
from linkboy.autograd.scale import GradientReversal, gradient_reversal, scale_gradient
from linkboy.autograd.straight_through import straight_through

__all__ = [
    "GradientReversal",
    "OpReport",
    "OpRow",
    "check_op",
    "clip_gradient",
    "decode_bits",
    "encode_bits",
    "gradient_reversal",
    "quantize_uniform",
    "scale_gradient",
    "straight_through",
]
