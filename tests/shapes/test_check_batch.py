"""The batch check: planted bugs on their lines, no alarm on what is right, and what it says where it cannot see."""

import collections
import dataclasses
import functools
import importlib.util
import inspect
import json
import logging
import re
import subprocess
import sys
import warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.shapes import architectures, mutations, seeded
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import Variable

from linkboy import assert_batch_safe, check_batch, cli


def built(text, folder, name="planted_net"):
    """Write the text of a module with a `Net` in it and return one, in eval mode."""
    path = folder / f"{name}.py"
    path.write_text(text, "utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.Net().eval()


def kinds(report):
    return [finding.kind for finding in report.findings]


def rows(*shape):
    return lambda batch: torch.randn(batch, *shape)


# --- planted bugs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["auto", "values"])
@pytest.mark.parametrize("name", seeded.BUGS)
def test_planted_bugs_are_found_on_their_line(name, run):
    make, inputs, kind = seeded.BUGS[name]
    torch.manual_seed(0)
    report = check_batch(make(), inputs, run=run)
    found = [(finding.kind, finding.line) for finding in report.findings]
    assert found[0] == (kind, seeded.line_of_bug(make))
    assert report.findings[0].file == seeded.__file__


@pytest.mark.parametrize("name", seeded.CONTROLS)
def test_the_controls_are_clean(name):
    make, inputs = seeded.CONTROLS[name]
    report = check_batch(make(), inputs)
    assert report.ok, str(report)
    assert not report.notes


@pytest.mark.parametrize("model", mutations.MODELS)
def test_clean_models_have_no_finding(model, tmp_path):
    report = check_batch(built(mutations.source(model)[0], tmp_path), mutations.MODELS[model][2])
    assert report.ok, str(report)


def first_lines(chosen, folder):
    """Return, for each mutation, whether the first finding is on its line."""
    hits = []
    for number, (model, old, new) in enumerate(chosen):
        text, line = mutations.source(model, old, new)
        report = check_batch(built(text, folder, f"net_{number}"), mutations.MODELS[model][2])
        hits.append([finding.line for finding in report.findings][:1] == [line])
    return hits


def test_some_mutations_are_found_on_their_line(tmp_path):
    assert all(first_lines(mutations.MUTATIONS[:12:3] + mutations.HELD_OUT[:4:2], tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("group", ["MUTATIONS", "HELD_OUT"])
def test_at_least_95_percent_of_mutations_are_found_on_their_line(group, tmp_path):
    hits = first_lines(getattr(mutations, group), tmp_path)
    assert sum(hits) / len(hits) >= 0.95


# --- architectures -------------------------------------------------------------------------------------------------------

ALL = {**architectures.TUNED, **architectures.UNSEEN}
QUICK = ["bert", "longformer", "mixtral", "resnet", "t5"]


def check_architecture(name):
    torch.manual_seed(0)
    model, inputs = ALL[name]()
    report = check_batch(model.eval(), inputs)
    assert report.ok, str(report)
    assert report.call_count > 20


OLD_T5 = pytest.mark.skipif(
    int(version("transformers").partition(".")[0]) < 5,
    reason="waits for transformers 5: a mask of T5 that is no hazard",
)


@pytest.mark.filterwarnings("default")  # of transformers
@pytest.mark.parametrize("name", [pytest.param(name, marks=OLD_T5) if name == "t5" else name for name in QUICK])
def test_no_false_alarm_on_a_few_architectures(name):
    check_architecture(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sorted(set(ALL) - set(QUICK)))
def test_no_false_alarm_on_the_other_architectures(name):
    check_architecture(name)


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        out = self.model(**inputs)[0]
        return out.flatten(1)[:, :1].squeeze()  # BUG


class Mixed(Wrapped):
    def forward(self, **inputs):
        out = self.model(**inputs)[0]
        return out - out.mean(dim=0)  # BUG


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("wrapper", [Wrapped, Mixed])
@pytest.mark.parametrize("name", sorted(ALL))
def test_a_bug_planted_behind_each_architecture_is_found(name, wrapper):
    torch.manual_seed(0)
    model, inputs = ALL[name]()
    report = check_batch(wrapper(model.eval()), inputs)
    if (name, wrapper) == ("mobilevit", Mixed):  # whose signal, at random weights, dies before the output
        assert report.notes == (
            "the output of a sample does not change when the sample is replaced; mixing was tested on the results of the "
            "calls inside",
        )
    else:
        assert report.findings[0].line == seeded.line_of_bug(wrapper), str(report)


def test_an_output_that_tells_nothing_is_tested_inside():
    quiet = lambda x: (x.tanh() * 0).sum(1, keepdim=True)  # noqa: E731
    assert check_batch(quiet, rows(4)).ok
    loud = lambda x: ((x - x.mean(0)) * 0).sum(1, keepdim=True)  # noqa: E731
    assert check_batch(loud, rows(4)).untested == (
        "mixing was not tested: the output of a sample does not change when the sample is replaced",
    )


# --- what a finding says -------------------------------------------------------------------------------------------------


def test_a_finding_is_a_sentence_with_what_was_expected_and_what_came():
    report = check_batch(lambda x: x.squeeze(), rows(1, 4))
    finding = report.findings[0]
    assert str(finding) == (
        f"shape at batch 1, {__file__}:{finding.line} `x.squeeze()`: expected (1, 4), got (4,); squeeze() without dim "
        "removed dims [0, 1] including dim 0 (batch of one?); name the dim, such as squeeze(-2)"
    )
    assert str(report).splitlines()[0] == "batch check: 1 finding   1 call compared on fake tensors"
    assert str(report).splitlines()[2] == "(B, 1, 4) -> (B, 4)"
    plain = json.loads(report.to_json())
    assert plain["ok"] is False
    assert plain["findings"][0]["got"] == "(4,)"


def test_batch_norm_in_training_mode_is_noted_and_the_rest_is_tested():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    report = check_batch(model, rows(4), sizes=(2, 3))
    assert report.ok
    assert report.notes == (
        "BatchNorm in training mode mixes samples by design (1); the test for mixing ran it in eval mode",
    )
    assert check_batch(model.eval(), rows(4)).notes == ()
    report = check_batch(nn.Sequential(nn.BatchNorm1d(4), nn.Softmax(dim=0)), rows(4), sizes=(2, 3))
    assert kinds(report) == ["mixing"]


def test_a_special_case_behind_an_early_return_shows_at_the_next_call():
    def model(x):
        if len(x) == 1:
            return x
        return x.tanh()

    finding = check_batch(model, rows(4)).findings[0]
    assert (finding.kind, finding.code) == ("control-flow", "x.tanh()")


def test_a_wrong_transpose_shows_at_the_reshape_behind_it():
    def model(x):
        moved = x.transpose(0, 1)
        return moved.reshape(len(x), -1)

    findings = check_batch(model, rows(6, 4)).findings
    assert [(finding.kind, finding.code) for finding in findings] == [("mixing", "moved.reshape(len(x), -1)")]


def without_kernel(message):
    """Take away the kernel that torch 2.15 names before its message."""
    return re.sub(r"\b(add)?mm: ", "", message)


def test_a_lost_batch_before_an_exception_comes_first():
    linear = nn.Linear(6, 2)
    report = check_batch(lambda x: linear(x.view(-1, 4)), rows(6, 2))
    assert [(f.kind, f.code) for f in report.findings] == [("leading-dim", "x.view(-1, 4)")]
    report = check_batch(lambda x: linear(x.view(-1, 2)), rows(6, 2))  # merged dims are nothing wrong
    assert kinds(report) == ["error"]
    assert (
        without_kernel(report.findings[0].got)
        == "RuntimeError: mat1 and mat2 shapes cannot be multiplied (30x2 and 6x2)"
    )


def test_an_error_at_every_batch_size_is_not_put_down_to_the_batch():
    finding = check_batch(nn.Linear(4, 3), rows(5)).findings[0]
    assert without_kernel(str(finding)) == (
        "error at batch 5, the model: expected a result, got RuntimeError: mat1 and mat2 shapes cannot be multiplied (5x5 "
        "and 4x3); every batch size raises: fix the model, or let make_inputs return the inputs that it takes"
    )
    some = check_batch(lambda x: x.view(2, -1), rows(5)).findings
    assert [finding.advice for finding in some if finding.kind == "error"] == [
        "make this line work for every batch size"
    ]


def test_a_long_error_is_cut_to_its_first_line():
    got = check_batch(nn.Conv2d(3, 4, 3), lambda _: "a").findings[0].got
    assert got.startswith("TypeError: conv2d() received an invalid combination of arguments - got (str, ")
    assert "\n" not in got
    assert len(got) < 330


def test_inputs_that_do_not_follow_the_batch_are_named():
    finding = check_batch(nn.Linear(4, 3), lambda _: torch.randn(6, 4)).findings[0]
    assert (finding.kind, finding.got) == ("leading-dim", "(6, 3)")
    assert (
        finding.advice == "the inputs are the same at every batch size; let make_inputs use the size that it is given"
    )


def test_a_model_that_returns_no_tensor_is_not_tested_for_mixing():
    report = check_batch(lambda x: x.sum(1).tolist(), rows(4))
    assert report.untested == ("mixing was not tested: the model returned no tensor",)
    assert not report.ok
    assert str(report).startswith("batch check: not complete   1 call compared on real data")
    assert check_batch(lambda x: x.sum(1).tolist(), rows(4), mixing=False).ok


def test_an_output_without_the_batch_is_a_finding():
    report = check_batch(lambda x: x.relu().mean(), rows(4))
    assert [(f.kind, f.got, f.code) for f in report.findings] == [("leading-dim", "a scalar", "x.relu().mean()")]
    assert check_batch(lambda x: x.t() * 2, rows(4)).outputs == ("(4, B)",)
    report = check_batch(lambda x: x.t() * 2, rows(4), output_batch_dim=0)
    assert [(f.kind, f.got, f.code) for f in report.findings] == [("leading-dim", "(4, B)", "x.t()")]


def test_only_the_output_tells_where_a_scripted_model_goes_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        scripted = torch.jit.script(seeded.ConvSqueezeLast())
        wrong = torch.jit.script(seeded.DimlessSqueeze())
    report = check_batch(scripted, rows(4, 9))
    assert report.ok
    assert report.notes == ("no call was seen (torch.jit.script, or another thread): only outputs were compared",)
    report = check_batch(wrong, rows(4, 9))
    assert [(f.kind, f.batch, f.line, f.expected, f.got) for f in report.findings] == [
        ("shape", 1, 0, "(1, 8)", "(8,)")
    ]
    assert "shape at batch 1, output: expected (1, 8)" in str(report)


# --- what is no finding --------------------------------------------------------------------------------------------------


def test_a_feature_size_equal_to_a_batch_size_changes_nothing():
    linear = nn.Linear(3, 2)
    assert check_batch(linear, rows(2, 3)).ok
    assert check_batch(linear, rows(5, 3)).ok
    assert check_batch(lambda x: linear(x).view(-1, 7, 2), rows(7, 3)).ok


def test_dropout_in_training_mode_does_not_mix_samples():
    assert check_batch(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train(), rows(4)).ok


def test_a_loop_over_the_batch_is_predicted_as_well():
    assert check_batch(lambda x: torch.stack([row.relu() for row in x]), rows(4)).ok


def test_a_table_of_every_sample_with_every_other_is_left_alone():
    report = check_batch(lambda a, b: a @ b.t(), lambda b: (torch.randn(b, 4), torch.randn(b, 4)))
    assert report.ok
    assert report.outputs == ("(B, B)",)
    assert not report.notes
    report = check_batch(lambda a, b: a @ b.t() / a.norm(), lambda b: (torch.randn(b, 4), torch.randn(b, 4)))
    assert [(f.kind, f.code) for f in report.findings] == [("mixing", "a.norm()")]


def test_time_first_models_keep_the_batch_where_it_came_in():
    lstm = nn.LSTM(4, 6)
    report = check_batch(lambda x: lstm(x)[0], lambda b: torch.randn(9, b, 4))
    assert report.ok, str(report)
    assert report.outputs == ("(9, B, 6)",)


def test_flattening_batch_and_time_and_back_is_clean():
    linear = nn.Linear(4, 2)
    report = check_batch(lambda x: linear(x.reshape(-1, 4)).reshape(*x.shape[:2], 2), rows(6, 4))
    assert report.ok, str(report)


@dataclasses.dataclass
class Out:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


def test_outputs_and_inputs_of_any_form():
    linear = nn.Linear(4, 2)
    for wrap in (lambda y: {"logits": y}, lambda y: Out(y, y.mean()), lambda y: (y.mean(), y), lambda y: [[y]]):
        assert check_batch(lambda x, wrap=wrap: wrap(linear(x)), rows(4)).ok
    assert check_batch(
        lambda x, mask: linear(x) * mask, lambda b: {"mask": torch.ones(b, 1), "x": torch.randn(b, 4)}
    ).ok
    report = check_batch(lambda x: {"logits": linear(x).softmax(0)}, rows(4))
    assert kinds(report) == ["mixing"]


def test_integer_inputs_are_replaced_too():
    embed = nn.Embedding(9, 4)
    report = check_batch(lambda ids: embed(ids) - embed(ids).mean(0), lambda b: torch.randint(9, (b, 3)))
    assert kinds(report) == ["mixing"]
    report = check_batch(embed, lambda b: torch.zeros(b, 3, dtype=torch.long))
    assert report.untested == (
        "mixing was not tested: there is nothing to replace, because no input both follows the batch and holds different "
        "values; let make_inputs draw random values",
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_other_dtypes(dtype):
    assert check_batch(lambda x: x * 2, lambda b: torch.randn(b, 4, dtype=dtype)).ok
    report = check_batch(lambda x: x - x.mean(0), lambda b: torch.randn(b, 4, dtype=dtype))
    assert kinds(report) == ["mixing"]


# --- the model and the world stay as they are ----------------------------------------------------------------------------


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.last = x
        return self.norm(x)


@pytest.mark.parametrize("run", ["shapes", "values"])
def test_buffers_attributes_flags_and_random_numbers_are_as_before(run):
    model = Stateful()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_batch(model, rows(4), run=run)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.calls == 0
    assert not hasattr(model, "last")
    assert model.training
    assert torch.is_grad_enabled()


def test_the_data_of_the_caller_are_not_written_to():
    data = torch.randn(10, 4)
    before = data.clone()
    check_batch(lambda x: x.relu(), lambda b: data[:b])
    assert torch.equal(data, before)
    check_batch(lambda x: x.relu(), lambda b: data[:1].expand(b, 4))
    assert torch.equal(data, before)


@pytest.mark.parametrize("run", ["shapes", "values"])
def test_a_model_may_write_into_its_input_and_keep_what_it_saw(run):
    class Hoarding(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.by_size = [], {}

        def forward(self, x):
            self.seen.append(x)
            self.by_size[len(x)] = x
            return x.mul_(2)

    model, data = Hoarding(), torch.randn(10, 4)
    before = data.clone()
    assert check_batch(model, lambda b: data[:b], run=run).ok
    assert torch.equal(data, before)
    assert (model.seen, model.by_size) == ([], {})


def test_inputs_may_come_from_anywhere():
    def inputs(b):
        lengths = torch.randint(1, 9, (b,))  # a fake tensor would have no list
        return torch.from_numpy(np.random.default_rng(b).normal(size=(b, 4))), lengths.tolist()

    assert check_batch(lambda x, _: x * 2, inputs).run == "shapes"


def test_a_model_in_data_parallel_is_looked_at_inside():
    model = nn.DataParallel(nn.Sequential(nn.Linear(4, 4), nn.Softmax(dim=0)))
    assert kinds(check_batch(model, rows(4))) == ["mixing"]


def test_a_compiled_model_is_looked_at_as_it_was_written():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, which imports what it has deprecated
        model = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.Softmax(dim=0)))
    assert kinds(check_batch(model, rows(4))) == ["mixing"]


# --- a sample depends on itself alone ------------------------------------------------------------------------------------


def finding_of(model, inputs, **options):
    """Return kind and code of the first finding."""
    finding = check_batch(model, inputs, **options).findings[0]
    return finding.kind, finding.code


linear = nn.Linear(4, 2)


class Places(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(50, 1, 8))

    def forward(self, x):
        h = x * 2
        places = self.table[: x.size(0)]
        return h + places


def longest(x, n):
    mask = (torch.arange(6) < n[:, None]).float()
    total = (x * mask[..., None]).sum(1)
    return total / n.max()


def lengths(batch):
    return torch.randn(batch, 6, 4), torch.randint(1, 7, (batch,))


def test_results_that_depend_on_the_place_in_the_batch_are_found():
    assert finding_of(Places(), rows(5, 8)) == ("place", "self.table[: x.size(0)]")
    model = lambda x: linear(x) + torch.arange(len(x))[:, None]  # noqa: E731
    assert finding_of(model, rows(4)) == ("place", "torch.arange(len(x))")
    gather = lambda x: x[torch.arange(len(x)), x.argmax(1)]  # noqa: E731 - the same number, but to look a row up
    assert check_batch(gather, rows(4)).ok


def test_results_that_depend_on_the_size_of_the_batch_are_found():
    assert finding_of(lambda x: linear(x) / x.size(0), rows(4)) == ("batch-size", "linear(x) / x.size(0)")
    assert finding_of(lambda x: linear(x) * len(x) ** 0.5, rows(4))[0] == "batch-size"
    assert finding_of(longest, lengths)[1] == "n.max()"


def test_a_finding_says_with_which_samples_it_shows():
    finding = check_batch(lambda x: linear(x) / x.size(0), rows(4)).findings[0]
    assert (finding.expected, finding.got, finding.advice) == (
        "a result that does not depend on the batch size",
        "another result for sample 0 with a batch of 1",
        "this call uses the batch size, or values of all samples; use only what belongs to the sample",
    )
    finding = check_batch(Places(), rows(5, 8)).findings[0]
    assert finding.got == "another result for sample 0 with the samples in another order"


class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.state = nn.GRUCell(4, 4), None

    def forward(self, x):
        before = torch.zeros(len(x), 4) if self.state is None else self.state
        self.state = self.cell(x, before)
        return self.state


class DroppingOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x):
        return F.dropout(self.linear(x), 0.5)


def test_state_between_calls_and_dropout_in_eval_mode_are_found():
    model = Keeping().eval()
    assert finding_of(model, rows(4)) == ("state", "self.cell(x, before)")
    assert model.state is None
    assert finding_of(DroppingOut().eval(), rows(4)) == ("random", "F.dropout(self.linear(x), 0.5)")
    report = check_batch(DroppingOut(), rows(4))  # which in training mode is what it is for
    assert report.ok
    assert "the model draws random numbers, first by dropout at" in report.notes[0]


def test_a_model_that_raises_on_real_data_alone_is_not_ok():
    def model(x):
        y = x.clone()
        y[1:] += y[:-1]  # memory that overlaps, which fake tensors do not see
        return y

    finding = check_batch(model, rows(4)).findings[0]
    assert (finding.kind, finding.batch, finding.op) == ("error", 3, "RuntimeError")


def test_a_test_that_the_model_refuses_makes_the_report_incomplete():
    def model(x, n):
        packed = nn.utils.rnn.pack_padded_sequence(x, n, batch_first=True)  # wants sorted lengths
        return nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)[0]

    def sorted_lengths(batch):
        return torch.randn(batch, 40, 4), torch.randint(1, 40, (batch,)).sort(descending=True).values

    report = check_batch(model, sorted_lengths)
    assert not report.findings
    assert not report.ok
    assert report.untested[0].startswith("mixing was not tested: with ")
    assert "the model raised RuntimeError: `lengths` array must be sorted" in report.untested[0]


# --- sizes that follow the values ----------------------------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x, n):
        packed = nn.utils.rnn.pack_padded_sequence(x, n.cpu(), batch_first=True, enforce_sorted=False)
        return self.out(nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])


