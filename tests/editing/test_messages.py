"""What is refused, with its full text, before anything is touched."""

import pytest
import torch
from tests.editing import models
from tests.editing.models import fingerprint
from torch import nn

from linkboy.editing import insert_layer, keep_layers, remove_layer, replace_layer, surgery


class Own(nn.Module):
    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def nested():
    return Own(encoder=Own(layer=nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])), head=nn.Linear(2, 2))


def resize_head(model, name, count, **options):
    with surgery(model) as s:
        s.resize_head(name, count, **options)


def resize_embeddings(model, count, name=None, **options):
    with surgery(model) as s:
        s.resize_embeddings(count, name, **options)


def truncate(model, name):
    with surgery(model) as s:
        s.truncate(name)


def wrap(model, name, fn):
    with surgery(model) as s:
        s.wrap(name, fn)


def tied():
    model = Own(table=nn.Embedding(6, 2), head=nn.Linear(2, 6, bias=False))
    model.head.weight = model.table.weight
    return model


def with_parameter_tied_elsewhere():
    model = Own(table=nn.Embedding(6, 2), other=Own())
    model.other.weight = model.table.weight
    return model


def padded():
    return Own(table=nn.Embedding(6, 2, padding_idx=5))


def whole():
    model = Own(head=nn.Linear(2, 2))
    model.head.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    return model


