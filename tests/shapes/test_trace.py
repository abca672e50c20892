"""`trace_shapes`: rows on the user's lines, nothing changed and nothing kept, and one sentence on what is not seen."""

import gc
import json
import subprocess
import sys
import threading
import warnings
import weakref
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import Variable

from linkboy import trace_shapes


def line_of(function, text):
    import inspect

    lines, first = inspect.getsourcelines(function)
    return next(number for number, line in enumerate(lines, first) if text in line)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(10, 8), nn.LSTM(8, 6, batch_first=True)
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, ids):
        h = self.lstm(self.embed(ids))[0]
        h = self.attend(h, h, h)[0] + h
        return h.transpose(1, 2).reshape(len(ids), -1).relu_()


# --- rows ----------------------------------------------------------------------------------------------------------------


def test_rows_hold_call_place_shapes_kind_and_bytes():
    x = torch.zeros(2, 3, 4)
    with trace_shapes() as trace:
        x.transpose(1, 2).reshape(2, 12)
    first, second = trace.rows
    assert (first.op, first.code, first.kind, first.nbytes) == ("transpose", "x.transpose(1, 2)", "view", 0)
    assert (second.op, second.code) == ("reshape", "x.transpose(1, 2).reshape(2, 12)")
    assert (second.in_shapes, second.out_shapes) == (((2, 4, 3),), ((2, 12),))
    assert (second.kind, second.nbytes, second.hazards) == ("copy", 2 * 12 * 4, ("reshape-copy",))
    assert first.file == __file__
    assert first.line == second.line == line_of(test_rows_hold_call_place_shapes_kind_and_bytes, "x.transpose")
    assert first.function == "test_rows_hold_call_place_shapes_kind_and_bytes"


VIEWS = [
    lambda x: x.view(-1), lambda x: x.unsqueeze(0), lambda x: x[:, 0], lambda x: x.T, lambda x: x.permute(1, 0),
    lambda x: x.expand(2, 4, 6), lambda x: x.narrow(0, 0, 2), lambda x: x.flatten(), lambda x: x.unflatten(1, (2, 3)),
    lambda x: x.movedim(0, 1), lambda x: x.diagonal(), lambda x: torch.broadcast_to(x, (3, 4, 6)), lambda x: x.chunk(2)[0],
]  # fmt: skip
COPIES = [
    lambda x: x[[0, 1]], lambda x: x[x > 0], lambda x: x.repeat(2, 1), lambda x: torch.cat([x, x]),
    lambda x: torch.stack([x]), lambda x: x.T.contiguous(), lambda x: x.T.flatten(), lambda x: x.flip(0),
    lambda x: x.roll(1), lambda x: F.pad(x, (1, 1)), lambda x: x.tile(2), lambda x: x.index_select(0, torch.tensor([0])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "index"), [("view", n) for n in range(len(VIEWS))] + [("copy", n) for n in range(len(COPIES))]
)
def test_view_or_copy_agrees_with_the_storage(kind, index):
    call = (VIEWS if kind == "view" else COPIES)[index]
    x = torch.randn(4, 6)
    with trace_shapes() as trace:
        y = call(x)
    assert trace.rows[-1].kind == kind
    assert (y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) == (kind == "view")
    assert trace.rows[-1].nbytes == (0 if kind == "view" else y.nbytes)


def test_the_very_tensor_given_is_neither_view_nor_copy():
    x = torch.zeros(2, 3)
    with trace_shapes() as trace:
        assert x.contiguous() is x
    assert [row.kind for row in trace.rows] == ["same"]


def test_an_in_place_call_shows_the_shape_from_before():
    x = torch.zeros(1, 3, 1)
    with trace_shapes(hazards="collect") as trace:
        x.squeeze_(0)
        x.unsqueeze_(0).add_(1)
    assert [(row.op, row.in_shapes, row.out_shapes) for row in trace.rows] == [
        ("squeeze_", ((1, 3, 1),), ((3, 1),)),
        ("unsqueeze_", ((3, 1),), ((1, 3, 1),)),
    ]


