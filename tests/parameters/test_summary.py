"""`summarize`: FLOPs against the count by hand, and a model that is the same bit for bit afterwards."""

import random
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from linkboy.parameters import compare_models, count_parameters, param_groups, summarize

sys.path.insert(0, str(Path(__file__).parent))
import zoo

# Those of 4.46 read the values of the mask to choose a kernel, so that shapes alone do not carry a run.
READS_NO_MASK = pytest.mark.skipif(
    int(version("transformers").partition(".")[0]) < 5, reason="waits for transformers 5: attention that runs on shapes"
)


def bert_layer_flops(tokens, width, inner):
    """Four projections, two products of attention, two of the feed-forward part; a multiply-add is 2."""
    return 2 * tokens * (4 * width * width + 2 * width * inner) + 2 * 2 * tokens * tokens * width


@READS_NO_MASK
@pytest.mark.parametrize("run", ["auto", "shapes"])
def test_bert_flops_equal_the_analytic_number_to_the_last_unit(run):
    import transformers as hf

    with torch.device("meta"):
        config = hf.BertConfig(num_hidden_layers=1)
        model = hf.BertModel(config).eval()
    summary = summarize(model, torch.zeros(1, 128, dtype=torch.long, device="meta"), run=run)
    assert summary.notes == ()
    assert summary.flops == bert_layer_flops(128, 768, 3072) + 2 * 768 * 768 == 1_863_450_624  # and the pooler


@READS_NO_MASK
@pytest.mark.parametrize(
    "use_cache", [True, False]
)  # without it the attention mask reads a value, as plain meta cannot
def test_llama_flops_equal_the_analytic_number(use_cache):
    import transformers as hf

    config = hf.LlamaConfig(**zoo.TINY, num_key_value_heads=1, use_cache=use_cache)
    tokens, width, inner, vocabulary, layers = 6, 16, 32, 64, 2
    per_token = 2 * (width * width * 2 + width * 8 * 2 + 3 * width * inner)  # one key and value head of 8 channels
    layer = tokens * per_token + 2 * 2 * tokens * tokens * width
    summary = summarize(hf.LlamaForCausalLM(config).eval(), zoo.IDS[:1])
    assert summary.flops == layers * layer + 2 * tokens * width * vocabulary


def test_flops_shapes_and_memory_of_a_convolution_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 5))
    summary = summarize(model, torch.zeros(4, 3, 8, 8))
    convolution, linear = 2 * 4 * 8 * 6 * 6 * 3 * 9, 2 * 4 * 288 * 5
    assert summary.flops == convolution + linear
    rows = {row.name: row for row in summary.rows}
    assert (rows["0"].flops, rows["3"].flops) == (convolution, linear)
    assert rows["0"].outputs == ((4, 8, 6, 6),)
    # kept for backward: the ReLU's output, which is also the Linear's input; the inputs and weights are not activations
    assert summary.activation_nbytes == 4 * 288 * 4
    assert summary.training_memory == {
        "weights": 6644, "buffers": 0, "gradients": 6644, "AdamW states": 13_288, "activations": 4608,
    }  # fmt: skip
    assert summary.ops_without_flops == ("relu",)


def calls():
    return {
        "count": lambda model, inputs: count_parameters(model, by="module"),
        "compare": lambda model, inputs: compare_models(model, model),
        "groups": lambda model, inputs: param_groups(model, weight_decay=0.1),
        "tree": lambda model, inputs: summarize(model),
        "auto": lambda model, inputs: summarize(model, *inputs),
        "shapes": lambda model, inputs: summarize(model, *inputs, run="shapes"),
        "values": lambda model, inputs: summarize(model, *inputs, run="values"),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=READS_NO_MASK) if "bert" in name else name for name in zoo.ARCHITECTURES]
)
def test_every_read_only_call_leaves_the_model_bit_identical(name):
    torch.manual_seed(0)
    model, inputs = zoo.ARCHITECTURES[name]()
    flags = random.Random(name)
    for module in model.modules():  # a mixture that nobody else would have set
        module.training = flags.random() < 0.5
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before = zoo.fingerprint(model)
    for call, run in calls().items():
        report = run(model, inputs)
        after = zoo.fingerprint(model)
        for part, value in before.items():
            assert after[part] == value, f"{call} changed {part}"
        if call in ("auto", "shapes", "values") and name not in ("mixtral", "mamba"):
            assert report.notes == (), report.notes
            assert report.flops > 0
    assert summarize(model).count.total == sum(p.numel() for p in model.parameters())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["linear", "relu", "norm", "dropout", "batchnorm"]), max_size=6), st.data())
