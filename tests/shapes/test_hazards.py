"""The rules: each fires on its mistake with its text, and stays silent on what is right."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from linkboy import trace_shapes


def found(function, *tensors):
    """Run under a trace and return (code, level) of the hazards, with the advice of the first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch itself
        with trace_shapes(hazards="collect") as trace:
            function(*tensors)
    return [(h.rule, h.level) for h in trace.hazards], trace.hazards[0].advice if trace.hazards else ""


z = torch.zeros
CASES = [
    # the call, its operands, code and level, advice
    (lambda x: x.squeeze(), [z(1, 16, 1)], ("squeeze-no-dim", "warn"),
     "squeeze() without dim removed dims [0, 2] including dim 0 (batch of one?); name the dim, such as squeeze(-1)"),
    (lambda x: torch.squeeze(x), [z(1, 3)], ("squeeze-no-dim", "warn"),
     "squeeze() without dim removed dim 0 (batch of one?); name the dim that you mean, or leave squeeze out if no "
     "other dim is ever of size 1"),
    (lambda x: x.squeeze(), [z(1, 3, 1, 1)], ("squeeze-no-dim", "warn"),
     "squeeze() without dim removed dims [0, 2, 3] including dim 0 (batch of one?); name the dims, such as "
     "squeeze((-2, -1))"),
    (lambda x: x.squeeze(), [z(1, 1)], ("squeeze-no-dim", "warn"),
     "squeeze() without dim removed dims [0, 1] including dim 0 (batch of one?); name the dim, such as squeeze(-1)"),
    (lambda x: x.squeeze_(), [z(4, 1, 3, 1)], ("squeeze-no-dim", "warn"),
     "squeeze() without dim removed dims [1, 3]; name the dims, such as squeeze((-3, -1))"),
    (lambda x: x.squeeze(), [z(4, 1)], ("squeeze-no-dim", "info"),
     "squeeze() without dim removed dim 1; that depends on the sizes, so name the dim"),
    (lambda x: x.squeeze(), [z(4, 3)], ("squeeze-no-dim", "info"),
     "squeeze() without dim removed nothing; that depends on the sizes, so name the dim"),
    (lambda x: x.squeeze(1), [z(2, 4)], ("squeeze-no-op", "warn"),
     "squeeze(1) did nothing, because the size is 4 and not 1; name a dim of size 1, or select an entry with select(dim, index)"),
    (lambda x: torch.squeeze(x, dim=(0, -1)), [z(2, 4)], ("squeeze-no-op", "warn"),
     "squeeze(0, -1) did nothing, because the sizes are 2, 4 and not 1; name a dim of size 1, or select an entry with "
     "select(dim, index)"),
    (lambda p, y: p - y, [z(100, 1), z(100)], ("mutual-broadcast", "warn"),
     "mutual broadcast: (100, 1) with (100,) -> (100, 100) (100x elements); give both operands the same shape, for "
     "instance with squeeze(-1) or unsqueeze(-1) on one of them"),
    (lambda p, y: F.poisson_nll_loss(p, y), [z(4, 1), z(4)], ("loss-shapes", "warn"),
     "poisson_nll_loss of (4, 1) and (4,) broadcasts: every prediction is compared with targets of other samples; give both the "
     "same shape"),
    (lambda x: x.transpose(1, 2).reshape(2, 12), [z(2, 3, 4)], ("reshape-copy", "info"),
     "reshape copied 96 B: the memory layout of (2, 4, 3) allows no view of the new shape"),
    (lambda x: x.t().contiguous(), [z(3, 4)], ("reshape-copy", "info"),
     "contiguous() copied 48 B; it is needed only before view() or for a kernel that requires it"),
    (lambda x: x.repeat(1, 8), [z(4, 1)], ("repeat-for-expand", "info"),
     "repeat copied 128 B where expand(4, 8) is a view of 0 bytes, as long as nothing writes into the result"),
    (lambda x: x.view(3, 2), [z(2, 3)], ("reshape-permutes", "info"),
     "view only relabels (2, 3) as (3, 2): values of one row end up in another; to move dims use transpose, permute or "
     "einops.rearrange"),
    (lambda x: x.view(2, 2, 6, 4), [z(2, 6, 8)], ("reshape-permutes", "info"),
     "view only relabels (2, 6, 8) as (2, 2, 6, 4): values of one row end up in another; to move dims use transpose, permute "
     "or einops.rearrange"),
    (lambda x: x.reshape(2, 196, 768), [z(2, 768, 14, 14)], ("reshape-permutes", "info"),
     "reshape only relabels (2, 768, 14, 14) as (2, 196, 768): values of one row end up in another; to move dims use "
     "transpose, permute or einops.rearrange"),
    (lambda q, i: q[:, i], [z(8, 5), z(8, dtype=torch.long)], ("index-pairs", "warn"),
     "an index of (8,) took 8 entries from each of 8 rows: (8, 5) -> (8, 8); for one entry a row write "
     "x[torch.arange(len(x)), i], or use gather"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)))
