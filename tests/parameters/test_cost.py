"""`summarize` with inputs: one number whichever way the model runs, held to torch's counter and to counts by hand."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.utils.flop_counter import FlopCounterMode

from linkboy.parameters import summarize

WAYS = ("auto", "shapes", "values")


class Net(nn.Module):
    """A module from a function of the module, an input of 3 x 7 x 20 and lengths."""

    def __init__(self, call, **layers):
        super().__init__()
        self.linear, self.call = nn.Linear(20, 4), call
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args):
        return self.call(self, *args)


X, N = torch.zeros(3, 7, 20), torch.tensor([7, 5, 2])
LENGTHS = {
    "greatest": lambda net, x, n: net.linear(x[:, : n.max() - 1]),
    "mask": lambda net, x, n: net.linear(x[torch.arange(7)[None] < n[:, None]]),
    "masked select": lambda net, x, n: net.linear(
        x.masked_select((torch.arange(7) < n[:, None])[..., None]).view(-1, 20)
    ),
    "loop": lambda net, x, n: [net.linear(row[:count]) for row, count in zip(x, n.tolist(), strict=True)],
    "repeat": lambda net, x, n: net.linear(x[:, 0].repeat_interleave(n, dim=0)),
    "branch": lambda net, x, n: net.linear(x) if n.sum() > 3 else x,
    "positions": lambda net, x, n: net.linear(x[(n > 3).nonzero()[:, 0]]),
    "in place": lambda net, x, n: net.linear(x[:, : n.clone().sub_(1).max()]),
    "split": lambda net, x, n: [net.linear(part) for part in x.view(-1, 20)[: n.sum()].split(n.tolist())],
}


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_decide_shapes_and_the_run_on_shapes_knows_them(name):
    summaries = [summarize(Net(LENGTHS[name]), X, N.clone(), run=way) for way in WAYS]
    assert summaries[0].flops == summaries[1].flops == summaries[2].flops > 0
    assert summaries[0].rows == summaries[1].rows == summaries[2].rows
    assert {summary.notes for summary in summaries} == {()}


def test_a_length_that_floats_decide_is_not_guessed():
    def forward(net, x, n):
        counts = n.clone()
        counts[0] = x.sum().long() + 1
        return net.linear(x[:, : counts.max()])

    summary = summarize(Net(forward), X, N, run="shapes")
    assert summary.flops is None
    assert "DataDependentOutputException" in summary.notes[0]
    assert summarize(Net(forward), X, N).flops == 2 * 3 * 5 * 20 * 4


@pytest.mark.parametrize("sort", [True, False])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_packed_sequences_count_their_steps(kind, gates, sort):
    def forward(net, x, n):
        packed = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=sort)
        return pad_packed_sequence(net.rnn(packed)[0], batch_first=True, total_length=7)[0]

    for way in WAYS:
        summary = summarize(Net(forward, rnn=kind(20, 30, batch_first=True)), X, N, run=way)
        assert summary.flops == 2 * 14 * gates * 30 * (20 + 30)
        assert summary.rows[0].outputs == ((3, 7, 30),)
        assert summary.notes == ()


@pytest.mark.parametrize("way", WAYS)
def test_a_packed_sequence_is_an_input(way):
    packed = pack_sequence([torch.zeros(5, 20), torch.zeros(3, 20)])
    assert summarize(nn.LSTM(20, 30, 2, bidirectional=True), packed, run=way).flops == 2 * 8 * 2 * 120 * (50 + 60 + 30)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trained", [True, False])
def test_the_fast_path_of_an_encoder_is_counted(way, trained):
    layer = (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval().requires_grad_(trained)
    )
    tokens = 2 * 20
    wanted = 2 * tokens * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 2 * 2 * 20 * 20 * 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        summary = summarize(layer, torch.zeros(2, 20, 16), run=way)
    assert (summary.flops, summary.flops_are_lower_bound) == (2 * wanted, False)
    assert {row.name: row.flops for row in summary.rows}["layers"] == 2 * wanted


@pytest.mark.parametrize("way", WAYS)
def test_an_attention_kernel_that_forward_chooses_is_counted(way):
    def forward(net, x):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(x, x, x)

    query = torch.zeros(2, 3, 10, 8)
    assert summarize(Net(forward), query, run=way).flops == 2 * 2 * 2 * 3 * 10 * 10 * 8


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this torch has no grouped products")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_in_one_product_are_counted(way, dtype):
    def forward(net, x, ends):
        return torch._grouped_mm(x, net.experts, offs=ends)

    model = Net(forward, experts=nn.Parameter(torch.zeros(3, 16, 32, dtype=dtype)))
    summary = summarize(model, torch.zeros(12, 16, dtype=dtype), torch.tensor([2, 7, 12], dtype=torch.int32), run=way)
    assert summary.flops == 2 * 12 * 16 * 32
    assert summary.rows[0].outputs == ((12, 32),)


@pytest.mark.parametrize("way", WAYS)
def test_products_of_vectors_are_counted(way):
    def forward(net, x):
        y = net.linear(x)  # a vector
        return torch.mv(net.linear.weight, x) @ y + torch.addbmm(
            torch.zeros(2, 5), torch.zeros(3, 2, 4), torch.zeros(3, 4, 5)
        )

    wanted = 2 * 20 * 4 + 2 * 20 * 4 + 2 * 4 + 2 * 3 * 2 * 4 * 5
    assert summarize(Net(forward), torch.zeros(20), run=way).flops == wanted


def test_what_has_no_formula_makes_the_count_a_lower_bound():
    x = torch.zeros(3, 4)
    for model, inputs in [
        (nn.Bilinear(4, 4, 2), (x, x)),
        (Net(lambda net, x: torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")), (x,)),
        (Net(lambda net, x: torch.linalg.inv(x[:, :3])), (x,)),
        (Net(lambda net, x: torch.fft.rfft(x)), (x,)),
    ]:
        summary = summarize(model, *inputs)
        assert summary.flops_are_lower_bound, model
        assert f"(a multiply-add counts 2): at least {summary.flops:,}" in str(summary)
    summary = summarize(nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.LayerNorm(4), nn.GELU()), x)
    assert not summary.flops_are_lower_bound
    assert "at least" not in str(summary)


def test_a_run_in_inference_mode_is_counted_like_any_other():
    def forward(net, x):
        with torch.inference_mode():
            return net.linear(x) + net.linear(x @ x.T @ x)

    products = 2 * 2 * 6 * 20 * 4 + 2 * 2 * 6 * 6 * 20
    assert [summarize(Net(forward), torch.zeros(6, 20), run=way).flops for way in WAYS] == [products] * 3


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_models_agree_with_the_counter_of_torch(data):
    layers, shape = [], [data.draw(st.integers(1, 3)), 4, 6, 6]
    for _ in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(["conv", "transposed", "norm", "relu", "linear", "dropout"]))
        groups = data.draw(st.sampled_from([1, 2]))
        layers.append({
            "conv": lambda groups=groups: nn.Conv2d(4, 4, 3, padding=1, groups=groups),
            "transposed": lambda groups=groups: nn.ConvTranspose2d(4, 4, 3, padding=1, groups=groups),
            "norm": lambda: nn.GroupNorm(2, 4), "relu": lambda: nn.ReLU(inplace=True), "linear": lambda: nn.Linear(6, 6),
            "dropout": nn.Dropout,
        }[kind]())  # fmt: skip
    model, x = nn.Sequential(*layers), torch.zeros(shape)
    with FlopCounterMode(display=False) as counter:
        model(x)
    summaries = [summarize(model, x, run=way) for way in WAYS]
    assert {summary.flops for summary in summaries} == {counter.get_total_flops()}
    assert summaries[0].rows == summaries[2].rows
    assert sum(row.flops for row in summaries[0].rows[1:]) == summaries[0].flops


def test_rows_have_what_ran_inside_them_however_it_is_called():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}) for _ in range(2)])
            self.shared = self.blocks[0]["a"]
            self.unused = nn.ModuleList([nn.Linear(4, 4)])

        def forward(self, x):
            for block in self.blocks:
                x = block["b"](block["a"](x))
            return F.linear(self.shared(x), self.unused[0].weight)

    rows = {row.name: row.flops for row in summarize(Deep(), torch.zeros(3, 4)).rows}
    one = 2 * 3 * 4 * 4
    assert rows == {
        "": 6 * one, "blocks": 5 * one, "blocks.0": 3 * one, "blocks.0.a": 2 * one, "blocks.0.b": one, "blocks.1": 2 * one,
        "blocks.1.a": one, "blocks.1.b": one, "shared": 2 * one, "unused": None, "unused.0": None,
    }  # fmt: skip


def test_the_table_goes_up_to_the_layer_that_failed():
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(9, 2), nn.ReLU()), nn.ReLU())
    for way in ("auto", "shapes"):
        summary = summarize(model, torch.zeros(3, 4), run=way)
        rows = {row.name: row for row in summary.rows}
        assert summary.failed == "1.1"
        assert (rows["0"].outputs, rows["0"].flops, rows["1.0"].outputs) == (((3, 8),), 2 * 3 * 4 * 8, ((3, 8),))
        assert (rows["1.1"].inputs, rows["1.1"].outputs, rows["1.1"].flops) == (((3, 8),), (), None)
        assert [rows[name].flops for name in ("", "1", "1.2", "2")] == [None] * 4
        assert (summary.flops, summary.activation_nbytes) == (None, None)
        assert summary.notes[0].startswith("the forward pass failed in 1.1 (Linear), called with 3 x 8: RuntimeError: ")
        assert "failed" in str(summary).splitlines()[7].split()
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        summarize(model, torch.zeros(3, 4), run="values")
    assert caught.value.__notes__ == ["raised in 1.1 (Linear)"]


def test_an_error_that_forward_catches_is_no_failure():
    def forward(net, x):
        try:
            return net.wrong(x)
        except RuntimeError:
            return net.linear(x)

    summary = summarize(Net(forward, wrong=nn.Linear(3, 3)), torch.zeros(2, 20))
    assert (summary.failed, summary.flops) == (None, 2 * 2 * 20 * 4)


def test_scripted_and_traced_parts_are_counted_as_one():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        parts = [torch.jit.script(inner), torch.jit.trace(inner, torch.zeros(3, 4))]
    for part in parts:
        for model in (part, nn.Sequential(part)):
            summary = summarize(model, torch.zeros(3, 4))
            assert summary.flops == 2 * 3 * 4 * 8
            assert summary.rows[-1].flops is None  # what runs inside a script is not seen module by module
    assert summarize(parts[0], torch.zeros(3, 4), run="values").notes == ()


def test_layers_and_tensors_that_are_not_registered_are_named():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)
            self.layers = [nn.Linear(4, 4), nn.ReLU(), self.head]
            self.by_name = {"deep": [nn.Linear(4, 4)]}
            self.scale = (nn.Parameter(torch.ones(4)),)
            self.table, self.words = torch.zeros(4), ["a", "b"]

        def forward(self, x):
            return self.head(self.layers[0](x) * self.scale[0] + self.table)

    summary = summarize(Hidden(), torch.zeros(3, 4))
    assert summary.count.notes == (
        "not registered, so neither counted nor trained nor saved: layers.0 (Linear), by_name.deep.0 (Linear), "
        "scale.0 (Parameter); use nn.ModuleList, nn.ModuleDict or nn.Parameter",
    )
    assert summary.notes == ("plain tensors, which neither .to() nor state_dict() sees: table",)
    assert summary.flops == 2 * 3 * 4 * (4 + 2)
    assert summarize(nn.LSTM(3, 3)).count.notes == ()


def test_columns_are_chosen():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    text = str(summarize(model, torch.zeros(5, 1, 6, 6), columns=["input", "kernel", "share", "calls"]))
    assert [line.split() for line in text.splitlines()[2:8]] == [
        ["module", "type", "input", "kernel", "share", "calls"],
        ["Sequential", "Sequential", "5", "x", "1", "x", "6", "x", "6", "-", "100.0%", "1"],
        ["0", "Conv2d", "5", "x", "1", "x", "6", "x", "6", "3", "x", "3", "52.6%", "1"],
        ["1", "MaxPool2d", "5", "x", "2", "x", "4", "x", "4", "2", "0.0%", "1"],
        ["2", "Flatten", "5", "x", "2", "x", "2", "x", "2", "-", "0.0%", "1"],
        ["3", "Linear", "5", "x", "8", "-", "47.4%", "1"],
    ]
    assert summarize(model, columns=["share"]).to_dict()["columns"] == ["share"]
    with pytest.raises(ValueError) as error:
        summarize(model, columns=["inputs"])
    assert str(error.value).startswith("columns must be one of ('input', 'output', 'kernel', 'parameters', ")
    assert str(error.value).endswith("got 'inputs'; did you mean 'input'?")


def test_the_default_table_is_as_wide_as_a_terminal_and_says_what_differs():
    class AVeryLongNameForAModuleThatNobodyShouldHaveToRead(nn.Linear):
        pass

    deep = nn.Sequential(AVeryLongNameForAModuleThatNobodyShouldHaveToRead(4096, 4096))
    for name in ("a_long_name_of_an_attribute", "and_another_one_below", "third_level"):
        deep = nn.ModuleDict({name: deep})
    with torch.device("meta"):
        summary = summarize(deep, depth=9)
    assert max(map(len, str(summary).splitlines()[:7])) <= 90
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())
    mixed[0].requires_grad_(False)
    assert str(summarize(mixed)).splitlines()[2].split() == ["module", "type", "parameters", "trainable", "dtype"]
    assert "dtype of all parameters: float16" in str(summarize(nn.Linear(2, 2).half()))


def test_html_keeps_the_tree():
    page = summarize(nn.Sequential(nn.Sequential(nn.Linear(2, 2))))._repr_html_()
    assert "<td>&nbsp;&nbsp;&nbsp;&nbsp;0</td>" in page