def test_random_stacks_are_bit_identical_and_flops_add_up(kinds, data):
    build = {
        "linear": lambda: nn.Linear(4, 4), "relu": lambda: nn.ReLU(inplace=True), "norm": lambda: nn.LayerNorm(4),
        "dropout": lambda: nn.Dropout(0.5), "batchnorm": lambda: nn.BatchNorm1d(4),
    }  # fmt: skip
    model = nn.Sequential(*[build[kind]() for kind in kinds])
    for module in model.modules():
        module.training = data.draw(st.booleans())
    before = zoo.fingerprint(model)
    summary = summarize(
        model, torch.zeros(3, 4, requires_grad=False), run=data.draw(st.sampled_from(["auto", "shapes", "values"]))
    )
    assert zoo.fingerprint(model) == before
    assert summary.flops == 2 * 3 * 4 * 4 * kinds.count("linear")


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.norm, self.error, self.seen = nn.BatchNorm1d(2), error, None

    def forward(self, x):
        self.train(not self.training)
        self.seen = self.norm(x)
        torch.rand(3)
        random.random()
        raise self.error


@pytest.mark.parametrize("run", ["auto", "shapes", "values"])
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_forward_that_raises_or_is_interrupted_leaves_the_model_as_it_was(run, error):
    model = Raises(error)
    before, state = zoo.fingerprint(model), random.getstate()
    if run == "values" or isinstance(error, KeyboardInterrupt):
        with pytest.raises(type(error)):
            summarize(model, torch.ones(3, 2), run=run)
    else:
        summary = summarize(model, torch.ones(3, 2), run=run)
        assert summary.flops is None
        hint = "; run='values' runs it on values instead" if run == "shapes" else ""
        assert summary.failed == ""
        assert summary.rows[1].outputs == ((3, 2),)  # what ran before the error
        assert (
            summary.notes
            == (
                f"the forward pass failed in Raises, called with 3 x 2: RuntimeError: boom{hint}",
                "plain tensors, which neither .to() nor state_dict() sees: seen",
            )[: 1 + (model.seen is not None)]
        )
    assert zoo.fingerprint(model) == before
    assert model.seen is None
    assert random.getstate() == state


def test_lazy_modules_stay_lazy_and_the_report_says_so():
    model = nn.Sequential(nn.LazyLinear(3))
    summary = summarize(model, torch.zeros(2, 5))
    assert isinstance(model[0], nn.LazyLinear)
    assert "no shapes: the model has lazy parameters; run one batch through it first" in summary.notes


def test_data_dependent_control_flow_takes_values_and_says_so():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    note = summarize(Branch(), torch.ones(2), run="shapes").notes[0]
    assert note.startswith("the forward pass failed in Branch, called with 2: ")
    assert note.endswith("; run='values' runs it on values instead")
    assert summarize(Branch(), torch.ones(2), run="values").rows[0].outputs == ((2,),)
    summary = summarize(Branch(), torch.ones(2))
    assert summary.rows[0].outputs == ((2,),)
    assert summary.notes[0].startswith("computed on values, as shapes alone were not enough (")
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), Branch())
    assert (
        summarize(model, torch.ones(1, 2))
        .notes[0]
        .startswith("the forward pass failed in 1 (Branch), called with 1 x 2: ")
    )
    with pytest.raises(ValueError) as error:
        summarize(model, torch.ones(1, 2), run="values")
    assert str(error.value).startswith("run='values' needs a model with values, got one on the meta device")


def attention_and_lstm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.randn(1, 50, 16)  # a plain attribute
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.lstm = nn.LSTM(16, 16, batch_first=True)

        def forward(self, x):
            return self.lstm(self.layer(x + self.table[:, : x.size(1)]))[0]

    return Net().eval()