def test_getters_and_calls_without_a_tensor_are_no_rows():
    x = torch.zeros(2, 3, requires_grad=True)
    with trace_shapes(ops="all") as trace:
        _ = x.shape, x.dtype, x.device, x.ndim, x.grad, x.is_leaf, x.size(), x.dim(), x.numel(), x.stride()
        _ = x.is_contiguous(), x.storage_offset(), x.data_ptr(), len(x), repr(x), hash(x), x.requires_grad
        _ = x[0, 0].detach().item(), x.tolist(), bool((x == 0).all()), f"{x.detach().sum():.1f}", x.element_size()
        torch.is_tensor(x), torch.equal(x, x)
    assert {row.op for row in trace.rows} == {"__getitem__", "detach", "__eq__", "all", "sum"}


def test_changes_leaves_out_what_keeps_the_shape_and_all_does_not():
    def run():
        return torch.zeros(3).add(1).relu().unsqueeze(0)

    with trace_shapes() as changes:
        run()
    with trace_shapes(ops="all") as everything:
        run()
    assert [row.op for row in changes.rows] == ["unsqueeze"]
    assert [row.op for row in everything.rows] == ["zeros", "add", "relu", "unsqueeze"]


def test_what_a_module_of_torch_does_is_put_down_to_the_line_that_calls_it():
    with trace_shapes(ops="all") as trace:
        Net()(torch.zeros(2, 5, dtype=torch.long))
    rows = {row.op: row for row in trace.rows}
    assert rows["lstm"].code == "self.lstm(self.embed(ids))"
    assert rows["embedding"].code == "self.embed(ids)"
    assert {row.file for row in trace.rows} == {__file__}


def test_under_keeps_the_calls_of_one_file():
    model = nn.Sequential(Net())
    for under in (__file__, Net, model[0], line_of):
        with trace_shapes(under=under) as trace:
            model(torch.zeros(2, 5, dtype=torch.long))
        assert trace.rows
    with trace_shapes(under=json) as trace:
        model(torch.zeros(2, 5, dtype=torch.long))
    assert not trace.rows


def test_a_file_without_calls_leaves_a_note():
    with trace_shapes(under="elsewhere.py") as trace:
        torch.zeros(2, 3).t()
    assert trace.rows == ()
    assert trace.notes == ("no recorded call is in the file of under='elsewhere.py'",)


def test_a_report_prints_and_turns_into_plain_values():
    with trace_shapes(hazards="collect") as trace:
        torch.zeros(1, 3, 1).squeeze()
    text = str(trace)
    assert "1 call, 1 hazard\n" in text
    assert "[1, 3, 1]  [3]" in text
    plain = json.loads(trace.to_json())
    assert plain["rows"][0]["in_shapes"] == [[1, 3, 1]]
    assert plain["hazards"][0]["rule"] == "squeeze-no-dim"
    assert "<table>" in trace._repr_html_()


def test_many_tensors_of_one_call_take_little_room_in_the_table():
    with trace_shapes() as trace:
        torch.cat([torch.zeros(1, 2)] * 1152)
        torch.cat([torch.zeros(1, 2), torch.zeros(2, 2), torch.zeros(2, 2)])
        torch.cat([torch.zeros(size, 2) for size in range(1, 12)])
    assert [len(row.in_shapes) for row in trace.rows] == [1152, 3, 11]
    lines = [" ".join(line.split()) for line in str(trace).splitlines()]
    assert "1152 x [1, 2] [1152, 2]" in lines[3]
    assert "[1, 2], [2, 2], [2, 2]" in lines[4]
    assert "[8, 2] and 3 more [66, 2]" in lines[5]


def test_the_trace_fills_while_the_block_runs():
    with trace_shapes() as trace:
        torch.zeros(3).view(1, 3)
        assert len(trace.rows) == 1
        torch.zeros(3).view(1, 3)
        assert len(trace.rows) == 2


# --- nothing changed, nothing kept ---------------------------------------------------------------------------------------


def test_results_and_gradients_are_bit_identical():
    def train():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1))
        loss = model(torch.randn(5, 6)).squeeze(-1).pow(2).mean()
        loss.backward()
        return [loss, *(p.grad for p in model.parameters())]

    plain = train()
    with trace_shapes(ops="all"):
        traced = train()
    assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))


def test_no_activation_is_kept_alive():
    with trace_shapes(ops="all") as trace:
        x = torch.zeros(3, 4)
        references = [weakref.ref(x)]
        y = x.view(12)
        references.append(weakref.ref(y))
        z = y + 1
        references.append(weakref.ref(z))
        del x, y, z
        gc.collect()
        assert [reference() for reference in references] == [None] * 3
    assert len(trace.rows) == 3


