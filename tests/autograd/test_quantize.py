"""quantize_uniform, encode_bits, decode_bits: half a cell at most, every code back, a gradient of one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.autograd.copied_quantizer import CopiedQuantize, copied_bit2num
from torch.func import grad, hessian, jacfwd, jvp, vmap

from linkboy import decode_bits, encode_bits, quantize_uniform

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning")
RANGES = [(0.0, 1.0), (-1.0, 1.0), (-3.5, -2.25), (1e-6, 3e-6), (-1000.0, 24.0)]
DTYPES = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23, torch.float64: 24}  # to its longest round trip


def oracle_codes(x: np.ndarray, bits: int, low: float, high: float) -> np.ndarray:
    cells = np.floor((x.astype(np.float64) - low) / (high - low) * 2**bits)
    return np.clip(cells, 0, 2**bits - 1).astype(np.int64)


def oracle_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """The bits of integers as NumPy unpacks them from four big-endian bytes."""
    rows = np.unpackbits(codes.astype(">u4")[..., None].view(np.uint8), axis=-1)
    return rows[..., 32 - bits :].reshape(*codes.shape[:-1], -1)


# --- values ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 17))
def test_the_largest_error_is_exactly_half_a_cell_ends_included(bits):
    x = torch.linspace(0, 1, 4097, dtype=torch.float64)
    edges = torch.arange(0, 2**bits + 1, max(1, 2**bits // 512), dtype=torch.float64) / 2**bits
    x = torch.cat([x, edges, edges.nextafter(torch.tensor(2.0).double()), edges.nextafter(torch.tensor(-1.0).double())])
    x = x[(x >= 0) & (x <= 1)]
    error = (quantize_uniform(x, bits=bits) - x).abs().max().item()
    assert error == 0.5 / 2**bits
    single = torch.linspace(0, 1, 4097)
    assert (quantize_uniform(single, bits=bits) - single).abs().max().item() == 0.5 / 2**bits


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("bits", [1, 3, 8, 13])
def test_values_are_those_of_numpy_in_float64(bits, low, high):
    width = high - low
    x = torch.linspace(low - width / 5, high + width / 5, 4097, dtype=torch.float64)
    codes = oracle_codes(x.numpy(), bits, low, high)
    assert np.array_equal(
        quantize_uniform(x, bits=bits, low=low, high=high).numpy(), low + (codes + 0.5) / 2**bits * width
    )
    assert np.array_equal(encode_bits(x, bits=bits, low=low, high=high).numpy(), oracle_bits(codes, bits))


@pytest.mark.parametrize("bits", [1, 2, 5, 10])
def test_both_sides_of_every_edge_fall_into_their_own_cells(bits):
    edges = torch.arange(1, 2**bits) / 2**bits
    codes = torch.arange(1, 2**bits)
    for x, expected in ((edges, codes), (edges.nextafter(torch.tensor(0.0)), codes - 1)):
        assert np.array_equal(encode_bits(x, bits=bits).numpy(), oracle_bits(expected.numpy(), bits))


def test_a_number_just_below_an_edge_is_not_rounded_over_it():
    x = torch.tensor([-1e-9])
    assert encode_bits(x, bits=4, low=-1.0, high=1.0).tolist() == [0.0, 1.0, 1.0, 1.0]
    assert quantize_uniform(x, bits=1, low=-1.0, high=1.0).item() == -0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_lies_outside_saturates_and_sigmoid_17_stays_large(dtype):
    x = torch.tensor([-math.inf, -0.02, 0.0, 1.0, 1.05, math.inf, torch.tensor(17.0).sigmoid()], dtype=dtype)
    for bits in range(1, 7):
        least, most = 0.5 / 2**bits, 1 - 0.5 / 2**bits
        y = quantize_uniform(x, bits=bits)
        assert y.dtype == dtype
        assert y.tolist() == [least] * 3 + [most] * 4
        assert encode_bits(x, bits=bits).view(7, bits).sum(1).tolist() == [0] * 3 + [bits] * 4


@pytest.mark.parametrize(("dtype", "longest"), DTYPES.items())
def test_round_trips_reach_as_far_as_the_mantissa(dtype, longest):
    for bits in range(1, longest + 1):
        codes = torch.arange(2**bits) if bits <= 12 else torch.randint(2**bits, (4096,))
        hard = torch.from_numpy(oracle_bits(codes.numpy(), bits)).to(dtype)
        value = decode_bits(hard, bits=bits)
        assert value.dtype == dtype
        assert torch.equal(encode_bits(value, bits=bits), hard)
        assert torch.equal(quantize_uniform(value, bits=bits), value)


@pytest.mark.parametrize(("dtype", "longest"), list(DTYPES.items())[:3])
def test_the_limit_of_the_round_trip_is_where_it_is_said_to_be(dtype, longest):
    bits = longest + 1
    codes = torch.arange(2**bits - 4096 if bits > 12 else 0, 2**bits)
    hard = torch.from_numpy(oracle_bits(codes.numpy(), bits)).to(dtype)
    assert not torch.equal(encode_bits(decode_bits(hard, bits=bits), bits=bits), hard)
    wide = decode_bits(hard, bits=bits, dtype=torch.float64)
    assert torch.equal(encode_bits(wide, bits=bits).to(dtype), hard)


@given(
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=20),
    st.integers(1, 24),
    st.sampled_from(RANGES[:3]),
    st.sampled_from(list(DTYPES)),
)
def test_decode_of_encode_is_quantize_and_twice_is_once(numbers, bits, bounds, dtype):
    x = torch.tensor(numbers, dtype=dtype)
    low, high = bounds
    code = encode_bits(x, bits=bits, low=low, high=high)
    assert code.dtype == dtype
    assert np.array_equal(code.double().numpy(), oracle_bits(oracle_codes(x.double().numpy(), bits, low, high), bits))
    value = decode_bits(code, bits=bits, low=low, high=high)
    assert torch.equal(value, quantize_uniform(x, bits=bits, low=low, high=high))
    wide = decode_bits(code, bits=bits, low=low, high=high, dtype=torch.float64)
    assert torch.equal(encode_bits(wide, bits=bits, low=low, high=high).to(dtype), code)


def test_leading_dimensions_empty_and_strided_tensors():
    for shape in [(6,), (2, 6), (3, 2, 6), (2, 1, 3, 6), (0, 6), (2, 0), (0,)]:
        x = torch.rand(shape)
        b = encode_bits(x, bits=3)
        assert b.shape == (*shape[:-1], 3 * shape[-1])
        assert torch.equal(decode_bits(b, bits=3), quantize_uniform(x, bits=3))
    x = torch.rand(4, 6)
    for view in (x.T, x[:, ::2], x[:1].expand(4, 6)):
        assert torch.equal(encode_bits(view, bits=5), encode_bits(view.contiguous(), bits=5))
        assert torch.equal(decode_bits(encode_bits(view, bits=5), bits=5), quantize_uniform(view, bits=5))
    assert quantize_uniform(torch.tensor(0.3), bits=2).item() == 0.375
    assert decode_bits(encode_bits(x.to("meta"), bits=3), bits=3).shape == (4, 6)


def test_soft_bits_are_weighed_by_their_place_and_hard_bits_may_be_of_any_dtype():
    soft = torch.tensor([0.25, 0.5, 1.0])
    assert decode_bits(soft, bits=3).item() == (4 * 0.25 + 2 * 0.5 + 1 + 0.5) / 8
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64):
        value = decode_bits(torch.tensor([1, 0, 1], dtype=dtype), bits=3)
        assert value.dtype == torch.float32
        assert value.item() == 5.5 / 8


# --- beside the copied quantiser -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_inside_and_up_to_4_bits_the_copied_quantiser_agrees(bits):
    x = (torch.arange(400).reshape(20, 20) + 0.37) / 400.5
    copied = CopiedQuantize.apply(x, bits)
    assert torch.equal(encode_bits(x, bits=bits), copied)
    assert torch.equal(decode_bits(copied, bits=bits), copied_bit2num(copied, bits))


def test_the_copied_quantiser_flips_the_most_confident_feature_to_the_least():
    x = torch.tensor([17.0]).sigmoid()
    assert copied_bit2num(CopiedQuantize.apply(x, 4), 4).item() == 0.03125
    assert decode_bits(encode_bits(x, bits=4), bits=4).item() == 0.96875


# --- gradients -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 4, 12, 24])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_1_from_end_to_end(bits, dtype):
    x = torch.tensor([[-0.5, 0.0, 0.3], [0.99, 1.0, 7.0]], dtype=dtype, requires_grad=True)
    ends = (lambda x: decode_bits(encode_bits(x, bits=bits), bits=bits), lambda x: quantize_uniform(x, bits=bits))
    tolerance = {torch.float16: 2e-2, torch.bfloat16: 1e-1}.get(dtype, 1e-5)  # 24 copies of 1/24 are added up
    for op in ends:
        (g,) = torch.autograd.grad(op(x).sum(), x)
        assert torch.allclose(g, torch.ones_like(x), rtol=tolerance)


def test_outside_the_gradient_passes_or_is_zero():
    x = torch.tensor([-math.inf, -0.1, 0.0, 0.5, 1.0, 1.1, math.inf], requires_grad=True)
    for outside, expected in (("pass", [1.0] * 7), ("zero", [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])):
        y = quantize_uniform(x, bits=3, outside=outside)
        assert torch.autograd.grad(y.sum(), x)[0].tolist() == expected


def test_encode_takes_the_mean_over_the_bits_and_decode_repeats():
    x = torch.tensor([0.3, 0.6], requires_grad=True)
    (g,) = torch.autograd.grad(encode_bits(x, bits=3), x, torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0]))
    assert torch.allclose(g, torch.tensor([3.0, 1.0]))
    b = torch.tensor([0.0, 1.0, 1.0, 0.0], requires_grad=True)
    (g,) = torch.autograd.grad(decode_bits(b, bits=2), b, torch.tensor([5.0, 7.0]))
    assert g.tolist() == [5.0, 5.0, 7.0, 7.0]


OPERATORS = {
    "quantize": lambda x: quantize_uniform(x, bits=4, outside="zero"),
    "encode and decode": lambda x: decode_bits(encode_bits(x, bits=4), bits=4),
}
each_operator = pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS)


@each_operator
def test_every_transform_sees_the_quantised_value_and_a_gradient_of_one(op):
    x = torch.rand(3, 4, dtype=torch.float64)
    y = quantize_uniform(x, bits=4)

    def squares(x):
        return (op(x) ** 2).sum()

    assert torch.allclose(grad(squares)(x), 2 * y)
    assert torch.allclose(vmap(vmap(grad(lambda x: op(x[None]).sum() ** 2)))(x), 2 * y)
    assert torch.equal(vmap(op)(x), y)
    value, tangent = jvp(op, (x,), (x,))
    assert torch.equal(value, y)
    assert torch.allclose(tangent, x)
    assert torch.allclose(jacfwd(op)(x[0]), torch.eye(4, dtype=torch.float64))
    assert torch.allclose(hessian(squares)(x[0]), 2 * torch.eye(4, dtype=torch.float64))
    (x := x.requires_grad_()).grad = None
    (once,) = torch.autograd.grad(squares(x), x, create_graph=True)
    assert torch.allclose(torch.autograd.grad(once.sum(), x)[0], torch.full_like(x, 2))


@each_operator
def test_compiles_without_a_graph_break_static_and_dynamic(op):
    torch._dynamo.reset()
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((3, 4), (5, 2)):
        x = torch.rand(shape, requires_grad=True)
        assert torch.equal(compiled(x), op(x))
        assert torch.allclose(torch.autograd.grad(compiled(x).sum(), x)[0], torch.ones(shape))


@each_operator
def test_autocast_changes_nothing(op):
    x = torch.rand(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(op(x), quantize_uniform(x, bits=4))


def test_nan_in_a_compiled_function_stays_nan_or_becomes_the_bits_of_low():
    torch._dynamo.reset()
    x = torch.tensor([math.nan, 0.9])
    compiled = torch.compile(lambda x: (quantize_uniform(x, bits=2), encode_bits(x, bits=2)), backend="eager")
    value, code = compiled(x)
    assert value.isnan().tolist() == [True, False]
    assert code.tolist() == [0.0, 0.0, 1.0, 1.0]


# --- messages ----------------------------------------------------------------------------------------------------------------

X = torch.rand(4)
MISTAKES = [
    (lambda: quantize_uniform(X, bits=0), ValueError, "bits must be an integer of at least 1 and of at most 24, got 0"),
    (lambda: encode_bits(X, bits=25), ValueError, "bits must be an integer of at least 1 and of at most 24, got 25"),
    (lambda: decode_bits(X, bits=2.5), TypeError,
     "bits must be an integer of at least 1 and of at most 24, got 2.5 of type float"),
    (lambda: quantize_uniform(X, bits=2, low=1.0), ValueError, "high must be above low, got low=1.0 and high=1.0"),
    (lambda: quantize_uniform(X, bits=2, high=math.inf), ValueError, "high must be a number, got inf"),
    (lambda: quantize_uniform(X, bits=2, outside="stop"), ValueError,
     "outside must be one of ('pass', 'zero'), got 'stop'"),
    (lambda: quantize_uniform(torch.tensor([3]), bits=2), TypeError,
     "x must be a floating point tensor, got i64[1]; convert it with .float()"),
    (lambda: quantize_uniform(torch.tensor([[0.1, math.nan]]), bits=2), ValueError,
     "x must not hold NaN, which lies in no cell, got one at [0, 1]"),
    (lambda: encode_bits(torch.tensor(math.nan), bits=2), ValueError,
     "x must not hold NaN, which lies in no cell, got one"),
    (lambda: quantize_uniform(X.half(), bits=2, high=1e6), ValueError,
     "low and high must be within torch.float16 (at most 65504), got low=0.0 and high=1000000.0; use a wider dtype"),
    (lambda: encode_bits(torch.tensor(0.5), bits=2), ValueError,
     "x must have at least one dimension, along which its bits are laid out; use x.reshape(1)"),
    (lambda: decode_bits(X[:3], bits=2), ValueError,
     "b must have a last dimension that is a multiple of bits (2), got shape (3,)"),
    (lambda: decode_bits(X.sum(), bits=2), ValueError,
     "b must have a last dimension that is a multiple of bits (2), got shape ()"),
    (lambda: decode_bits([1, 0], bits=2), TypeError, "b must be a tensor of bits, got list"),
    (lambda: decode_bits(torch.tensor([-2.0, 3.0]), bits=2), ValueError,
     "b must hold numbers from 0 to 1, got -2 to 3; pass logits through torch.sigmoid"),
    (lambda: decode_bits(X, bits=2, dtype=torch.int64), TypeError,
     "dtype must be a floating point dtype such as torch.float32, got torch.int64"),
    (lambda: decode_bits(X, bits=2, dtype="float32"), TypeError,
     "dtype must be a floating point dtype such as torch.float32, got 'float32'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
def test_messages(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
