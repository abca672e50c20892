"""The one way from an example to a run: every kind of container is read and rebuilt, and a run leaves no trace."""

import collections
import contextlib
import copy
import dataclasses
import random
import types
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from linkboy._calls import Arguments, arguments_of, map_tensors, model_run, named_tensors, tensors_in, ways


class Pair(collections.namedtuple("Pair", ["left", "right"])):
    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    first: Any
    second: Any = None


@dataclasses.dataclass
class Plain:
    first: Any
    second: Any = dataclasses.field(init=False)

    def __post_init__(self):
        self.second = None


class Attributes(dict):
    """The dict whose attributes are its items, as many projects have it."""

    def __init__(self, *items, **more):
        super().__init__(*items, **more)
        self.__dict__ = self


class Listed(list):
    name = "kept"


class Wrapped(collections.abc.Mapping):
    """A mapping whose copies share one table."""

    def __init__(self, table):
        self.table = table

    def __getitem__(self, key):
        return self.table[key]

    def __iter__(self):
        return iter(self.table)

    def __len__(self):
        return len(self.table)


def plain_dict(items):
    return {f"k{i}": item for i, item in enumerate(items)}


def default_dict(items):
    made = collections.defaultdict(list)
    made.update(plain_dict(items))
    return made


CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "deque": collections.deque,
    "list subclass": Listed,
    "dict": plain_dict,
    "OrderedDict": lambda items: collections.OrderedDict(plain_dict(items)),
    "defaultdict": default_dict,
    "AttrDict": lambda items: Attributes(plain_dict(items)),
    "UserDict": lambda items: collections.UserDict(plain_dict(items)),
    "mapping proxy": lambda items: types.MappingProxyType(plain_dict(items)),
    "Mapping": lambda items: Wrapped(plain_dict(items)),
    "named tuple": lambda items: Pair(items[0] if items else None, items[1:]),
    "frozen dataclass": lambda items: Record(items[0] if items else None, items[1:]),
    "dataclass": Plain,
}
leaves = st.one_of(
    st.integers(0, 3).map(lambda size: torch.arange(float(size))), st.sampled_from([None, "word", 3, torch.float16])
)
values = st.recursive(
    leaves,
    lambda inner: st.tuples(st.sampled_from(sorted(CONTAINERS)), st.lists(inner, max_size=3)).map(
        lambda made: CONTAINERS[made[0]](made[1])
    ),
    max_leaves=12,
)


def entries(value):
    """Every object in a value with its class, walked in another way than linkboy does it."""
    if isinstance(value, (Pair, tuple, list, collections.deque)):
        inner = list(value)
    elif isinstance(value, (dict, collections.UserDict, types.MappingProxyType, Wrapped)):
        inner = [value[key] for key in value]
    elif isinstance(value, (Record, Plain)):
        inner = [value.first, value.second]
    else:
        return [value]
    return [value, *(entry for item in inner for entry in entries(item))]


@settings(max_examples=150, deadline=None)
@given(values)
def test_every_tensor_is_found_in_order_and_named_apart(value):
    found = [entry for entry in entries(value) if isinstance(entry, Tensor)]
    assert list(map(id, tensors_in(value))) == list(map(id, found))
    named = list(named_tensors(value))
    assert [id(tensor) for _, tensor in named] == list(map(id, found))
    assert len({name for name, _ in named}) == len(named)


@settings(max_examples=150, deadline=None)
@given(values)
def test_containers_are_rebuilt_as_they_were_and_never_written_into(value):
    before = entries(value)
    seen = []
    made = map_tensors(value, lambda tensor: seen.append(tensor) or tensor + 1)
    after = entries(value)
    assert list(map(id, before)) == list(map(id, after))
    assert list(map(id, seen)) == list(map(id, tensors_in(value)))
    for old, new in zip(before, entries(made), strict=True):
        assert type(old) is type(new)
        if isinstance(old, Tensor):
            assert torch.equal(new, old + 1)
        elif isinstance(old, tuple(type(make([])) for make in CONTAINERS.values())):
            assert new is not old or old in ((), Pair(None, []))
        else:
            assert new is old