def test_leaving_restores_torch():
    with trace_shapes():
        pass
    assert not torch.overrides._get_current_function_mode_stack()
    with pytest.raises(KeyError), trace_shapes():
        raise KeyError
    assert not torch.overrides._get_current_function_mode_stack()


# --- places --------------------------------------------------------------------------------------------------------------


def test_two_calls_on_one_line_stay_apart():
    x = torch.zeros(2, 3)
    with trace_shapes() as trace:
        x.unsqueeze(1).repeat(1, 3, 1), x.view(6)
    assert [row.code for row in trace.rows] == ["x.unsqueeze(1)", "x.unsqueeze(1).repeat(1, 3, 1)", "x.view(6)"]


def test_an_expression_over_several_lines_is_shown_on_one():
    x = torch.zeros(2, 3)
    with trace_shapes() as trace:
        torch.reshape(
            x,  # the input
            (3, 2),
        )
        (x
         .unsqueeze(0)
         .view(6))  # fmt: skip
    assert [row.code for row in trace.rows] == ["torch.reshape(x, (3, 2))", "unsqueeze(0)", "view(6)"]
    assert trace.rows[2].line == trace.rows[1].line + 1 == trace.rows[0].line + 6


def test_lambdas_comprehensions_generators_and_decorated_functions():
    def twice(function):
        def inner(*arguments):
            return function(function(*arguments))

        return inner

    @twice
    @torch.no_grad()
    def add_dim(x):
        return x.unsqueeze(0)

    shorten = lambda x: x.flatten()  # noqa: E731
    x = torch.zeros(2, 3)
    with trace_shapes() as trace:
        shorten(add_dim(x))
        _ = [row.view(3, 1) for row in x]
        next(part.view(1, 3) for part in (x[0],))
    names = [(row.op, row.function.rpartition(".")[2]) for row in trace.rows]
    assert names[:3] == [("unsqueeze", "add_dim")] * 2 + [("flatten", "<lambda>")]
    assert trace.rows[3].op == "unbind"  # the loop over x
    assert [row.code for row in trace.rows[4:]] == ["row.view(3, 1)"] * 2 + ["x[0]", "part.view(1, 3)"]


def test_columns_count_bytes_of_utf_8():
    张量 = torch.zeros(2, 3)
    with trace_shapes() as trace:
        _ = "形状", 张量.unsqueeze(0)
    assert trace.rows[0].code == "张量.unsqueeze(0)"
    assert trace.rows[0].column == len('        _ = "形状", ')


def test_code_without_source_falls_back_to_file_and_line():
    with trace_shapes() as trace:
        exec("import torch\ntorch.zeros(3).view(1, 3)")
    assert (trace.rows[0].file, trace.rows[0].line, trace.rows[0].code) == ("<string>", 2, "")
    assert "line 2" in trace.listing()


def test_a_program_from_stdin_works():
    code = "import torch\nx = torch.zeros(1, 3, 1)\nx.squeeze()\n"
    with warnings.catch_warnings(record=True) as caught, trace_shapes() as trace:
        warnings.simplefilter("always")
        exec(compile(code, "<stdin>", "exec"), {})
    assert trace.listing().splitlines()[:2] == ["<stdin>", f"{'line 3':<60}  # [1, 3, 1] -> [3]"]
    assert (caught[0].filename, caught[0].lineno) == ("<stdin>", 3)
    assert str(caught[0].message).startswith("squeeze() without dim removed dims [0, 2]")