def greedy(x):
    out = [x]
    while len(out) < 9 and not bool((out[-1].sum(1) > 2).all()):
        out.append(out[-1] + 1)
    return torch.stack(out, 1)


def detected(x):
    return [{"boxes": row[row[:, 0] > 0], "scores": row[row[:, 0] > 0, 0]} for row in x]


def in_columns(x):
    return {"boxes": [row[row[:, 0] > 0] for row in x]}


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Tagger().eval(), lengths), (lambda x, n: linear(x[:, : n.max()]), lengths), (greedy, rows(4)),
        (detected, rows(8, 4)), (in_columns, rows(8, 4)),
    ],
    ids=["packed", "trimmed", "greedy", "detector", "columns"],
)  # fmt: skip
def test_a_length_that_follows_the_values_is_no_fault(model, inputs):
    report = check_batch(model, inputs)
    assert report.ok, str(report)


def test_a_length_that_follows_the_values_reads_as_unknown():
    assert check_batch(Tagger().eval(), lengths).outputs == ("(B, ?, 2)",)
    report = check_batch(lambda x, n: linear(x[:, : n.max()]).squeeze(), lengths)
    assert (report.findings[0].kind, report.findings[0].expected) == ("shape", "(1, ?, 2)")


@pytest.mark.parametrize(
    "model",
    [
        lambda x: torch.cat([linear(part) for part in x.split(2)]),
        lambda x: torch.cat([linear(part) for part in x.split(4)]),
        lambda x: torch.cat([linear(part) for part in x.chunk(3)]),
        lambda x: torch.cat([linear(x[at : at + 2]) for at in range(0, len(x), 2)]),
    ],
)
def test_working_through_a_batch_in_pieces_is_no_fault(model):
    report = check_batch(model, rows(4))
    assert report.ok, str(report)