def test_paths_name_keys_fields_and_places():
    output = {"logits": torch.ones(1), "hidden_states": (torch.ones(2), Pair(torch.ones(3), [torch.ones(4)]))}
    names = ["logits", "hidden_states.0", "hidden_states.1.left", "hidden_states.1.right.0"]
    assert [name for name, _ in named_tensors(output)] == names
    assert [name for name, _ in named_tensors(torch.ones(1))] == ["output"]
    assert [name for name, _ in named_tensors(torch.ones(1), "input")] == ["input"]


def test_a_packed_sequence_is_one_argument_and_stays_one():
    packed = pack_padded_sequence(torch.randn(2, 3, 4), torch.tensor([3, 2]), batch_first=True)
    assert arguments_of(packed).args[0] is packed
    made = map_tensors([packed], torch.clone)[0]
    assert type(made) is PackedSequence
    assert made.data is not packed.data
    assert torch.equal(made.data, packed.data)
    assert [name for name, _ in named_tensors(packed)] == ["data", "batch_sizes"]


def test_what_torch_and_transformers_return_is_rebuilt():
    pair = torch.ones(2, 3).max(dim=0)
    made = map_tensors(pair, torch.clone)
    assert type(made) is type(pair)
    assert torch.equal(made.indices, pair.indices)

    transformers = pytest.importorskip("transformers")
    output = transformers.modeling_outputs.BaseModelOutput(torch.ones(1), (torch.ones(2), torch.ones(3)))
    made = map_tensors(output, torch.neg)
    assert type(made) is type(output)
    assert made.last_hidden_state.item() == made[0].item() == made["last_hidden_state"].item() == -1
    assert output.hidden_states[0].sum() == 2
    assert [name for name, _ in named_tensors(output)] == ["last_hidden_state", "hidden_states.0", "hidden_states.1"]
    batch = transformers.BatchEncoding({"input_ids": torch.ones(1, 2)})
    made = map_tensors(batch, torch.neg)
    assert type(made) is transformers.BatchEncoding
    assert made.input_ids.sum() == -2
    assert batch.input_ids.sum() == 2
    assert arguments_of(batch).kwargs.keys() == {"input_ids"}


def test_writing_into_an_attr_dict_that_was_rebuilt_leaves_the_callers_alone():
    given = Attributes(x=torch.ones(2))
    made = map_tensors(given, torch.clone)
    made.x.zero_()
    made.y = 1
    assert given.x.sum() == 2
    assert made.x is made["x"]
    assert "y" not in given


# ------------------------------------------------------------------------------------------------------ arguments
x = torch.zeros(2, 3)
RECORD = Record(
    x
)  # one object, since Python 3.13 compares the fields of two, and tensors do not compare to a truth value


@pytest.mark.parametrize(
    ("example", "args", "kwargs"),
    [
        (x, (x,), {}),
        ((x, x), (x, x), {}),
        ([x, x], (x, x), {}),
        (([x, x],), ([x, x],), {}),
        ({"a": x}, (), {"a": x}),
        (collections.UserDict(a=x), (), {"a": x}),
        (RECORD, (RECORD,), {}),
        ("text", ("text",), {}),
        (None, (None,), {}),
        ((), (), {}),
        ((3,), (3,), {}),
        ((x, 3), (x, 3), {}),
    ],
    ids=str,
)
def test_one_rule_from_an_example_to_arguments(example, args, kwargs):
    assert arguments_of(example) == Arguments(args, kwargs)


@pytest.mark.parametrize("example", [(2, 3), [2, 3], torch.Size([2, 3])])
def test_a_bare_shape_is_refused_with_the_fix(example):
    with pytest.raises(TypeError) as error:
        arguments_of(example, name="batch")
    assert str(error.value) == "batch must hold tensors, got what looks like a shape; pass torch.zeros(2, 3)"