@pytest.mark.slow
def test_without_debug_ranges_the_whole_line_is_shown(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import torch, linkboy\n"
        "with linkboy.trace_shapes() as trace:\n"
        "    y = torch.zeros(3).view(1, 3)\n"
        "print(trace.rows[0].code)\n"
    )
    command = [sys.executable, "-X", "no_debug_ranges", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "y = torch.zeros(3).view(1, 3)"


def test_a_notebook_cell_has_its_source():
    import linecache

    cell = "import torch\ny = torch.zeros(2, 3).unsqueeze(0)\n"
    name = "/tmp/ipykernel_1/123.py"  # as IPython registers it
    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
    with trace_shapes() as trace:
        exec(compile(cell, name, "exec"), {})
    assert trace.rows[0].code == "torch.zeros(2, 3).unsqueeze(0)"
    del linecache.cache[name]


# --- modes ---------------------------------------------------------------------------------------------------------------


def test_under_vmap_and_grad_a_view_is_a_view_of_the_sample():
    x = torch.randn(5, 2, 3)
    with trace_shapes() as trace:
        torch.vmap(lambda s: s.transpose(0, 1).reshape(6))(x)
        torch.func.grad(lambda s: s.view(30).sum())(x)
        torch.vmap(torch.func.grad(lambda s: s.unsqueeze(0).sum()))(x)
    kinds = [(row.op, row.in_shapes[0], row.kind) for row in trace.rows if row.kind]
    assert kinds == [
        ("transpose", (2, 3), "view"),
        ("reshape", (3, 2), "copy"),
        ("view", (5, 2, 3), "view"),
        ("unsqueeze", (2, 3), "view"),
    ]


def test_nested_traces_both_see_the_call():
    with trace_shapes() as outer, trace_shapes() as inner:
        torch.zeros(3).view(1, 3)
    assert [row.code for row in outer.rows] == [row.code for row in inner.rows] == ["torch.zeros(3).view(1, 3)"]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, lambda: torch.device("meta")])
def test_other_contexts(context):
    with context(), trace_shapes() as trace:
        torch.zeros(2, 3).view(6).expand(2, 6)
    assert [row.kind for row in trace.rows] == ["view", "view"]


def test_subclasses_and_nested_tensors():
    class Marked(torch.Tensor):
        pass

    with trace_shapes() as trace:
        torch.zeros(2, 3).as_subclass(Marked).view(6)
    assert (trace.rows[0].op, trace.rows[0].kind) == ("view", "view")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)])
        jagged = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)], layout=torch.jagged)
        with trace_shapes(ops="all") as trace:
            nested + nested
            jagged + jagged
    assert trace.rows[0].in_shapes == ((2, "nested"),) * 2
    assert trace.rows[-1].out_shapes[0][0] == 2
    json.loads(trace.to_json())


def test_a_scripted_function_shows_nothing_and_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        module = torch.jit.script(nn.Sequential(nn.Linear(3, 2), nn.Flatten()))
        x = torch.zeros(4, 3)
        with trace_shapes(ops="all") as trace:
            module(x)
    assert not trace.rows
    assert trace.notes == (
        "no calls were seen: the tracer does not see calls inside torch.jit.script, in other threads or in compiled graphs",
    )


def test_other_threads_show_nothing_and_the_trace_says_so():
    with trace_shapes(ops="all") as trace:
        thread = threading.Thread(target=lambda: torch.zeros(3).view(1, 3))
        thread.start()
        thread.join()
    assert not trace.rows
    assert "in other threads" in trace.notes[0]


def test_backward_and_attention_leave_a_note_on_what_is_inside():
    with trace_shapes() as trace:
        Net()(torch.zeros(2, 5, dtype=torch.long)).sum().backward()
    assert trace.notes == (
        "multi_head_attention_forward is one row: the calls inside it are not seen (deep=True shows them)",
        "backward() ran: its steps are not calls that you wrote, so they are not in the trace",
    )


def test_a_function_compiled_before_runs_eagerly_inside_and_compiled_after():
    import torch._dynamo

    ran = []

    def backend(graph, inputs):
        ran.append("compiled")
        return graph

    compiled = torch.compile(lambda x: (x + 1).view(-1), backend=backend)
    x = torch.zeros(2, 3)
    with trace_shapes() as trace:
        y = compiled(x)
    assert [row.op for row in trace.rows] == ["view"]
    assert not ran
    assert torch.equal(compiled(x), y)
    assert ran == ["compiled"]


