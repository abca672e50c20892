"""One reader for `package.module:name` and for inputs such as `2,3:int64`, whichever command they are given to."""

import pytest
import torch
from torch import nn

from linkboy.cli._targets import Input, check_named_op, check_target, describe_target

WRONG_INPUTS = {
    "2x3": "an input must be sizes with commas between them, such as 2,3,224,224 or 2,16:int64, got '2x3'",
    "2,3:int": "the dtype of an input must be one of float32, float64, bfloat16, float16, int64, int32, bool, complex64, "
    "got 'int'; did you mean 'int64'?",
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int64", "int32", "bool", "complex64"])
def test_an_input_of_every_dtype_is_drawn(dtype):
    drawn = Input.read(f"4, 3:{dtype}").draw(batch=2)
    assert drawn.shape == (2, 3)
    assert drawn.dtype == getattr(torch, dtype)
    if not drawn.is_floating_point() and not drawn.is_complex():
        assert set(drawn.int().flatten().tolist()) <= {0, 1}


@pytest.mark.parametrize("text", WRONG_INPUTS)
def test_both_commands_refuse_an_input_in_the_same_words(text):
    for check in (
        lambda: check_target("torch.nn:Identity", [text]),
        lambda: check_named_op("torch:tanh", inputs=[text]),
    ):
        with pytest.raises(ValueError) as caught:
            check()
        assert str(caught.value) == WRONG_INPUTS[text]


def test_operators_take_inputs_of_other_dtypes(tmp_path, monkeypatch):
    (tmp_path / "my_typed_ops.py").write_text(
        "def pick(x, rows):\n    return x[rows] * x.new_ones(()).double().dtype.itemsize\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert check_named_op("torch:sigmoid", inputs=["2,3:float64"], compile=False).ok
    assert check_named_op("my_typed_ops:pick", inputs=["2,3:float64", "4:int64"], compile=False).ok


def test_the_inputs_of_an_operator_are_the_same_each_time(monkeypatch):
    seen = []
    monkeypatch.setattr("linkboy.check_op", lambda fn, *args, **options: seen.append(args))
    check_named_op("torch:add", inputs=["4,3", "3"])
    check_named_op("torch:add", inputs=["4,3", "3"])
    assert all(map(torch.equal, *seen))
    assert torch.equal(seen[0][0], torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))


def test_paths_are_counted_and_functions_called(tmp_path, monkeypatch):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "m.pt")
    for target in (tmp_path / "m.pt", tmp_path):
        assert describe_target(str(target)).total == 8
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(3, 2))\nready = nn.Linear(1, 1)\ncount = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert describe_target("my_models:build", depth=0).count.total == 8
    assert describe_target("my_models:ready").count.total == 2
    for target, error, message in [
        ("my_models:buil", ValueError, "'my_models' has no 'buil'; did you mean 'build'?"),
        ("my_models:count", TypeError, "'my_models:count' must give an nn.Module, got int"),
        ("nothing.pt", FileNotFoundError,
         "no file or folder 'nothing.pt'; a function that builds a model is package.module:name"),
        ("no_such_package.models:build", ModuleNotFoundError,
         "target must be a path or package.module:name, got 'no_such_package.models:build', and no module "
         "'no_such_package' was found; start from the folder that holds it, install it, or check its name"),
        ("nets/my_models.py:build", ModuleNotFoundError,
         "target must be a path or package.module:name, got 'nets/my_models.py:build', and no module 'nets/my_models' was "
         "found; write nets.my_models:build"),
    ]:  # fmt: skip
        with pytest.raises(error) as caught:
            describe_target(target)
        assert str(caught.value) == message


def test_a_module_that_needs_a_missing_one_names_that_one(tmp_path, monkeypatch):
    (tmp_path / "my_needy_models.py").write_text("import no_such_need\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        describe_target("my_needy_models:build")
    assert str(caught.value) == "No module named 'no_such_need'"


MISTAKES = [
    (lambda: check_target("torch.nn:Identity", []), ValueError,
     "pass one --input for each positional argument, such as --input 2,3,224,224, got none"),
    (lambda: check_target("torch:get_num_threads", ["2,3"]), TypeError,
     "'torch:get_num_threads' must give an nn.Module, got int"),
    (lambda: check_target("torch.nn", ["2,3"]), ValueError, "target must be package.module:factory, got 'torch.nn'"),
    (lambda: check_named_op("torch"), ValueError, "target must be package.module:name, got 'torch'"),
    (lambda: check_named_op("torch:tanhh"), ValueError, "'torch' has no 'tanhh'; did you mean 'tanh'?"),
    (lambda: check_named_op("torch:float32"), TypeError,
     "'torch:float32' must be a function of tensors, an autograd.Function or a module instance, got dtype"),
    (lambda: check_named_op("torch.nn:Linear"), TypeError,
     "'torch.nn:Linear' must be a function of tensors, an autograd.Function or a module instance, got a class"),
    (lambda: check_named_op("torch:tanh", inputs=["4"], inputs_from="torch:rand"), ValueError,
     "describe the inputs with --input or with --inputs-from, not with both"),
    (lambda: check_named_op("torch:tanh", inputs_from="math:pi"), TypeError,
     "'math:pi' must be a function that returns the inputs, got float"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
def test_messages(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
