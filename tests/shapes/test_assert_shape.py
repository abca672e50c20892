"""`assert_shape`: axes bound across tensors and calls, and the text of every refusal."""

import importlib
import inspect

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


REFUSED = [
    (["b t 4"], {}, AssertionError, "x must be 'b t 4', got (4, 7, 3): dim 2 must be 4"),
    (["b b c"], {}, AssertionError, "x must be 'b b c', got (4, 7, 3): axis b is 7 here but 4 in x"),
    (["b t 3"], {"y": (torch.zeros(5), "b")}, AssertionError, "y must be 'b', got (5,): axis b is 5 here but 4 in x"),
    (["b t 3"], {"t": 9}, AssertionError, "x must be 'b t 3', got (4, 7, 3): axis t is 7 here but 9 as given"),
    (["b t"], {}, AssertionError, "x must be 'b t', got (4, 7, 3): expected 2 dims, got 3"),
    (["a b c d ..."], {}, AssertionError,
     "x must be 'a b c d ...', got (4, 7, 3): expected at least 4 dims, got 3"),
    (["b,t,3"], {}, ValueError, "the spec of x must be names, numbers, _ and ... separated by spaces, got 'b,t,3'"),
    (["... b ..."], {}, ValueError, "the spec of x may have ... once, got '... b ...'"),
    ([3], {}, ValueError, "the spec of x must be names, numbers, _ and ... separated by spaces, got 3"),
    (["b t 3"], {"y": ([1], "b")}, TypeError, "y must be a tensor, got list"),
    (["b t 3"], {"b": 1.5}, TypeError, "b must be a size, None, or a pair of a tensor and its spec, got float"),
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