def test_pieces_that_do_not_fit_together_are_found():
    model = lambda x: torch.cat([part - part.mean(0) for part in x.split(2)])  # noqa: E731
    assert kinds(check_batch(model, rows(4))) == ["mixing"]


def test_squeezing_a_tensor_without_samples_is_no_finding():
    report = check_batch(lambda x: x * (torch.ones(1) * 2).squeeze() + torch.ones(1, 4, 1).squeeze(), rows(4))
    assert report.ok, str(report)


def test_an_output_may_carry_its_batch_in_another_dim():
    model = lambda x: linear(x).transpose(0, 1)  # noqa: E731
    report = check_batch(model, rows(6, 4))
    assert report.ok
    assert report.outputs == ("(6, B, 2)",)
    assert check_batch(model, rows(6, 4), output_batch_dim=1).ok
    finding = check_batch(model, rows(6, 4), output_batch_dim=0).findings[0]
    assert (finding.kind, finding.expected, finding.code) == (
        "leading-dim",
        "an output with B at dim 0",
        "linear(x).transpose(0, 1)",
    )


def test_two_inputs_may_come_in_a_list_and_keywords_in_any_mapping():
    assert check_batch(nn.Bilinear(4, 4, 2), lambda b: [torch.randn(b, 4), torch.randn(b, 4)]).ok
    assert check_batch(lambda x, y: x + y, lambda b: collections.UserDict(x=torch.randn(b, 4), y=torch.randn(b, 4))).ok


