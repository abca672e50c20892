"""What a command line names: a module's attribute as `package.module:name`, an input by its shape as `2,3:int64`."""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linkboy._checks import did_you_mean

if TYPE_CHECKING:  # importing torch or a room costs time that --help must not pay
    import torch
    from torch import Tensor, nn

    from linkboy.autograd import OpReport
    from linkboy.parameters import ModelSummary, ParameterCount
    from linkboy.shapes import BatchReport

_DTYPES = ("float32", "float64", "bfloat16", "float16", "int64", "int32", "bool", "complex64")


def load_named(target: str, *, need: str = "package.module:name") -> object:
    """Import the module before the colon and return the attribute that the dotted name after the colon gives.

    Args:
        target: `package.module:name`; the import executes the module.
        need: what the message of an error says `target` must be.

    Returns:
        The attribute.

    Raises:
        ValueError: there is no colon, or the module has no such name.
        ModuleNotFoundError: the module cannot be found, or it imports one that cannot.

    Examples:
        >>> load_named("math:pi")
        3.141592653589793
    """
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"target must be {need}, got {target!r}")
    place = _imported(module_name, target, need)
    for part in attribute.split("."):
        if not hasattr(place, part):
            raise ValueError(f"{module_name!r} has no {attribute!r}{did_you_mean(part, dir(place))}")
        place = getattr(place, part)
    return place


