"""Looking into models, operators and memory: summary, shapes, check-op, memory."""

import sys

from linkboy.cli._printing import show_report


def summary(model: str, /, *, input: list[str] | None = None, json: bool = False, depth: int = 3) -> None:
    """Count the parameters of a checkpoint, or show what a model is made of.

    Parameters
    ----------
    model
        A .safetensors, .pt or .bin file, a directory of a model, or package.module:factory, a function that returns a
        module. Of a file only the header is read and nothing in it is executed; a factory is called.
    input
        Shape of an input of the model, such as 2,3,224,224, or 2,16:int64; once for each positional argument. With inputs
        the output of every layer and the cost of a forward pass are shown.
    json
        Print one JSON object.
    depth
        Levels of modules below the root to show.
    """
    from linkboy.cli._targets import describe_target

    _find_modules_here()
    show_report(describe_target(model, input or [], depth=depth), json=json)


def shapes(target: str, /, *, input: list[str], train: bool = False, json: bool = False) -> int:
    """Check that a model treats the rows of a batch independently; the exit status is 1 if it does not.

    Parameters
    ----------
    target
        package.module:factory, a function that returns a module; it is called.
    input
        Shape of an input, batch first, such as 2,3,224,224, or 2,16:int64; once for each positional argument.
    train
        Check the model in training mode; by default it is put into eval mode.
    json
        Print one JSON object.
    """
    from linkboy.cli._targets import check_target

    _find_modules_here()
    report = check_target(target, input, train=train)
    show_report(report, json=json)
    return 0 if report.ok else 1


def check_op(
    target: str,
    /,
    *,
    input: list[str] | None = None,
    inputs_from: str | None = None,
    surrogate: str | None = None,
    no_compile: bool = False,
    json: bool = False,
) -> int:
    """Check an operator, and say what is wrong with it: a row per check, with the cause and how to fix it.

    The input is one random float32 matrix of 4 x 3 unless --input or --inputs-from describe others:

    linkboy check-op my_ops:swish

    linkboy check-op my_ops:scaled_matmul --input 4,3 --input 3,2

    linkboy check-op my_ops:masked_loss --inputs-from my_ops:example_inputs

    The exit status is 0 if the operator is right and 1 if it is wrong.

    Parameters
    ----------
    target
        package.module:name of a function of tensors, an autograd.Function or a module instance; the module is executed.
    input
        Shape of an input, such as 4,3 or 4,3:float64; once for each input, in order. Floats are drawn from a standard
        normal distribution, integers and booleans are 0 or 1.
    inputs_from
        package.module:name of a function without arguments that returns the inputs, a tensor or a tuple; what has
        requires_grad is differentiated.
    surrogate
        package.module:name of the function whose gradient the operator is meant to have, where that is not its derivative.
    no_compile
        Leave out torch.compile, which takes some seconds.
    json
        Print one JSON object.
    """
    from linkboy.cli._targets import check_named_op

    _find_modules_here()
    report = check_named_op(
        target, inputs=input or [], inputs_from=inputs_from, surrogate=surrogate, compile=not no_compile
    )
    show_report(report, json=json)
    return 0 if report.ok else 1


def memory(*, json: bool = False) -> None:
    """Report what memory this environment can release and measure, what it cannot, and why.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    from linkboy import memory_environment

    show_report(memory_environment(), json=json)


def _find_modules_here() -> None:
    """Let `package.module:name` find a module in the current directory, as `python -m` does."""
    sys.path.insert(0, "")