# --- data-dependent models -----------------------------------------------------------------------------------------------


def item_in_forward(x):
    return x * float(x.abs().max().item() > 0)


def test_an_item_in_forward_turns_to_real_data():
    report = check_batch(item_in_forward, rows(4))
    assert report.ok
    assert report.run == "values"
    report = check_batch(item_in_forward, rows(4), run="shapes")
    assert kinds(report) == ["error"]


def test_calls_that_depend_on_the_data_are_left_out_and_named():
    def forward(x):
        return x + x[x[:, 0] > 0].sum() * 0

    report = check_batch(forward, rows(4))
    assert report.ok, str(report)
    assert report.notes[0].startswith(
        f"1 place where sizes depend on the values was not compared in full, such as __getitem__ at {__file__}:"
    )


def test_what_a_fake_run_cannot_do_is_not_logged(caplog):
    with caplog.at_level(logging.ERROR):
        check_batch(lambda x: torch._grouped_mm(x, x) if False else item_in_forward(x), rows(4))
    assert not caplog.records


def test_a_model_on_the_meta_device_is_checked_by_shapes_alone():
    with torch.device("meta"):
        model = nn.Linear(4, 2)
    report = check_batch(model, lambda b: torch.empty(b, 4, device="meta"))
    assert not report.findings
    assert report.untested == (
        "mixing was not tested: the model is on the meta device and has no values; pass mixing=False to check shapes alone",
    )
    assert check_batch(model, lambda b: torch.empty(b, 4, device="meta"), mixing=False).ok