def _imported(module_name: str, target: str, need: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name != missing and not module_name.startswith(f"{missing}."):  # found, but it imports another
            raise
        advice = "start from the folder that holds it, install it, or check its name"
        if module_name.endswith(".py"):
            dotted = module_name.removesuffix(".py").replace("\\", ".").replace("/", ".")
            advice = f"write {dotted}:{target.partition(':')[2]}"
        raise ModuleNotFoundError(
            f"target must be {need}, got {target!r}, and no module {missing!r} was found; {advice}", name=missing
        ) from None


def load_model(target: str, *, need: str = "package.module:name") -> "nn.Module":
    """Return the module instance that a name gives, or that the function or class of that name returns when called.

    Args:
        target: `package.module:name`; the import executes the module.
        need: what the message of an error says `target` must be.

    Returns:
        The module, in the mode and on the device in which it was built.

    Raises:
        TypeError: the name gives something else.
        ValueError: there is no colon, or the module has no such name.
        ModuleNotFoundError: the module cannot be found, or it imports one that cannot.

    Examples:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    from torch import nn

    place = load_named(target, need=need)
    model = place() if isinstance(place, Callable) and not isinstance(place, nn.Module) else place
    if not isinstance(model, nn.Module):
        raise TypeError(f"{target!r} must give an nn.Module, got {type(model).__name__}")
    return model


@dataclass(frozen=True)
class Input:
    """The shape and dtype of one input, such as `2,3,224,224` or `2,16:int64`; float32 where none is named.

    Attributes:
        sizes: the size of each dimension, the batch first.
        dtype: name of a dtype of torch.

    Examples:
        >>> Input.read("2,16:int64")
        Input(sizes=(2, 16), dtype='int64')
    """

    sizes: tuple[int, ...]
    dtype: str

    @classmethod
    def read(cls, text: str) -> "Input":
        """Return what a text such as `2,16:int64` describes.

        Raises:
            ValueError: it has another form, or names a dtype that random inputs cannot have.
        """
        match = re.fullmatch(r"(\d+(?:,\d+)*)(?::(\w+))?", "".join(text.split()))
        if match is None:
            raise ValueError(
                f"an input must be sizes with commas between them, such as 2,3,224,224 or 2,16:int64, got {text!r}"
            )
        dtype = match[2] or "float32"
        if dtype not in _DTYPES:
            raise ValueError(
                f"the dtype of an input must be one of {', '.join(_DTYPES)}, got {dtype!r}{did_you_mean(dtype, _DTYPES)}"
            )
        return cls(tuple(int(size) for size in match[1].split(",")), dtype)

    def draw(self, *, batch: int | None = None, generator: "torch.Generator | None" = None) -> "Tensor":
        """Return a random tensor: floats from a standard normal distribution, integers and booleans 0 or 1.

        Args:
            batch: replaces the first size.
            generator: source of the numbers; torch's global one by default.
        """
        import torch

        dtype = getattr(torch, self.dtype)
        sizes = self.sizes if batch is None else (batch, *self.sizes[1:])
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(sizes, dtype=dtype, generator=generator)
        return torch.randint(2, sizes, generator=generator).to(dtype)


def describe_target(target: str, inputs: Sequence[str] = (), *, depth: int = 3) -> "ParameterCount | ModelSummary":
    """Count the parameters of a checkpoint, or summarize the model that a function builds.

    A path is read as `count_parameters(path, by="module")` reads it: nothing in it is loaded or executed.

    Args:
        target: a file, a folder, or `package.module:name`, which is imported and called.
        inputs: one text for each positional argument of a model, such as `"2,3,224,224"` or `"2,16:int64"`; with any, the
            report has the shapes and the cost of a forward pass.
        depth: levels of modules to show, for a model.

    Returns:
        A `ParameterCount` for a path, a `ModelSummary` for a model.

    Raises:
        FileNotFoundError: there is no such file, and the text is not of the form `package.module:name`.
        ValueError: the module has no such name, the file or an input cannot be read, or a file is given with inputs.
        TypeError: the name gives something other than a module.
        ModuleNotFoundError: the module cannot be found, or it imports one that cannot.

    Examples:
        >>> describe_target("torch.nn:Identity").count.total
        0
    """
    from linkboy import count_parameters, summarize

    if Path(target).exists():
        if inputs:
            raise ValueError(f"--input needs a model that runs, package.module:name, got the file or folder {target!r}")
        return count_parameters(target, by="module")
    if ":" not in target:
        raise FileNotFoundError(f"no file or folder {target!r}; a function that builds a model is package.module:name")
    made = [Input.read(text).draw() for text in inputs]
    return summarize(load_model(target, need="a path or package.module:name"), *made, depth=depth)


def check_target(target: str, inputs: Sequence[str], *, train: bool = False) -> "BatchReport":
    """Run `check_batch` on the model that a name gives, with random inputs.

    Args:
        target: `package.module:factory`; the import executes the module.
        inputs: one text for each positional argument, such as `"2,3,224,224"` or `"2,16:int64"`, the batch first; the
            size given for the batch is replaced.
        train: whether to check the model in training mode instead of `eval()`.

    Returns:
        The report of `check_batch`.

    Raises:
        ValueError: `target` or an input cannot be read.
        TypeError: the name gives something other than a module.
        ModuleNotFoundError: the module cannot be found, or it imports one that cannot.

    Examples:
        >>> check_target("torch.nn:Identity", ["2,3,224,224"]).outputs
        ('(B, 3, 224, 224)',)
    """
    from linkboy import check_batch

    read = [Input.read(text) for text in inputs]
    if not read:
        raise ValueError("pass one --input for each positional argument, such as --input 2,3,224,224, got none")
    model = load_model(target, need="package.module:factory")
    return check_batch(model.train(train), lambda batch: tuple(each.draw(batch=batch) for each in read))


def check_named_op(
    target: str,
    *,
    inputs: Sequence[str] = (),
    inputs_from: str | None = None,
    surrogate: str | None = None,
    compile: bool = True,
) -> "OpReport":
    """Run `check_op` on the operator that a name gives.

    Args:
        target: `package.module:name` of a function of tensors, an `autograd.Function` or a module instance; the import
            executes the module.
        inputs: one text for each argument, such as `"4,3"` or `"4,3:float64"`; one of `"4,3"` by default. They are
            drawn with seed 0, and floats require grad.
        inputs_from: `package.module:name` of a function without arguments that returns the inputs, a tensor or a tuple.
        surrogate: `package.module:name` of the function whose derivatives the operator is meant to have.
        compile: whether to check the operator under `torch.compile` as well.

    Returns:
        The report of `check_op`.

    Raises:
        TypeError: a name gives something else.
        ValueError: an input cannot be read, both `inputs` and `inputs_from` are given, or the module has no such name.
        ModuleNotFoundError: the module cannot be found, or it imports one that cannot.

    Examples:
        >>> check_named_op("torch:tanh", inputs=["2,3:float64"], compile=False).ok
        True
    """
    from linkboy import check_op

    fn = _operator(target)
    if inputs and inputs_from:
        raise ValueError("describe the inputs with --input or with --inputs-from, not with both")
    args = _made(inputs_from) if inputs_from else _drawn(inputs or ["4,3"])
    wanted: Any = load_named(surrogate) if surrogate else None
    return check_op(fn, *args, surrogate=wanted, compile=compile)


def _operator(target: str) -> Callable[..., Any]:
    import torch

    fn = load_named(target)
    if isinstance(fn, type) and issubclass(fn, torch.autograd.Function):
        return fn.apply
    if isinstance(fn, type) or not callable(fn):
        kind = "a class" if isinstance(fn, type) else type(fn).__name__
        raise TypeError(
            f"{target!r} must be a function of tensors, an autograd.Function or a module instance, got {kind}"
        )
    return fn


def _drawn(inputs: Sequence[str]) -> "tuple[Tensor, ...]":
    import torch

    generator = torch.Generator().manual_seed(0)
    drawn = [Input.read(text).draw(generator=generator) for text in inputs]
    return tuple(x.requires_grad_(x.is_floating_point() or x.is_complex()) for x in drawn)


def _made(name: str) -> tuple[Any, ...]:
    make = load_named(name)
    if not callable(make):
        raise TypeError(f"{name!r} must be a function that returns the inputs, got {type(make).__name__}")
    made = make()
    return made if isinstance(made, tuple) else (made,)