def test_figures_are_the_same_whichever_way_the_model_runs():
    from linkboy._calls import arguments_of, model_run
    from linkboy.parameters._cost import Cost, _observe

    model, costs = attention_and_lstm(), []
    for way in ("meta", "fake", "values"):
        costs.append(Cost())
        with model_run(model, arguments_of(torch.zeros(2, 20, 16)), way, grad=True) as run:
            _observe(run, costs[-1])
    assert costs[0].flops == costs[1].flops == costs[2].flops
    tokens, width = 2 * 20, 16
    attention = 2 * tokens * (4 * width * width + 2 * width * 32) + 2 * 2 * 2 * 20 * 20 * width
    assert sum(costs[0].flops.values()) == attention + 2 * tokens * 4 * width * 2 * width
    assert costs[0].outputs == costs[1].outputs == costs[2].outputs
    assert costs[0].saved_nbytes == costs[1].saved_nbytes == costs[2].saved_nbytes


@pytest.mark.parametrize("container", [tuple, list])
def test_two_inputs_in_a_tuple_or_list_are_two_arguments(container):
    x = torch.zeros(3, 4)
    summary = summarize(nn.Bilinear(4, 4, 2), container([x, x]))
    assert summary == summarize(nn.Bilinear(4, 4, 2), x, x)
    assert summary.rows[0].outputs == ((3, 2),)


def test_a_dataclass_and_a_user_dict_are_read_like_everywhere():
    import collections
    import dataclasses

    @dataclasses.dataclass
    class Output:
        hidden: torch.Tensor

    class Net(nn.Module):
        def forward(self, x):
            return Output(x)

    assert summarize(Net(), collections.UserDict(x=torch.zeros(3))).rows[0].outputs == ((3,),)


def test_a_bare_shape_is_named_as_one():
    note = summarize(nn.Conv2d(3, 8, 3), (1, 3, 8, 8)).notes
    assert note == ("no shapes: inputs must hold tensors, got what looks like a shape; pass torch.zeros(1, 3, 8, 8)",)


def test_what_data_parallel_wraps_is_described():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    assert summarize(nn.DataParallel(model), torch.zeros(3, 4)) == summarize(model, torch.zeros(3, 4))


def test_a_scripted_model_gives_its_table_without_shapes():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(nn.Sequential(nn.Linear(2, 3)))
    summary = summarize(model, torch.zeros(1, 2))
    assert summary.count.total == 9


@READS_NO_MASK
def test_a_deep_model_prints_equal_layers_once():
    import transformers as hf

    with torch.device("meta"):
        model = hf.LlamaForCausalLM(hf.LlamaConfig())
    summary = summarize(model)
    assert summary.count.total == 6_738_415_616
    text = str(summary)
    assert len(text.splitlines()) < 25
    assert "LlamaDecoderLayer x 32" in text
    assert "LlamaDecoderLay… x 32" in str(summarize(model, torch.zeros(1, 16, dtype=torch.long)))
    assert "0-31" in text
    assert len(summary.rows) > 32
    tokens, width, inner, vocabulary = 16, 4096, 11008, 32000
    layer = tokens * 2 * (4 * width**2 + 3 * width * inner) + 2 * 2 * tokens**2 * width
    summary = summarize(model, torch.zeros(1, tokens, dtype=torch.long))
    assert summary.flops == 32 * layer + 2 * tokens * width * vocabulary
    assert len(str(summary).splitlines()) < 30
    assert max(map(len, str(summary).split("\n\n")[1].splitlines())) <= 90


def test_a_compiled_wrapper_is_described_as_the_module_inside():
    model = nn.Sequential(nn.Linear(3, 2))
    assert summarize(torch.compile(model, backend="eager"), torch.zeros(1, 3)) == summarize(model, torch.zeros(1, 3))


def test_depth_limits_the_tree():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    assert [row.name for row in summarize(model, depth=1).rows] == ["", "0"]
    assert len(summarize(model, depth=0).rows) == 1


def test_tied_weights_count_once_and_packed_inputs_as_keywords_work():
    model, inputs = zoo.ARCHITECTURES["lstm"]()
    summary = summarize(model, {"ids": inputs[0]})
    assert summary.rows[0].parameter_count == summary.count.total == sum(p.numel() for p in model.parameters())
    assert summary.rows[0].outputs == ((2, 6, 64),)


def test_messages():
    for arguments, error, message in [
        ((3,), TypeError, "model must be an nn.Module, got int"),
        ((nn.ReLU(), 1, {"depth": -1}), ValueError, "depth must be an integer of at least 0, got -1"),
        ((nn.ReLU(), 1, {"run": "fake"}), ValueError, "run must be one of ('auto', 'shapes', 'values'), got 'fake'"),
    ]:
        *positional, keywords = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
        with pytest.raises(error) as caught:
            summarize(*positional, **keywords)
        assert str(caught.value) == message
