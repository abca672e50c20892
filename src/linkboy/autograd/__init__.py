"""Gradient operators, a bit quantiser, and one call that proves an operator right."""

from linkboy.autograd.bits import decode_bits as decode_bits
from linkboy.autograd.bits import encode_bits as encode_bits
from linkboy.autograd.check import check_op as check_op
from linkboy.autograd.clip import clip_gradient as clip_gradient
from linkboy.autograd.quantize import quantize_uniform as quantize_uniform
from linkboy.autograd.report import OpReport as OpReport
from linkboy.autograd.scale import GradientReversal as GradientReversal
from linkboy.autograd.scale import gradient_reversal as gradient_reversal
from linkboy.autograd.scale import scale_gradient as scale_gradient
from linkboy.autograd.straight_through import straight_through as straight_through
