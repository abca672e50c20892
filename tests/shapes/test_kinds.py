"""Further instances of each kind that `check_batch` must find or leave alone: as other people write them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linkboy import check_batch, trace_shapes

with torch.random.fork_rng():
    torch.manual_seed(0)
    linear, bag = nn.Linear(4, 4), nn.EmbeddingBag(256, 4)


def rows(*shape):
    return lambda batch: torch.randn(batch, *shape)


def lengths(batch):
    return torch.randn(batch, 6, 4), torch.randint(3, 7, (batch,))


class Net(nn.Module):
    """A module whose `forward` is a function of itself and its input."""

    def __init__(self, function):
        super().__init__()
        self.function, self.layer, self.kept, self.seen = function, nn.Linear(4, 4), None, []

    def forward(self, x):
        return self.function(self, x)


# --- inputs that are no plain tensors ------------------------------------------------------------------------------------
def padded(batch):
    return nn.utils.rnn.pad_sequence(
        [torch.randint(1, 9, (int(torch.randint(1, 9, ())),)) for _ in range(batch)], batch_first=True
    )


def words(batch):
    return (["abcdefgh"[: int(torch.randint(1, 8, ()))] for _ in range(batch)],)


def embedded(texts):
    return torch.stack([bag(torch.tensor(list(text.encode()))[None])[0] for text in texts])


@pytest.mark.parametrize(
    ("model", "inputs", "shapes"),
    [
        (
            lambda x, n: linear(x[:, : max(n)]),
            lambda batch: (torch.randn(batch, 6, 4), torch.randint(1, 7, (batch,)).tolist()),
            "(B, 6, 4) -> (B, ?, 4)",
        ),
        (
            lambda x, n: linear(x[:, : int(n.max())]).sum(1),
            lambda batch: (torch.randn(batch, 6, 4), torch.randint(1, 7, (batch,)).numpy()),
            "(B, 6, 4) -> (B, 4)",
        ),
        (lambda ids: bag(ids), padded, "(B, ?) -> (B, 4)"),
        (embedded, words, "no tensor -> (B, 4)"),
        (
            lambda pictures: [linear(picture).mean(0) for picture in pictures],
            lambda batch: ([torch.randn(int(torch.randint(2, 5, ())), 4) for _ in range(batch)],),
            "B x (?, 4) -> B x (4,)",
        ),
        (
            lambda examples: [{"scores": linear(one["image"])} for one in examples],
            lambda batch: ([{"image": torch.randn(4), "id": number} for number in range(batch)],),
            "B x (4,) -> B x (4,)",
        ),
    ],
    ids=["lengths in a list", "lengths of NumPy", "padded to the longest", "texts", "pictures", "examples"],
)
def test_inputs_whose_size_follows_the_draw_or_that_come_in_lists_are_no_fault(model, inputs, shapes):
    report = check_batch(model, inputs)
    assert report.ok, str(report)
    assert str(report).splitlines()[2] == shapes


@pytest.mark.parametrize(
    ("model", "inputs", "code"),
    [
        (lambda texts: embedded(texts) / len(texts), words, "embedded(texts) / len(texts)"),
        (
            lambda pictures: [linear(picture) - pictures[0].mean() for picture in pictures],
            lambda batch: ([torch.randn(4) for _ in range(batch)],),
            "pictures[0].mean()",
        ),
    ],
    ids=["texts", "pictures"],
)
def test_samples_of_a_list_that_depend_on_each_other_are_found(model, inputs, code):
    assert check_batch(model, inputs).findings[0].code == code


# --- place, size, data ---------------------------------------------------------------------------------------------------
def rotated(x):
    angle = torch.arange(x.shape[0]).float()[:, None, None]
    return x * angle.cos() + x.flip(-1) * angle.sin()


def from_the_end(x, n):
    return x + (n.max() - n)[:, None, None]


def stopping_together(x):
    for _ in range(5):
        if x.abs().max() < 1.2:
            break
        x = 0.7 * torch.tanh(linear(x)) + 0.3 * x
    return x


@pytest.mark.parametrize(
    ("model", "inputs", "kind", "code"),
    [
        (rotated, rows(5, 4), "place", "torch.arange(x.shape[0])"),
        (lambda x, n: x + n[0], lengths, "mixing", "n[0]"),
        (from_the_end, lengths, None, "n.max()"),
        (lambda x: linear(x) / math.log(1 + x.shape[0]), rows(4), "batch-size", None),
        (lambda x: linear(x / x.abs().max()), rows(4), None, "x.abs().max()"),
        (stopping_together, rows(4), None, "x.abs().max()"),
        (lambda x: linear(x)[x.sum(1).argsort()], rows(4), "mixing", None),
    ],
)
def test_what_depends_on_place_size_or_other_values_is_found_on_its_call(model, inputs, kind, code):
    finding = check_batch(model, inputs).findings[0]
    assert kind in (None, finding.kind)
    assert code in (None, finding.code)


# --- state and chance ----------------------------------------------------------------------------------------------------
def remembering(net, x):
    net.kept = x if net.kept is None else torch.cat([net.kept, x], 1)
    return (x @ net.kept.transpose(1, 2)).softmax(-1) @ net.kept  # the same for the same input twice


def averaging(net, x):
    net.seen.append(net.layer(x))
    return torch.stack([each for each in net.seen if each.shape == x.shape]).mean(0)


@pytest.mark.parametrize(
    ("function", "inputs"), [(remembering, rows(5, 4)), (averaging, rows(4))], ids=["a cache", "a list"]
)
def test_what_is_kept_shows_after_a_call_with_other_values(function, inputs):
    report = check_batch(Net(function).eval(), inputs)
    assert [finding.kind for finding in report.findings] == ["state"], str(report)


def test_a_second_call_that_raises_is_a_finding():
    def once(net, x):
        if net.kept is not None:
            raise RuntimeError("already called")
        net.kept = True
        return net.layer(x)

    finding = check_batch(Net(once).eval(), rows(4)).findings[0]
    assert (finding.kind, finding.got) == ("state", "RuntimeError: already called")


def test_what_a_closure_keeps_makes_the_report_incomplete():
    kept = []

    def model(x):
        kept.append(x.mean())
        return linear(x) + sum(kept)

    report = check_batch(model, rows(4))
    assert not report.ok
    assert report.untested[0] == (
        "mixing was not tested: a run on real data returned fake tensors of an earlier run, so forward keeps tensors outside "
        "of the model; return them and pass them in"
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
        lambda net, x: F.rrelu(net.layer(x), training=True),
        lambda net, x: nn.Dropout(0.5)(net.layer(x)),
        lambda net, x: F.dropout1d(net.layer(x)),
    ],
    ids=["attention", "rrelu", "a module made in forward", "of channels"],
)
def test_dropout_in_eval_mode_is_found_however_it_is_written(function):
    assert check_batch(Net(function).eval(), rows(5, 4)).findings[0].kind == "random"


def test_noise_that_seldom_shows_is_noted():
    report = check_batch(Net(lambda net, x: x * (torch.rand(len(x), 1) < 0.8)).eval(), rows(4))
    assert report.ok
    assert "the model draws random numbers, first by rand at" in report.notes[0]


# --- special cases -------------------------------------------------------------------------------------------------------
def test_a_special_case_that_gives_the_same_results_is_a_note():
    def model(x):
        if len(x) > 1 and bool(torch.any(x[:, -1] > 9)):
            print("large values")
        return linear(x)

    report = check_batch(model, rows(4))
    assert report.ok, str(report)
    assert "special case at batch 1" in report.notes[0]
    assert "gave the same results" in report.notes[0]
    without = check_batch(model, rows(4), mixing=False)
    assert [finding.kind for finding in without.findings] == ["control-flow"]


def test_a_special_case_with_other_results_stays_a_finding():
    def model(x):
        if len(x) > 1:
            x = F.normalize(x)
        return linear(x)

    assert "control-flow" in [finding.kind for finding in check_batch(model, rows(4)).findings]


def test_a_batch_of_one_that_batch_norm_refuses_has_its_own_advice():
    finding = check_batch(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), rows(4)).findings[0]
    assert (finding.kind, finding.batch) == ("error", 1)
    assert finding.advice.endswith("leave out a last batch of one with drop_last=True")


def test_a_mask_of_a_row_against_itself_is_no_hazard():
    time = torch.arange(6)
    model = lambda x: x @ (time[:, None] >= time).float()  # noqa: E731
    with trace_shapes(hazards="raise"):
        model(torch.randn(2, 6))
    assert check_batch(model, rows(6)).ok
    assert check_batch(
        lambda x: x + torch.arange(6)[:, None] @ torch.ones(1, 6).long() + torch.arange(6), rows(1, 6)
    ).ok
    assert check_batch(lambda x, y: (x - y).sum(1), lambda batch: (torch.randn(batch, 1), torch.randn(batch))).findings


def test_a_grid_as_long_as_the_batch_of_a_probe_is_no_hazard():
    report = check_batch(lambda x: (x[..., None] - torch.linspace(-2, 2, 5)).exp(), rows(6))
    assert report.ok, str(report)


# ---------------------------------------------------------------- outputs, transforms and batches of other kinds
def packed(x, n):
    return nn.utils.rnn.pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)


def nested(x, n):
    return torch.nested.nested_tensor([row[:length] for row, length in zip(x, n.tolist(), strict=True)])


def with_lengths(batch):
    return torch.randn(batch, 6, 4), torch.randint(1, 7, (batch,))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("ragged", [packed, nested])
def test_an_output_that_is_packed_or_nested_is_compared_sample_by_sample(ragged):
    report = check_batch(ragged, with_lengths)
    assert report.ok, str(report)
    found = check_batch(lambda x, n: ragged(x - x.mean(0), n), with_lengths).findings
    assert [(each.kind, each.code) for each in found] == [("mixing", "x.mean(0)")]


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (lambda x: torch.vmap(lambda row: row * 2)(x - x.mean(0)), "x.mean(0)"),
        (lambda x: torch.vmap(lambda row: row - row.mean(), in_dims=1, out_dims=1)(x), ""),
    ],
)
def test_mixing_around_and_inside_vmap_is_found(model, code):
    """What vmap hands on has no values of its own; comparing it raised, and the finding was lost."""
    found = check_batch(model, lambda batch: torch.randn(batch, 4)).findings
    assert [(each.kind, each.code) for each in found] == [("mixing", code)]


def test_the_jacobian_of_a_linear_layer_is_no_fault():
    layer = nn.Linear(4, 3)
    report = check_batch(torch.vmap(torch.func.jacrev(layer)), lambda batch: torch.randn(batch, 4))
    assert report.ok, str(report)


def capacity(x):
    """Serve only the first two samples that ask, as an expert with a capacity does."""
    asks = x[:, 0] > 0
    return torch.where((asks & (asks.cumsum(0) <= 2))[:, None], 2 * x, x)


@pytest.mark.parametrize(
    "model", [lambda x: x * 2 if len(x) > 6 else x, lambda x: x * (torch.cdist(x, x) < 1e-3).sum(1, True), capacity]
)
def test_what_only_a_large_batch_shows_is_found(model):
    found = check_batch(model, lambda batch: torch.randn(batch, 4)).findings
    assert [(each.kind, each.got) for each in found] == [
        ("batch-size", "another result for sample 0 with a batch of 8")
    ]


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_frozen_script_can_be_checked():
    model = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()))
    assert check_batch(model, lambda batch: torch.randn(batch, 4)).ok


# --- results that cannot be compared ---------------------------------------------------------------------------------------
def alone_without_its_dim(x):
    if len(x) == 1:
        return linear(x)[0]
    return linear(x)


def test_a_special_case_that_gives_another_shape_does_not_give_the_same_results():
    report = check_batch(alone_without_its_dim, rows(4))
    assert not any("gave the same results" in note for note in report.notes)
    assert [(each.kind, each.batch, each.code) for each in report.findings] == [("control-flow", 1, "len(x) == 1")]


def test_an_output_of_nan_is_no_mixing_and_the_call_that_gave_it_is_named():
    report = check_batch(lambda x: linear(torch.log(-x.square())), rows(4))
    assert (report.findings, report.ok) == ((), False)
    assert report.untested[0].startswith("mixing was not tested: the output is NaN everywhere, first from ")
    assert report.untested[0].endswith("`torch.log(-x.square())`")
    report = check_batch(lambda x: torch.log(x), rows(4))
    assert report.ok
    assert len(report.notes) == 1
    assert report.notes[0].endswith("`torch.log(x)`; NaN was taken for equal to NaN")


@pytest.mark.parametrize(
    ("model", "inputs", "code"),
    [
        (
            lambda q, a: linear(q)[:, a],
            lambda batch: (torch.randn(batch, 4), torch.randint(4, (batch,))),
            "linear(q)[:, a]",
        ),
        (lambda x, n: x[:, n - 1], lengths, "x[:, n - 1]"),
    ],
)
def test_an_index_of_all_samples_in_each_row_is_found(model, inputs, code):
    found = check_batch(model, inputs).findings
    assert [(each.kind, each.got, each.code) for each in found] == [("hazard", "index-pairs", code)]


def test_a_view_that_is_no_transpose_is_noted():
    def heads(x):
        q = x.view(len(x), 2, 6, 4)
        return F.scaled_dot_product_attention(q, q, q)

    report = check_batch(heads, rows(6, 8))
    assert report.ok
    assert len(report.notes) == 1
    assert report.notes[0].endswith(
        "`x.view(len(x), 2, 6, 4)`: view only relabels (5, 6, 8) as (5, 2, 6, 4): values of one row end up in another; to "
        "move dims use transpose, permute or einops.rearrange"
    )


# --- samples that are no rows of a tensor ----------------------------------------------------------------------------------
def graphs(batch):
    """Five nodes and six links for each of several graphs, put together as PyTorch Geometric does."""
    links = torch.randint(5, (2, batch, 6)) + 5 * torch.arange(batch)[:, None]
    return torch.randn(5 * batch, 4), links.flatten(1), torch.arange(batch).repeat_interleave(5)


def messages(nodes, links, owner):
    around = torch.zeros_like(nodes).index_add_(0, links[1], linear(nodes)[links[0]])
    return torch.zeros(int(owner.max()) + 1, 4).index_add_(0, owner, around)


def bags(batch):
    return torch.randint(256, (4 * batch,)), torch.arange(0, 4 * batch, 4)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (messages, graphs),
        (bag, bags),
        (lambda x: linear(x.view(-1, 6, 4)).sum(1), lambda batch: torch.randn(6 * batch, 4)),
        (
            lambda x: linear(x.view(6, -1, 4)).sum(0),
            lambda batch: torch.randn(6 * batch, 4),
        ),  # the first rows of all first
        (lambda x: linear(x).chunk(2)[0] - linear(x).chunk(2)[1], lambda batch: torch.randn(2 * batch, 4)),
    ],
)
def test_samples_of_several_rows_are_replaced_as_a_whole(model, inputs):
    report = check_batch(model, inputs)
    assert report.ok, str(report)
    assert [each.kind for each in check_batch(lambda *args: model(*args).softmax(0), inputs).findings] == ["mixing"]


def in_pieces(batch):
    lengths = torch.randint(1, 5, (batch,))
    return torch.randn(int(lengths.sum()), 4), lengths


def starts(batch):
    return torch.randint(256, (int(in_pieces(batch)[1].sum()),)), torch.arange(batch)


@pytest.mark.parametrize(
    ("model", "inputs", "shape"),
    [
        (lambda x, n: torch.stack([piece.sum(0) for piece in x.split(n.tolist())]), in_pieces, "(?, 4)"),
        (bag, starts, "(?,)"),
    ],
)
def test_samples_of_unknown_bounds_are_named_and_not_replaced(model, inputs, shape):
    report = check_batch(model, inputs)
    assert (report.findings, report.ok) == ((), False)
    assert report.untested == (
        f"mixing was not tested: an input of {shape} holds samples of unknown bounds; pass mixing=False to check shapes alone",
    )
    assert check_batch(model, inputs, mixing=False).ok


def test_what_belongs_to_samples_of_unknown_bounds_is_not_moved_alone():
    def inputs(batch):
        owner = torch.arange(batch).repeat_interleave(torch.randint(1, 5, (batch,)))
        return torch.randn(len(owner), 4), owner, torch.randn(batch, 4)

    report = check_batch(lambda x, owner, each: torch.zeros_like(each).index_add_(0, owner, x) + each, inputs)
    assert report.ok, str(report)


def ragged(layout):
    return lambda batch: torch.nested.nested_tensor(
        [torch.randn(int(n), 4) for n in torch.randint(1, 5, (batch,))], layout=layout
    )


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse CSR")
@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (lambda x: torch.stack([linear(row).sum(0) for row in x.unbind()]), ragged(torch.jagged)),
        (lambda x: torch.stack([linear(row).sum(0) for row in x.unbind()]), ragged(torch.strided)),
        (lambda x: linear(x.to_dense()), lambda batch: torch.randn(batch, 4).relu().to_sparse()),
        (lambda x: linear(x.to_dense()), lambda batch: torch.randn(batch, 4).relu().to_sparse_csr()),
    ],
)
def test_nested_and_sparse_inputs_are_replaced_sample_by_sample(model, inputs):
    report = check_batch(model, inputs)
    assert report.ok, str(report)
    found = check_batch(lambda x: model(x).softmax(0), inputs).findings
    assert [(each.kind, each.code) for each in found] == [("mixing", "model(x).softmax(0)")]


def pictures(batch):
    return [torch.randn(3, int(n), 8) for n in torch.randint(5, 9, (batch,))]


def scores(images, target):
    return torch.stack([image.mean((1, 2)) for image in images]) + target[:, None]


@pytest.mark.parametrize("order", [1, -1])
def test_a_tensor_behind_a_list_of_samples_is_told_by_its_name(order):
    """At another batch size it is another number of tensor, which made of its dims sizes that depend on the values."""

    def model(*args):
        return scores(*args[::order])

    def inputs(batch):
        return (pictures(batch), torch.randn(batch))[::order]

    report = check_batch(model, inputs)
    assert report.ok, str(report)
    assert report.inputs[::order][1] == "(B,)"
    assert report.inputs[::order][0].startswith("B x (")
    found = check_batch(lambda *args: model(*args).softmax(0), inputs).findings
    assert [(each.kind, each.code) for each in found] == [("mixing", "model(*args).softmax(0)")]


def test_a_value_that_only_real_data_refuse_is_said_to_be_one():
    table = nn.Embedding(4, 2)
    found = check_batch(lambda ids: table(ids), lambda batch: torch.randint(4, 9, (batch, 3))).findings
    assert [(each.kind, each.advice) for each in found] == [
        (
            "error",
            "real data raises here, though shapes are right: fix the model, or let make_inputs return values that it takes",
        )
    ]


# --- make_inputs -----------------------------------------------------------------------------------------------------------
def test_a_list_of_samples_without_a_tuple_around_it_is_said():
    found = check_batch(lambda texts: torch.ones(len(texts)), lambda batch: ["text"] * batch).findings
    assert [each.advice for each in found] == [
        "a list holds the arguments; let make_inputs return a list that is one argument in a tuple: (samples,)"
    ]
    assert check_batch(embedded, words).ok


def test_a_make_inputs_that_takes_no_size_is_refused():
    with pytest.raises(TypeError) as caught:
        check_batch(linear, lambda: torch.randn(3, 4))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "make_inputs must take the batch size, got a function of (); pass one such as lambda n: torch.randn(n, 10)"
    )


def test_an_input_that_is_no_tensor_is_not_taken_for_a_place():
    report = check_batch(lambda x: linear(torch.from_numpy(x)), lambda batch: torch.randn(batch, 4).numpy())
    assert report.findings == ()
    assert report.untested[0].startswith("mixing was not tested: there is nothing to replace")


@pytest.mark.filterwarnings("ignore:.*(torch.ao|deprecated|reduce_range)")
def test_dynamic_quantisation_is_told_what_it_does():
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), {nn.Linear})
    found = check_batch(model, rows(4)).findings
    assert [(each.kind, each.advice) for each in found] == [
        ("mixing", "dynamic quantisation takes one scale for the whole batch; check the model before it is quantised")
    ]
