"""`assert_shape`: axes bound across tensors and calls, and the text of every refusal."""

import dataclasses
import importlib
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linkboy import assert_shape

axes = importlib.import_module("linkboy.shapes.assert_shape")  # the name of the file is that of its function


def test_names_bind_sizes_across_tensors_and_calls():
    x, y = torch.zeros(4, 7, 3), torch.zeros(4)
    sizes = assert_shape(x, "b t 3", y=(y, "b"))
    assert sizes == {"b": 4, "t": 7}
    assert assert_shape(torch.zeros(7, 4, 9), "t b c", **sizes) == {"b": 4, "t": 7, "c": 9}
    assert assert_shape(x, "b t c", b=4, t=None) == {"b": 4, "t": 7, "c": 3}


def test_free_dims():
    x = torch.zeros(4, 7, 3)
    assert assert_shape(x, "b _ _") == {"b": 4}
    assert assert_shape(x, "... c") == {"c": 3}
    assert assert_shape(x, "b ... 3") == {"b": 4}
    assert assert_shape(x, "b t c ...") == {"b": 4, "t": 7, "c": 3}
    assert assert_shape(torch.zeros(()), "") == {}
    assert assert_shape(torch.zeros(0, 2, device="meta"), "n 2") == {"n": 0}


@given(st.lists(st.integers(0, 4), max_size=4), st.lists(st.integers(0, 4), max_size=4))
def test_two_shapes_fit_one_spec_exactly_if_they_are_equal(first, second):
    spec = " ".join(f"a{n}" for n in range(len(first)))
    call = [torch.empty(first), spec], {"y": (torch.empty(second), spec)}
    if first == second:
        assert assert_shape(*call[0], **call[1]) == {f"a{n}": size for n, size in enumerate(first)}
    else:
        with pytest.raises(AssertionError):
            assert_shape(*call[0], **call[1])


def test_a_tensor_that_is_not_given_is_not_checked():
    assert assert_shape(torch.zeros(2, 3, 4), "b t _", mask=(None, "b t")) == {"b": 2, "t": 3}
    assert assert_shape(None, "b t") == {}


def test_any_number_of_dims_agree_where_they_have_a_name():
    x = torch.zeros(2, 3, 4)
    assert assert_shape(x, "*batch 4", y=(torch.zeros(2, 3), "*batch")) == {"batch": (2, 3)}
    assert assert_shape(torch.zeros(4), "*batch 4", y=(torch.tensor(1.0), "*batch")) == {"batch": ()}
    sizes = assert_shape(x, "b *rest", y=(torch.zeros(9, 3, 4, 5), "_ *rest k"))
    assert sizes == {"b": 2, "rest": (3, 4), "k": 5}
    assert assert_shape(torch.zeros(3, 4), "*rest", **sizes) == sizes


def test_products_of_sizes():
    x = torch.zeros(4, 14, 21)
    assert assert_shape(x, "b 2*t 3*t", t=7) == {"t": 7, "b": 4}
    assert assert_shape(x, "b 2*t 3*t") == {"b": 4, "t": 7}  # a single unknown factor is found
    assert assert_shape(torch.zeros(24, 2, 3), "b*h*4 b h") == {"b": 2, "h": 3}  # its own dims may name them


def test_arrays_and_fields():
    @dataclasses.dataclass
    class Batch:
        ids: torch.Tensor
        mask: torch.Tensor | None = None

    assert assert_shape(np.zeros((2, 3)), "b t", y=(torch.zeros(3), "t")) == {"b": 2, "t": 3}
    fields = {"ids": "b t", "mask": "b t"}
    assert assert_shape(Batch(torch.zeros(2, 3)), fields) == {"b": 2, "t": 3}
    assert assert_shape({"ids": torch.zeros(2, 3), "mask": torch.ones(2, 3)}, fields) == {"b": 2, "t": 3}
    out = assert_shape(torch.zeros(2), "b", batch=({"inner": Batch(torch.zeros(2, 3))}, {"inner": {"ids": "b t"}}))
    assert out == {"b": 2, "t": 3}
    with pytest.raises(AssertionError) as caught:
        assert_shape(Batch(torch.zeros(2, 3), torch.zeros(2, 4)), fields)
    assert str(caught.value) == "x.mask must be 'b t', got (2, 4): axis t is 4 here but 3 in x.ids (b=2, t=3)"
    with pytest.raises(AssertionError) as caught:
        assert_shape({"ids": torch.zeros(2, 3)}, fields)
    assert str(caught.value) == "x must have 'mask', got dict without it"