@pytest.mark.slow
def test_compiling_for_the_first_time_inside_leaves_a_note():
    code = (
        "import sys, torch, linkboy\n"
        "with linkboy.trace_shapes() as trace:\n"
        "    compiled = torch.compile(lambda x: (x + 1).view(-1), backend='eager')\n"
        "    y = compiled(torch.ones(2, 3))\n"
        "assert torch.equal(y, torch.full((6,), 2.0))\n"
        "print(*trace.notes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.compile was first used inside the block: its graphs were not seen"


@pytest.mark.skipif(not find_spec("torch.utils._debug_mode"), reason="waits for torch 2.10: DebugMode")
def test_deep_shows_the_aten_operators():
    with trace_shapes(deep=True) as trace:
        F.mse_loss(torch.zeros(3), torch.ones(3))
    assert "aten::mse_loss" in trace.deep
    assert str(trace).endswith(trace.deep)


# --- exceptions ----------------------------------------------------------------------------------------------------------


def test_an_exception_gets_one_note_and_the_trace_stays_readable():
    x = torch.zeros(2, 3, 4)
    with pytest.raises(RuntimeError) as caught, trace_shapes() as outer, trace_shapes() as trace:
        x.transpose(1, 2).view(2, 12)
    line = line_of(test_an_exception_gets_one_note_and_the_trace_stays_readable, "x.transpose")
    assert caught.value.__notes__ == [
        f"linkboy: {__file__}:{line} `x.transpose(1, 2).view(2, 12)`: view of (2, 4, 3) strides (12, 1, 4) not contiguous; "
        "reshape would copy 96 B"
    ]
    assert [row.op for row in trace.rows] == [row.op for row in outer.rows] == ["transpose"]
    hazard = trace.hazards[0]
    assert (hazard.rule, hazard.level, hazard.line, hazard.in_shapes) == (
        "view-non-contiguous",
        "error",
        line,
        ((2, 4, 3),),
    )
    assert (
        hazard.advice
        == "a view needs another memory layout; use reshape, which copies 96 B, or view before moving the dims"
    )


def test_the_note_shows_every_operand():
    a, b = torch.zeros(2, 3), torch.zeros(4, 5)
    with pytest.raises(RuntimeError) as caught, trace_shapes() as trace:
        a @ b
    note = caught.value.__notes__[0]
    assert note.endswith("`a @ b`: matmul of (2, 3) strides (3, 1) contiguous; (4, 5) strides (5, 1) contiguous")
    assert not trace.hazards


def test_an_exception_of_the_users_own_is_left_alone():
    with pytest.raises(KeyError) as caught, trace_shapes():
        raise KeyError("mine")
    assert not hasattr(caught.value, "__notes__")


def test_wrong_arguments_are_named():
    for arguments, error, message in [
        ({"hazards": "wrn"}, ValueError,
         "hazards must be one of ('warn', 'raise', 'collect'), got 'wrn'; did you mean 'warn'?"),
        ({"ops": "some"}, ValueError, "ops must be one of ('changes', 'all'), got 'some'"),
        ({"under": 3}, TypeError,
         "under must be a path, a Python module, or a class, function or nn.Module with a source file, got int"),
    ]:  # fmt: skip
        with pytest.raises(error) as caught, trace_shapes(**arguments):
            pass
        assert str(caught.value) == message


def test_deep_without_debug_mode_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils._debug_mode", None)
    with pytest.raises(RuntimeError) as caught, trace_shapes(deep=True):
        pass
    assert str(caught.value) == (
        f"deep=True needs torch 2.10 or newer, found {torch.__version__}; leave deep out, or run: pip install 'torch>=2.10'"
    )


def test_sparse_tensors_have_shapes_and_no_strides():
    x = torch.eye(3).to_sparse()
    with trace_shapes() as trace:
        x.transpose(0, 1)
        torch.cat([x, x])
        x.unsqueeze(0)
    assert [row.out_shapes for row in trace.rows] == [((3, 3),), ((6, 3),), ((1, 3, 3),)]
    with pytest.raises(RuntimeError) as caught, trace_shapes():
        x.view(9, 1)
    assert caught.value.__notes__[0].endswith("view of (3, 3)")


def test_on_fakes_a_call_of_torch_itself_is_no_row_whatever_ran_before():
    traces = []
    FakeTensorMode.cache_clear()  # as in a new process
    for _ in range(2):
        with FakeTensorMode(), trace_shapes(ops="all") as trace:
            torch.relu(Variable(torch.zeros(1, 4)))
            torch.ops.aten.neg.default(torch.FloatTensor(4))
        traces.append([row.op for row in trace.rows])
    assert traces == [["zeros", "relu", "neg.default"]] * 2