def test_a_model_that_is_never_the_same_twice_is_not_tested_for_mixing():
    generator = torch.Generator()
    report = check_batch(lambda x: x + torch.rand((), generator=generator), rows(4), run="values")
    assert report.untested == ("mixing was not tested: two equal runs gave different outputs",)


class Cached(nn.Module):
    @staticmethod
    @functools.cache
    def positions(length):
        return torch.arange(length)

    def forward(self, x):
        return x + self.positions(x.shape[1])


def test_what_a_model_caches_outside_of_itself_stays_real():
    report = check_batch(Cached(), rows(4))
    assert report.ok, str(report)
    assert type(Cached.positions(4)) is torch.Tensor


def test_mixed_samples_are_followed_back_past_what_sorts_them_on_the_way():
    def forward(x):
        order = x[:, 0].argsort()  # as a router does; undone below, so nothing mixes
        back = order.argsort()
        h = x[order][back]
        return h - h.mean(dim=0)  # BUG

    report = check_batch(forward, rows(4))
    lines, first = inspect.getsourcelines(forward)
    assert report.findings[0].line == first + next(n for n, line in enumerate(lines) if line.endswith("# BUG\n"))


# Made inside of forward, by what torch functions see (`.detach()`) and what they do not (`Variable(...)`).
MADE = {
    "Variable(zeros)": lambda y: y + Variable(torch.zeros(1, 4)),
    "Variable(data)": lambda y: y + Variable(y.data),
    "data": lambda y: y + y.data,
    "detach": lambda y: y + y.detach(),
    "tensor(tensor)": lambda y: y + torch.tensor(torch.ones(4)),
    "tensor(list)": lambda y: y + torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "Parameter": lambda y: y + nn.Parameter(torch.zeros(1, 4)),
    "Tensor(list)": lambda y: y + torch.Tensor([1, 2, 3, 4]),
    "Tensor(tensor)": lambda y: y + torch.Tensor(torch.ones(4)),
    "FloatTensor": lambda y: y + torch.FloatTensor(4).zero_(),
    "new": lambda y: y + Variable(y.data.new(y.size(0), 4).zero_()),
    "from_numpy": lambda y: y + torch.from_numpy(np.zeros((1, 4), np.float32)),
    "index": lambda y: y * Variable(torch.eye(4)).index_select(0, Variable(y.max(dim=1)[1].data)),
    "scatter": lambda y: y * Variable(torch.zeros(y.size(0), 4)).scatter_(1, y.max(1)[1].data.view(-1, 1), 1.0),
}


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # what is tested is the copy
@pytest.mark.parametrize("name", MADE)
def test_a_tensor_made_in_forward_is_no_finding_whatever_ran_before(name):
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    FakeTensorMode.cache_clear()  # as in a new process
    first, second = (check_batch(lambda x: MADE[name](layer(x)), rows(8)) for _ in range(2))
    assert (first.ok, first.run, str(first)) == (True, "shapes", str(second))