def test_each_rule_fires_with_its_text(case):
    function, tensors, expected, advice = CASES[case]
    assert found(function, *tensors) == ([expected], advice)


@pytest.mark.parametrize(
    "compare",
    [
        lambda p, y: (p - y) ** 2, lambda p, y: p == y, lambda p, y: torch.eq(p, y), lambda p, y: p * y, lambda p, y: y / p,
        lambda p, y: torch.where(p > 0, p, y), lambda p, y: torch.maximum(p, y), lambda p, y: p.sub_(0).pow(y),
        lambda p, y: torch.max(p, y), lambda p, y: p.clamp(min=y), lambda p, y: p.masked_fill(y > 0, 0),
        lambda p, y: torch.addcmul(y, p, y), lambda p, y: torch.logaddexp(p, y),
    ],
)  # fmt: skip
def test_column_with_row_is_seen_in_every_operator(compare):
    assert ("mutual-broadcast", "warn") in found(compare, torch.rand(4, 1), torch.rand(4))[0]


LOSSES = ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "kl_div"]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_on_different_shapes_are_seen_and_on_equal_ones_not(name):
    loss = getattr(F, name)
    assert found(loss, torch.rand(4, 1), torch.rand(4))[0] == [("loss-shapes", "warn")]
    assert found(loss, torch.rand(4), torch.rand(4))[0] == []


@pytest.mark.parametrize(
    "take", [lambda x, i: x[:, i], lambda x, i: x[:, i, :], lambda x, i: x[..., i % 4], lambda x, i: x[:, :, i % 4]]
)
def test_one_index_for_every_row_is_seen_in_every_spelling(take):
    assert ("index-pairs", "warn") in found(take, z(8, 6, 4), z(8, dtype=torch.long))[0]


def test_the_loss_that_a_copied_snippet_calls_directly_is_seen():
    assert found(torch._C._nn.mse_loss, torch.rand(4, 1), torch.rand(4))[0] == [("loss-shapes", "warn")]
    assert found(F.gaussian_nll_loss, torch.rand(4, 1), torch.rand(4), torch.rand(4, 1))[0] == [("loss-shapes", "warn")]


def test_losses_that_torch_refuses_pass_the_exception_on():
    for loss in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.soft_margin_loss):
        with pytest.raises((ValueError, RuntimeError)) as caught, trace_shapes():
            loss(torch.rand(4, 1), torch.rand(4))
        assert "(4, 1) strides (1, 1) contiguous; (4,) strides (1,) contiguous" in caught.value.__notes__[0]