MESSAGES = [
    (nested, lambda m: remove_layer(m, "encoder.layr.0"), KeyError,
     "no module 'encoder.layr.0'; 'encoder' holds layer ModuleList; did you mean 'encoder.layer.0'?"),
    (nested, lambda m: remove_layer(m, "xyz"), KeyError, "no module 'xyz'; the model holds encoder Own, head Linear"),
    (nested, lambda m: remove_layer(m, "encoder.layer.-4"), KeyError,
     "no module 'encoder.layer.-4'; 'encoder.layer' holds 0 Linear, 1 Linear, 2 Linear; did you mean 'encoder.layer.2'?"),
    (nested, lambda m: remove_layer(m, ""), ValueError,
     "name must name a module below the model, got '': the model itself cannot be replaced in place"),
    (nested, lambda m: remove_layer(m, 3), TypeError, "name must be the qualified name of a module, got int"),
    (nested, lambda m: remove_layer(m, "encoder.layer.-1", kind="ReLU"), TypeError,
     "'encoder.layer.2' is a Linear, not a ReLU; beside it there are 0 Linear, 1 Linear, 2 Linear"),
    (nested, lambda m: remove_layer(m, "head", kind=nn.Conv2d), TypeError,
     "'head' is a Linear, not a Conv2d; beside it there are encoder Own, head Linear"),
    (nested, lambda m: replace_layer(m, "head", nn.Linear), TypeError,
     "module for 'head' must be an nn.Module, got the class Linear; build it first"),
    (nested, lambda m: replace_layer(m, "head", lambda old: 3), TypeError,
     "module for 'head' must be an nn.Module, got int"),
    (nested, lambda m: replace_layer(m, "encoder.layer.*", nn.ReLU()), TypeError,
     "module must be a function of the old module where names stand for several (3 here), such as "
     "lambda old: nn.Identity(), got ReLU"),
    (nested, lambda m: remove_layer(m, "*.laier.*"), KeyError,
     "pattern '*.laier.*' matches none of the 6 modules"),
    (nested, lambda m: remove_layer(m, "*", kind="Dropout"), KeyError,
     "pattern '*' matches no Dropout; what it matches is of type Linear, ModuleList, Own"),
    (nested, lambda m: remove_layer(m, []), KeyError, "names must hold at least one name or pattern, got none"),
    (nested, lambda m: replace_layer(m, "head", nn.Sequential(nn.LazyLinear(2))), ValueError,
     "module for 'head' has a lazy parameter '0.weight', which neither a check nor an optimizer can use; "
     "pass its sizes to the class without Lazy"),
    (nested, lambda m: remove_layer(m, "head", kind=3), TypeError, "kind must be a class or the name of one, got 3"),
    (nested, lambda m: wrap(m, "head", nn.ReLU()), TypeError,
     "fn must be a function of the old module that returns the new one, such as lambda old: nn.Sequential(old, new), "
     "got ReLU"),
    (nested, lambda m: replace_layer(m, "head", m.head), ValueError,
     "module for 'head' is the module that is there already"),
    (nested, lambda m: replace_layer(m, "encoder.layer.0", m.encoder), ValueError,
     "module for 'encoder.layer.0' contains the Own it would be put into"),
    (nested, lambda m: replace_layer(m, "head", nn.Linear(2, 2, device="meta")), ValueError,
     "module for 'head' has 'weight' on the meta device, without values, and the model is on cpu; "
     "build the Linear on a real device"),
    (nested, lambda m: wrap(m, "head", lambda old: None), TypeError, "module for 'head' must be an nn.Module, got NoneType"),
    (nested, lambda m: wrap(m, "head", lambda old: old), ValueError, "module for 'head' is the module that is there already"),
    (nested, lambda m: insert_layer(m, "head", nn.ReLU()), TypeError,
     "insert_after needs a module of a Sequential or ModuleList, and 'head' is an attribute of Own, whose forward decides "
     "what is called; wrap('head', lambda old: nn.Sequential(old, new)) puts a module behind it"),
    (nested, lambda m: insert_layer(m, "encoder.layer.0", nn.ReLU(), key="a"), ValueError,
     "key must be None, as the layers of 'encoder.layer' are numbered, got 'a'"),
    (lambda: models.named()[0], lambda m: insert_layer(m, "act", nn.ReLU(), key="fc1"), ValueError,
     "key must be a new name without dots for 'the model', which has fc1, norm, act, fc2, got 'fc1'"),
    (nested, lambda m: keep_layers(m, "encoder", [0]), TypeError,
     "keep_layers needs a Sequential or ModuleList, and 'encoder' is a Own; the model has encoder.layer"),
    (nested, lambda m: keep_layers(m, "encoder.layer", []), ValueError,
     "indices must keep at least one of the 3 layers of 'encoder.layer', got none"),
    (nested, lambda m: keep_layers(m, "encoder.layer", [0, 3, -4]), IndexError,
     "indices must lie in [-3, 3), as 'encoder.layer' has 3 layers, got [3, -4]"),
    (nested, lambda m: keep_layers(m, "encoder.layer", [0.5]), TypeError,
     "indices must be integers, positions in 'encoder.layer', got [0.5]"),
    (nested, lambda m: keep_layers(m, "encoder.layer", "01"), TypeError,
     "indices must be integers, positions in 'encoder.layer', got '01'"),
    (nested, lambda m: keep_layers(m, "encoder.layer", 2), TypeError,
     "indices must be integers, positions in 'encoder.layer', got 2"),
    (nested, lambda m: keep_layers(m, "encoder.layer", [True, False, True]), TypeError,
     "indices must be integers, positions in 'encoder.layer', got [True, False, True]"),
    (nested, lambda m: keep_layers(m, "encoder.layer", iter(())), ValueError,
     "indices must keep at least one of the 3 layers of 'encoder.layer', got none"),
    (nested, lambda m: truncate(m, "head"), TypeError,
     "truncate needs a module of a Sequential or ModuleList, and 'head' is an attribute of Own, whose forward decides what "
     "follows it; remove by name what has to go"),
    (nested, lambda m: truncate(m, "encoder.layer.2"), ValueError,
     "nothing follows 'encoder.layer.2', so there is nothing to truncate"),
    (nested, lambda m: resize_head(m, "encoder", 3), TypeError,
     "resize_head needs a Linear or an ungrouped convolution, and 'encoder' is a Own; it holds encoder.layer.0, "
     "encoder.layer.1, encoder.layer.2"),
    (nested, lambda m: resize_head(m, "head", 0), ValueError, "out_features must be an integer of at least 1, got 0"),
    (tied, lambda m: resize_head(m, "head", 3), ValueError,
     "'head' is tied to table.weight; resize_embeddings changes both together, replace(..., tie=False) ends the tie"),
    (whole, lambda m: resize_head(m, "head", 3), ValueError,
     "'head' has a quantised weight (torch.int8), which cannot be resized; dequantise it first"),
    (nested, lambda m: resize_embeddings(m, 8), ValueError, "name must say which Embedding to resize, as the model has 0"),
    (lambda: Own(a=nn.Embedding(3, 2), b=nn.Embedding(3, 2)), lambda m: resize_embeddings(m, 8), ValueError,
     "name must say which Embedding to resize, as the model has 2: a, b"),
    (nested, lambda m: resize_embeddings(m, 8, "head"), TypeError, "name must name an Embedding, and 'head' is a Linear"),
    (nested, lambda m: resize_head(m, "head", 3, fill=0), TypeError,
     "fill must be a function that fills a tensor in place, got int"),
    (tied, lambda m: resize_embeddings(m, 8, head="table"), TypeError, "head must name a Linear, and 'table' is a Embedding"),
    (padded, lambda m: resize_embeddings(m, 4), ValueError,
     "num_embeddings must keep the padding row 5 of 'table', got 4"),
    (with_parameter_tied_elsewhere, lambda m: resize_embeddings(m, 8), TypeError,
     "'other.weight' is tied to 'table' and belongs to a Own, which cannot follow"),
    (nested, lambda m: remove_layer(m, "head", example=(2, 3)), TypeError,
     "example must hold tensors, got what looks like a shape; pass torch.zeros(2, 3)"),
    (nested, lambda m: remove_layer(m, "head", run="value"), ValueError,
     "run must be one of ('auto', 'shapes', 'values'), got 'value'; did you mean 'values'?"),
    (nested, lambda m: remove_layer(m, "head", config="all"), TypeError,
     "config must be 'auto', a mapping of fields or None, got 'all'"),
    (nested, lambda m: remove_layer(m, "head", config={"a": 1}), ValueError,
     "config must be 'auto' or None, as Own has no config, got {'a': 1}"),
    (lambda: models.bert()[0], lambda m: remove_layer(m, "pooler", config={"num_hiden_layers": 1}), ValueError,
     "config names 'num_hiden_layers', which BertConfig does not have; did you mean 'num_hidden_layers'?"),
    (lambda: Own(lazy=nn.LazyLinear(3)), lambda m: remove_layer(m, "lazy"), ValueError,
     "'lazy' has lazy parameters; run one batch through the model before editing it"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "edit", "error", "message"), MESSAGES, ids=[case[3][:50] for case in MESSAGES])