def takes_batch(batch):
    return batch


def takes_batch_and_options(batch, scale=1.0, *, mask=None, **more):
    return batch


def takes_two(x, mask=None):
    return x


def takes_names(input_ids=None, attention_mask=None):
    return input_ids


def takes_any(**inputs):
    return inputs


def test_a_model_that_writes_into_its_one_mapping_does_not_write_into_the_callers():
    def forward(batch):
        batch["loss"] = batch.pop("ids").sum()
        return batch["loss"]

    for example in ({"ids": torch.ones(2)}, collections.UserDict(ids=torch.ones(2))):
        arguments = arguments_of(example, forward)
        assert type(arguments.args[0]) is type(example)
        assert arguments.args[0]["ids"] is example["ids"]
        assert arguments.call(forward) == 2
        assert list(example) == ["ids"]


@pytest.mark.parametrize(
    ("function", "keys", "is_one_argument"),
    [
        (takes_batch, ["a", "b"], True),
        (takes_batch, ["batch", "b"], True),
        (takes_batch, ["batch"], False),
        (takes_batch, [1, 2], True),
        (takes_batch_and_options, ["a", "b"], True),
        (takes_batch_and_options, ["batch", "more"], False),
        (takes_two, ["x"], False),
        (takes_two, ["x", "msk"], False),  # a typing error is Python's to name
        (takes_names, ["text"], False),
        (takes_any, ["a"], False),
        (torch.neg, ["a"], False),
        (nn.Linear(3, 3), ["x"], True),
        (nn.DataParallel(nn.Linear(3, 3)), ["x"], True),
        (nn.DataParallel(nn.Linear(3, 3)), ["input"], False),
    ],
)
def test_a_mapping_is_the_argument_where_its_keys_are_none(function, keys, is_one_argument):
    example = dict.fromkeys(keys, x)
    expected = Arguments((example,), {}) if is_one_argument else Arguments((), example)
    assert arguments_of(example, function) == expected


def test_a_call_cannot_write_into_the_callers_containers():
    batch = {"x": x, "more": [x]}
    arguments = arguments_of(batch, takes_any).map(torch.clone)
    arguments.kwargs.pop("x")
    arguments.kwargs["more"].clear()
    assert batch.keys() == {"x", "more"}
    assert len(batch["more"]) == 1


# -------------------------------------------------------------------------------------------------------- the run
class Everything(nn.Module):
    """A model whose forward does to itself, its input and the world all that a forward can do."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)
        self.rnn = nn.GRU(4, 4)
        self.ids = nn.Embedding(5, 4, max_norm=0.01)
        self.same = self.norm.weight  # a tie
        self.table = torch.ones(4)
        self.tables = [torch.ones(4), torch.ones(4)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that torch.jit is old; people still have such models
            self.script = torch.jit.script(nn.BatchNorm1d(4))
        self.history: list[Tensor] = []
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, batch):
        y = self.norm(batch["x"]) + self.ids(batch["ids"]) + self.script(batch["x"]) + self.table + self.tables[0]
        y = self.rnn(self.dropout(y)[None])[0][0] * self.frozen * self.same
        batch["x"].data.add_(1)
        batch["list"].append(y)
        self.table.add_(1)
        self.tables[0].add_(1)
        self.norm.running_mean.data.add_(1)
        self.history.append(y)
        self.new = y
        self.frozen.requires_grad_(True)
        self.norm.register_forward_hook(lambda *_: None)
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        if self.fails:
            raise ValueError("as planned")
        return {"out": y}


def trace_of(model: nn.Module, batch: Any) -> dict[str, Any]:
    """Whatever a run could leave behind, as values that can be compared."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    return {
        "values": {name: tensor.detach().clone().tolist() for name, tensor in tensors.items()},
        "objects": {name: id(tensor) for name, tensor in tensors.items()},
        "attributes": {
            name: {key: id(value) for key, value in module.__dict__.items()}
            for name, module in model.named_modules()
            if not isinstance(module, torch.jit.ScriptModule)
        },
        "tables": [table.tolist() for table in (model.table, *model.tables)],
        "flat": [id(tensor) for tensor in model.rnn._flat_weights],
        "history": list(model.history),
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) for module in model.modules() if hasattr(module, "_forward_hooks")],
        "gradients": [parameter.grad if parameter.grad is None else parameter.grad.tolist() for parameter in model.parameters()],
        "gradient objects": [id(parameter.grad) for parameter in model.parameters() if parameter.grad is not None],
        "required": [parameter.requires_grad for parameter in model.parameters()],
        "random": [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())],  # noqa: NPY002
        "batch": [batch["x"].tolist(), id(batch["x"]), list(batch["list"]), sorted(batch)],
        "grad mode": torch.is_grad_enabled(),
        "hidden": sorted(model.__dict__),
    }  # fmt: skip