RIGHT = [
    (lambda x: x.squeeze(-1), [z(1, 4, 1)]),
    (lambda x: x.squeeze((0, 2)), [z(1, 4, 1)]),
    (lambda x, y: x - y, [z(4, 3), z(3)]),  # a bias
    (lambda x, y: x - y, [z(4, 1), z(4, 3)]),
    (lambda x, y: x - y, [z(4, 1), z(1, 4)]),  # said by both operands
    (lambda x, y: x * y, [z(1), z(1, 1)]),
    (lambda p, f: p[:, None] * f[None, :], [z(5), z(4)]),  # rotary embeddings
    (lambda x, y: x @ y, [z(4, 4), z(4)]),
    (lambda x: x.reshape(2, 12), [z(2, 3, 4)]),
    (lambda x: x.contiguous(), [z(2, 3)]),
    (lambda x: x.repeat(2, 1), [z(2, 3)]),
    (lambda x: x.repeat_interleave(2, dim=1), [z(2, 3)]),
    (lambda x: x.view(2, 1, 3), [z(2, 3)]),
    (lambda x: x.flatten(1), [z(0, 3, 4)]),
    (lambda x: x.view(2, 6, 2, 4), [z(2, 6, 8)]),  # heads
    (lambda x: x.view(12, 8).view(2, 6, 8), [z(2, 6, 8)]),
    (lambda x: x.view(2, 3, 8, 4, 8, 4), [z(2, 3, 32, 32)]),  # patches
    (lambda x: x.view(torch.int64), [z(3, 4)]),
    (lambda q, i: q[torch.arange(8), i], [z(8, 5), z(8, dtype=torch.long)]),
    (lambda q, i: q[i], [z(8, 5), z(8, dtype=torch.long)]),
    (lambda q, i: q[:, i], [z(8, 5), z(3, dtype=torch.long)]),
    (lambda q, i: q[:, i], [z(8, 8), z(8, dtype=torch.long)]),  # in another order
    (lambda q, i: q[:, i > 0], [z(8, 5), z(5)]),
    (lambda q, i: q[:, i], [z(1, 5), z(1, dtype=torch.long)]),
    (lambda x, y: F.cross_entropy(x, y), [z(4, 3), z(4, dtype=torch.long)]),
]


@pytest.mark.parametrize("case", range(len(RIGHT)))
def test_what_is_right_is_silent(case):
    function, tensors = RIGHT[case]
    assert found(function, *tensors) == ([], "")


def test_a_hazard_holds_everything():
    with trace_shapes(hazards="collect") as trace:
        y = z(4, 1).repeat(1, 8)
    hazard = trace.hazards[0]
    assert (hazard.op, hazard.code, hazard.file) == ("repeat", "z(4, 1).repeat(1, 8)", __file__)
    assert (hazard.in_shapes, hazard.out_shape, hazard.is_view, hazard.nbytes) == (((4, 1),), (4, 8), False, y.nbytes)
    assert str(hazard) == f"{__file__}:{hazard.line} `z(4, 1).repeat(1, 8)`: {hazard.advice} [repeat-for-expand]"


def test_warn_gives_one_warning_for_each_line_and_on_that_line():
    def run():
        for _ in range(3):
            z(1, 4, 1).squeeze()
        z(4, 1).repeat(1, 8)  # of level info, so only listed

    with warnings.catch_warnings(record=True) as caught, trace_shapes() as trace:
        warnings.simplefilter("always")
        run()
    assert [str(warning.message) for warning in caught] == [
        "`z(1, 4, 1).squeeze()`: squeeze() without dim removed dims [0, 2] including dim 0 (batch of one?); name the dim, "
        "such as squeeze(-1) [squeeze-no-dim]"
    ]
    assert (caught[0].filename, caught[0].lineno) == (__file__, trace.hazards[0].line)
    assert [hazard.rule for hazard in trace.hazards] == ["squeeze-no-dim", "repeat-for-expand"]


def test_raise_stops_at_the_line():
    reached = []

    def run():
        z(4, 1).repeat(1, 8)
        reached.append("info is no error")
        z(4, 1) - z(4)
        reached.append("never")

    with pytest.raises(ValueError) as caught, trace_shapes(hazards="raise") as trace:
        run()
    assert str(caught.value) == str(trace.hazards[1])
    assert trace.hazards[1].code == "z(4, 1) - z(4)"
    assert reached == ["info is no error"]