def test_what_is_refused_says_why_and_changes_nothing(build, edit, error, message):
    model = build()
    before = fingerprint(model) if "lazy" not in message else None
    with pytest.raises(error) as caught:
        edit(model)
    assert caught.value.args[0] == message
    assert before is None or fingerprint(model) == before


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_models_and_parts_are_refused():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(TypeError) as caught:
        surgery(scripted)
    assert str(caught.value) == (
        "model is a RecursiveScriptModule, which cannot be edited; edit the model before scripting it"
    )
    model = nn.Sequential(scripted, nn.ReLU())
    with pytest.raises(TypeError) as caught:
        remove_layer(model, "0")
    assert str(caught.value) == "'0' is a RecursiveScriptModule, which cannot be edited; edit before scripting it"
    assert remove_layer(model, "1", example=torch.ones(1, 2)).edits == ("removed 1 (ReLU)",)


def test_wrapped_models_are_refused_with_the_part_to_edit():
    inner = nn.Linear(2, 2)
    for wrapper, path in (
        (nn.DataParallel(inner), "model.module"),
        (torch.compile(inner, backend="eager"), "model._orig_mod"),
    ):
        with pytest.raises(TypeError) as caught:
            surgery(wrapper)
        assert str(caught.value) == f"model is wrapped in {type(wrapper).__name__}; edit {path} and wrap it again"
    with pytest.raises(TypeError) as caught:
        surgery(nn.Sequential(nn.DataParallel(inner)))
    assert str(caught.value) == (
        "'0' is wrapped in DataParallel; put what is inside back, model.set_submodule('0', model.get_submodule('0.module')), "
        "and wrap it again after the edit"
    )
    with pytest.raises(TypeError) as caught:
        surgery("model")
    assert str(caught.value) == "model must be an nn.Module, got str"


def test_what_the_message_for_a_compiled_part_says_runs():
    model = nn.Sequential(torch.compile(nn.Linear(4, 4), backend="eager"), nn.Linear(4, 2))
    with pytest.raises(TypeError) as caught:
        replace_layer(model, "1", nn.Linear(4, 3))
    code = str(caught.value).split("put what is inside back, ")[1].split(", and wrap")[0]
    eval(code)
    replace_layer(model, "1", nn.Linear(4, 3), example=torch.ones(1, 4))
    assert [type(part).__name__ for part in model] == ["Linear", "Linear"]


def test_models_on_several_devices_are_refused_by_the_name_of_their_class():
    """Real ones need a process group; what counts is the name, so that nothing of torch.distributed is imported."""
    replicated = type("DistributedDataParallel", (Own,), {})(module=nn.Linear(2, 2))
    sharded = type("FSDPLinear", (type("FSDPModule", (), {}), nn.Linear), {})(2, 2)
    for model, message in (
        (replicated, "model is wrapped in DistributedDataParallel; edit model.module and wrap it again"),
        (nn.Sequential(sharded), "'0' is sharded by fully_shard; edit the model before sharding it"),
    ):
        with pytest.raises(TypeError) as caught:
            surgery(model)
        assert str(caught.value) == message


def test_models_compiled_in_place_are_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].compile(backend="eager")
    with pytest.raises(TypeError) as caught:
        surgery(model)
    assert str(caught.value) == "'0' was compiled in place; edit the model before compiling it"