@pytest.mark.parametrize("way", ["meta", "fake", "values"])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [None, True, False])
@pytest.mark.parametrize("grad", [False, True])
def test_a_run_leaves_no_trace(way, fails, training, grad):
    model = Everything(fails)
    model.norm.eval()
    model.norm.bias.grad = torch.ones(4)
    batch = {"x": torch.randn(3, 4), "ids": torch.tensor([0, 1, 2]), "list": []}
    if way != "values":
        model.script = nn.Identity()  # scripted modules run on values alone
    before = trace_of(model, batch)
    reached = []
    raised = pytest.raises(ValueError, match="as planned") if fails else contextlib.nullcontext()
    with raised, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with model_run(model, arguments_of(batch, model), way, grad=grad, training=training, seed=3) as run:
            for module in model.modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    module.register_forward_hook(lambda *_: None)
            output = run.call()["out"]
            reached.append(tuple(output.shape))
            assert output.requires_grad is grad
            if grad:
                output.sum().backward()
    assert reached == ([] if fails else [(3, 4)])
    assert trace_of(model, batch) == before


def test_a_run_on_values_computes_what_the_model_computes():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    inputs = torch.randn(8, 4)
    twin = copy.deepcopy(model)
    torch.manual_seed(5)
    expected = twin(inputs)
    with model_run(model, arguments_of(inputs), "values", seed=5) as run:
        assert torch.equal(run.call(), expected)
    with model_run(model, arguments_of(inputs), "values", training=False) as run:
        assert torch.equal(run.call(), copy.deepcopy(model).eval()(inputs))


@pytest.mark.parametrize("way", ["meta", "fake"])
def test_a_run_on_shapes_computes_nothing_and_gives_the_shapes(way):
    model = nn.Sequential(nn.LSTM(4, 8, batch_first=True))
    with model_run(model, arguments_of(torch.zeros(2, 3, 4)), way) as run:
        output, (hidden, cell) = run.call()
    assert (output.shape, hidden.shape, cell.shape) == ((2, 3, 8), (1, 2, 8), (1, 2, 8))
    assert output.is_meta if way == "meta" else output.device.type == "cpu"


def test_plain_tensors_of_modules_and_ties_have_stand_ins():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.tables = torch.ones(3), {"a": torch.ones(3)}
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def forward(self, x):
            assert self.first.weight is self.second.weight
            return self.second(self.first(x + self.table)) + self.tables["a"]

    model = Net()
    with model_run(model, arguments_of(torch.zeros(2, 3)), "meta") as run:
        assert run.call().is_meta
        assert run.originals[model.first.weight] is not model.first.weight
        assert run.originals[run.arguments.args[0]].shape == (2, 3)


def test_a_gradient_goes_to_inputs_of_the_run_and_not_to_the_callers():
    leaf = torch.ones(2, 3, requires_grad=True)
    with model_run(nn.Linear(3, 1), arguments_of(leaf * 2), "values", grad=True) as run:
        run.call().sum().backward()
        assert run.arguments.args[0].grad is not None
    assert leaf.grad is None