SPEC = "must be names, numbers, products such as 2*t, _, ... and *name, separated by spaces"
REFUSED = [
    (["b t 4"], {}, AssertionError, "x must be 'b t 4', got (4, 7, 3): dim 2 must be 4 (b=4, t=7)"),
    (["b b c"], {}, AssertionError, "x must be 'b b c', got (4, 7, 3): axis b is 7 here but 4 in x (b=4)"),
    (["b t 3"], {"y": (torch.zeros(5), "b")}, AssertionError,
     "y must be 'b', got (5,): axis b is 5 here but 4 in x (b=4, t=7)"),
    (["b t 3"], {"t": 9}, AssertionError, "x must be 'b t 3', got (4, 7, 3): axis t is 7 here but 9 as given (t=9, b=4)"),
    (["b t"], {}, AssertionError, "x must be 'b t', got (4, 7, 3): expected 2 dims, got 3"),
    (["a b c d ..."], {}, AssertionError, "x must be 'a b c d ...', got (4, 7, 3): expected at least 4 dims, got 3"),
    (["*s 3"], {"y": (torch.zeros(4, 8), "*s")}, AssertionError,
     "y must be '*s', got (4, 8): axes *s are (4, 8) here but (4, 7) in x (s=(4, 7))"),
    (["b 2*b 3"], {}, AssertionError, "x must be 'b 2*b 3', got (4, 7, 3): dim 1 must be 2*b = 8 (b=4)"),
    (["b 2*t 3"], {}, AssertionError, "x must be 'b 2*t 3', got (4, 7, 3): dim 1 must be a multiple of 2, as 2*t says (b=4)"),
    (["b s*t 3"], {}, ValueError, "the spec of x must name s and t before s*t"),
    (["*s s*3"], {}, ValueError, "the spec of x must name s before s*3"),
    (["b,t,3"], {}, ValueError, f"the spec of x {SPEC}, got 'b,t,3'"),
    (["b t 3"], {"mask": (None, "b,t")}, ValueError, f"the spec of mask {SPEC}, got 'b,t'"),
    (["... b *s"], {}, ValueError, "the spec of x may have ... or *name once, got '... b *s'"),
    ([3], {}, ValueError, f"the spec of x {SPEC}, got 3"),
    (["b t 3"], {"y": ([1], "b")}, TypeError, "y must be a tensor or an array, got list"),
    (["b t 3"], {"b": 1.5}, TypeError,
     "b must be a size, a tuple of sizes, None, or a pair of a tensor and its spec, got float"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_refusals_are_sentences(case):
    positional, keywords, error, message = REFUSED[case]
    with pytest.raises(error) as caught:
        assert_shape(torch.zeros(4, 7, 3), *positional, **keywords)
    assert str(caught.value) == message


def test_under_python_o_nothing_is_checked():
    optimized = {}
    exec(compile(inspect.getsource(axes), axes.__file__, "exec", optimize=1), optimized)
    assert optimized["assert_shape"](torch.zeros(2), "a b c") == {}


def test_a_size_may_be_an_integer_of_numpy():
    assert repr(assert_shape(torch.zeros(2, 3), "b t", b=np.int64(2))) == "{'b': 2, 't': 3}"
    assert repr(assert_shape(torch.zeros(2, 3), "*b", b=(np.int32(2), 3))) == "{'b': (2, 3)}"
    with pytest.raises(AssertionError, match=r"axis b is 2 here but 4 as given \(b=4\)$"):
        assert_shape(torch.zeros(2, 3), "b t", b=np.int64(4))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_of_the_old_layout_has_no_shape_to_check():
    with pytest.raises(TypeError) as caught:
        assert_shape(torch.nested.nested_tensor([torch.zeros(3, 2), torch.zeros(1, 2)]), "a b 2")
    assert str(caught.value) == (
        "x is a nested tensor of the old layout, which has no shape; pad it, or make it with layout=torch.jagged"
    )


def test_a_lazy_parameter_has_no_shape_to_check():
    with pytest.raises(TypeError, match="shape") as caught:
        assert_shape(torch.nn.LazyLinear(2).weight, "a b")
    assert str(caught.value) == "x has no shape yet; run one batch through the model first"