def test_a_model_with_lazy_parts_elsewhere_can_be_edited():
    model = nn.Sequential(nn.ReLU(), nn.LazyLinear(2), nn.ReLU())
    assert remove_layer(model, "0").parameter_count_before == 0
    with pytest.raises(ValueError) as caught:
        remove_layer(model, "1", example=torch.ones(1, 3))
    assert str(caught.value) == (
        "model must have no lazy parameters, which a run would fill, and '0.weight' is one; "
        "run one batch through the model first"
    )
    assert isinstance(model[0], nn.LazyLinear)


def test_a_frozen_config_that_cannot_be_set_is_a_warning():
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Config:
        n_layer: int = 3

    model = nested()
    model.config = Config()
    report = remove_layer(model, "encoder.layer.0")
    assert "Config.n_layer cannot be set, and should be 2" in report.notes
    assert model.config.n_layer == 3


def test_a_plain_config_object_is_mended():
    class Config:
        def __init__(self):
            self.n_layer, self.layer_kinds, self.n_head = 3, ("a", "b", "c"), 3

    model = nested()
    model.config = Config()
    remove_layer(model, "encoder.layer.1")
    assert vars(model.config) == {"n_layer": 2, "layer_kinds": ("a", "c"), "n_head": 3}


def test_layer_numbers_of_any_name_follow_if_they_follow_the_position_everywhere():
    model = nested()
    for index, layer in enumerate(model.encoder.layer):
        layer.depth_number, layer.layer_idx, layer.groups = index + 1, index, 1
    report = keep_layers(model, "encoder.layer", [2, 0])
    numbers = [(layer.depth_number, layer.layer_idx, layer.groups) for layer in model.encoder.layer]
    assert numbers == [(1, 0, 1), (2, 1, 1)]
    assert "depth_number renumbered in encoder.layer: 2 values" in report.repairs


def test_layer_numbers_that_were_wrong_before_are_left_and_reported():
    model = nested()
    for index, layer in enumerate(model.encoder.layer):
        layer.layer_idx = 5 - index
    report = remove_layer(model, "encoder.layer.0")
    assert [layer.layer_idx for layer in model.encoder.layer] == [4, 3]
    assert "layer_idx in encoder.layer did not follow the positions before the edit and was left alone" in report.notes


def test_the_new_first_layer_needs_a_place_for_what_the_first_alone_owned():
    class Layer(nn.Module):
        def __init__(self, first, inner=True):
            super().__init__()
            if inner:
                self.part = Own()
                self.part.first = first
                if first:
                    self.part.bias = nn.Linear(1, 1)

    model = nn.Sequential(nn.Sequential(Layer(True), Layer(False)), nn.ReLU())

    def edit():
        with surgery(model) as s:
            s.replace("0.1", Layer(False, inner=False))
            s.remove("0.0")

    with pytest.raises(ValueError) as caught:
        edit()
    assert str(caught.value) == (
        "the first layer of '0' alone owned 'part.bias', on which all layers depend, and the new first layer (Layer) has "
        "no place for it; keep layer 0 first"
    )


@pytest.mark.parametrize("names", ["*", ["0", "1"]])
def test_a_removal_that_would_leave_nothing(names):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(ValueError) as caught:
        remove_layer(model, names)
    assert str(caught.value) == (
        f"names must leave at least one of the 2 modules of the model, and {names!r} stands for all of them; "
        "kind= selects among what a pattern matches"
    )
    assert len(model) == 2


def test_a_stack_that_is_left_empty_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    assert remove_layer(model, "1.0", example=torch.ones(1, 2)).notes == ("1 (Sequential) is empty now",)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (remove_layer, ("0",)),
        (replace_layer, ("0", nn.ReLU())),
        (insert_layer, ("0", nn.ReLU())),
        (keep_layers, ("", [0])),
    ],
)
def test_a_misspelled_option_is_named_with_the_function_that_was_called(call, arguments):
    with pytest.raises(TypeError) as caught:
        call(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), *arguments, exmaple=torch.ones(1, 2))
    assert (
        str(caught.value) == f"{call.__name__}() got an unexpected keyword argument 'exmaple'; did you mean 'example'?"
    )


def test_an_example_without_values_is_run_on_shapes():
    model, example = nn.Sequential(nn.ReLU(), nn.Tanh()), torch.ones(1, 2, device="meta")
    assert remove_layer(model, "1", example=example).checked.startswith("run on shapes")
    with pytest.raises(ValueError, match="run='values' needs an example with values, got one on the meta device"):
        remove_layer(nn.Sequential(nn.ReLU(), nn.Tanh()), "1", example=example, run="values")