def test_functions_run_like_models():
    with model_run(takes_any, arguments_of({"a": x}), "fake", seed=0) as run:
        assert run.call()["a"].shape == (2, 3)


def test_what_depends_on_values_raises_on_shapes_and_the_ways_end_with_values():
    def data_dependent(x):
        return x[: int(x.sum())]

    assert ways(data_dependent, "auto") == ("meta", "fake", "values")
    assert ways(data_dependent, "auto", devices=True) == ("fake", "values")
    assert ways(data_dependent, "shapes") == ("meta", "fake")
    assert ways(data_dependent, "values") == ("values",)
    for way in ("meta", "fake"):
        with pytest.raises(Exception, match=r".") as error, model_run(data_dependent, arguments_of(x + 1), way) as run:
            run.call()
        assert error.type is not AssertionError
    with model_run(data_dependent, arguments_of(torch.ones(2)), "values") as run:
        assert len(run.call()) == 2


def test_a_model_without_values_runs_on_shapes_alone():
    model = nn.Linear(2, 2, device="meta")
    assert ways(model, "auto") == ways(model, "shapes") == ("meta", "fake")
    with pytest.raises(ValueError) as error:
        ways(model, "values")
    expected = "run='values' needs a model with values, got one on the meta device; load its weights first"
    assert str(error.value) == expected


def test_lazy_parameters_are_refused_and_stay_lazy():
    model = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(ValueError) as error, model_run(model, arguments_of(x), "values"):
        pass
    assert str(error.value) == (
        "model must have no lazy parameters, which a run would fill, and '0.weight' is one; "
        "run one batch through the model first"
    )
    assert isinstance(model[0], nn.LazyLinear)


def test_the_log_of_fake_tensors_is_quiet_only_in_the_run(caplog):
    with pytest.raises(RuntimeError), model_run(nn.Linear(5, 2), arguments_of(x), "fake") as run:
        run.call()
    assert not caplog.records


class Batch(NamedTuple):
    x: torch.Tensor
    mask: torch.Tensor


def test_a_named_tuple_is_one_argument_where_its_fields_are_no_arguments():
    pair = Batch(torch.zeros(2), torch.ones(2))
    assert arguments_of(pair, lambda batch: batch.x).call(lambda batch: batch.mask) is pair.mask
    assert arguments_of(pair, lambda batch, scale=1: batch.x).args == (pair,)
    assert arguments_of(pair, lambda x, mask: x).args == tuple(pair)
    assert arguments_of(pair, lambda a, b: a).args == tuple(pair)  # two arguments, whatever they are called
    assert arguments_of(pair).args == tuple(pair)


def test_a_run_on_values_needs_an_example_with_values():
    example = arguments_of(torch.zeros(2, device="meta"))
    with pytest.raises(ValueError) as error, model_run(nn.ReLU(), example, "values"):
        pass
    assert str(error.value) == "a run on values needs an example with values, got a tensor on the meta device"
    with model_run(nn.ReLU(), example, "meta") as run:
        assert run.call().shape == (2,)


def test_a_list_of_shapes_is_refused_with_what_to_pass():
    message = "example must hold tensors, got what looks like shapes; pass [torch.zeros(2, 4), torch.zeros(2, 5)]"
    for shapes in ([(2, 4), (2, 5)], ((2, 4), torch.Size([2, 5]))):
        with pytest.raises(TypeError) as caught:
            arguments_of(shapes)
        assert str(caught.value) == message
    tokens = [[1, 2], [3, 4]]  # lists may be what a model takes
    assert arguments_of(tokens).args == ([1, 2], [3, 4])


def test_a_loader_is_refused_with_what_to_pass():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(2, 3)))
    with pytest.raises(TypeError) as caught:
        arguments_of(loader, name="batch")
    assert str(caught.value) == "batch must be one batch, got a DataLoader; pass next(iter(loader))"