@pytest.mark.slow
def test_a_tensor_made_in_forward_is_no_finding_in_a_new_process():
    code = (
        "import torch\n"
        "from linkboy import check_batch\n"
        "from torch.autograd import Variable\n"
        "layer = torch.nn.Linear(8, 4)\n"
        "for forward in (lambda x: layer(x) + Variable(torch.zeros(1, 4)), lambda x: layer(x) + torch.FloatTensor(4).zero_()):\n"
        "    print(str(check_batch(forward, lambda n: torch.rand(n, 8))).splitlines()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["batch check: no finding   3 calls compared on fake tensors"] * 2


def test_a_special_case_with_a_variable_is_still_found():
    def forward(x):
        if x.shape[0] == 3:  # BUG
            return Variable(x).sigmoid()
        return Variable(x).tanh()

    FakeTensorMode.cache_clear()
    lines, first = inspect.getsourcelines(forward)
    found = [(finding.kind, finding.line) for finding in check_batch(forward, rows(4), mixing=False).findings]
    assert found == [("control-flow", first + next(n for n, line in enumerate(lines) if line.endswith("# BUG\n")))]


@pytest.mark.parametrize(
    "passed",
    [lambda i: i, lambda i: i.data, Variable, lambda i: Variable(i.data), lambda i: torch.from_numpy(i.numpy())],
    ids=["itself", "data", "Variable", "Variable-data", "numpy"],
)
def test_mixed_samples_are_followed_back_past_what_no_call_made(passed):
    def forward(x):
        c = F.softmax(x, dim=0)  # BUG
        i = c.max(dim=1)[1]
        return x * torch.eye(10).index_select(0, passed(i))

    report = check_batch(forward, rows(10))
    lines, first = inspect.getsourcelines(forward)
    assert report.findings[0].line == first + next(n for n, line in enumerate(lines) if line.endswith("# BUG\n"))


def _rows_of_the_input(x):
    first = x.unbind(0)[0]
    assert first.shape == x.shape[1:]
    return x.softmax(dim=0)  # BUG


def _rows_of_data(x):
    y = torch.sin(x)
    first = y.unbind(0)[0]
    assert first.shape == x.shape[1:]
    return y.data.softmax(dim=0)  # BUG


def _in_place(x):
    y = torch.sin(x)
    y.sub_(y.mean(dim=0))  # BUG
    return Variable(y.data).cos()


def _in_place_on_a_view(x):
    y = torch.sin(x)
    y.view(-1, 5, 2).sub_(x.view(-1, 5, 2).mean(dim=0))  # BUG
    return Variable(y.data).cos()


@pytest.mark.parametrize("forward", [_rows_of_the_input, _rows_of_data, _in_place, _in_place_on_a_view])
def test_memory_belongs_to_the_call_that_made_or_wrote_it(forward):
    report = check_batch(forward, rows(10))
    lines, first = inspect.getsourcelines(forward)
    assert report.findings[0].line == first + next(n for n, line in enumerate(lines) if line.endswith("# BUG\n"))


def test_mixing_can_be_left_out():
    assert check_batch(lambda x: x.softmax(0), rows(4), mixing=False).ok


# --- assertions, arguments, command --------------------------------------------------------------------------------------


def test_the_assertion_carries_the_report():
    with pytest.raises(AssertionError) as caught:
        assert_batch_safe(lambda x: F.softmax(x, 0), rows(4))
    assert str(caught.value).startswith("batch check: 1 finding")
    assert "mixing at batch 3" in str(caught.value)
    assert_batch_safe(nn.Linear(4, 2), rows(4))


def test_wrong_arguments_are_named():
    for arguments, error, message in [
        ((3, rows(4)), TypeError, "model must be callable, got int"),
        (
            (nn.Identity(), torch.zeros(3)),
            TypeError,
            "make_inputs must be a function of the batch size, got f32[3]; pass one such as lambda n: torch.randn(n, 10)",
        ),
        ((nn.Linear, rows(4)), TypeError, "model must be a model or a function, got the class Linear; build it first"),
        (
            (nn.Sequential(nn.LazyLinear(2)), rows(4)),
            ValueError,
            "model must have no lazy parameters, which a run would fill, and '0.weight' is one; run one batch through the "
            "model first",
        ),
    ]:
        with pytest.raises(error) as caught:
            check_batch(*arguments)
        assert str(caught.value) == message
    for keywords, error, message in [
        ({"sizes": (0,)}, ValueError, "each of sizes must be an integer of at least 1, got 0"),
        ({"sizes": ()}, ValueError, "sizes must have at least one batch size, got none"),
        ({"sizes": 3}, TypeError, "sizes must be a sequence of batch sizes, got int"),
        (
            {"output_batch_dim": -1},
            ValueError,
            "output_batch_dim must be an integer of at least 0, got -1",
        ),
        ({"probe": (5, 5)}, ValueError, "probe must be two different batch sizes, got (5, 5)"),
        ({"run": "yes"}, ValueError, "run must be one of ('auto', 'shapes', 'values'), got 'yes'"),
    ]:
        with pytest.raises(error) as caught:
            check_batch(nn.Identity(), rows(4), **keywords)
        assert str(caught.value) == message


def test_the_command_prints_the_report_and_ends_with_1_for_a_finding(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_nets.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def forward(self, x, ids):\n        return x.squeeze()\n"
        "def build():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.run(["shapes", "my_nets:build", "--input", "2,3,8,8"]) == 0
    assert "(B, 3, 8, 8) -> (B, 144)" in capsys.readouterr().out
    assert cli.run(["shapes", "my_nets:build", "--input", "2,3,8,8", "--train"]) == 0
    assert "BatchNorm in training mode" in capsys.readouterr().out
    assert cli.run(["shapes", "my_nets:Net", "--input", "2,1,4", "--input", "2,7:int64", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["line"] == 5
