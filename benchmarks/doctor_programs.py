"""Whole programs under a checker, each in a fork of this process: `python -m benchmarks.doctor_programs CHECKER FILE...`.

Prints one line of JSON for each program: the words of linkboy's findings, or the names of the peer's checks that found something.
The peers check one model, not a program, so that what each of them is given is taken from the run of the program.
"""

import contextlib
import json
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

import linkboy as lb
from linkboy.cli import app as _warm  # noqa: F401 - imported once, before the forks

SECONDS = 120
STEPS = 60


class Enough(BaseException):
    """What was wanted of the program was seen."""


def linkboy(program: Path) -> list[str]:
    check = lb.check_script(str(program), steps=STEPS)
    return [found.word for found in check.findings if found.severity != "NOTE"]


# ------------------------------------------------------------------------------------------------------------ torchtest2
class Tape(TorchFunctionMode):
    """What a program computes of the output of its model, to be computed again of another output."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "backward":
            raise Backward(args[0])
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self, before: Any, after: Any, wanted: Tensor) -> Tensor:
        """Return `wanted`, computed from `after` where it was computed from `before`."""
        new = dict(zip(map(id, tensors(before)), tensors(after), strict=True))

        def renewed(value: Any) -> Any:
            return new.get(id(value), value) if isinstance(value, Tensor) else value

        for func, args, kwargs, result in self.calls:
            again = func(*tree_map(renewed, args), **tree_map(renewed, kwargs))
            new.update(zip(map(id, tensors(result)), tensors(again), strict=True))
        return renewed(wanted)


class Backward(Enough):
    """The program is about to differentiate a loss."""

    def __init__(self, loss: Tensor) -> None:
        super().__init__()
        self.loss = loss


def tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda each: found.append(each) if isinstance(each, Tensor) else None, value)
    return found


def torchtest2(program: Path) -> list[str]:
    """Check the first model that the program trains, on its first batch, with its own loss and optimizer."""
    from torchtest2 import Status, check_model

    tape, made, calls, depth = Tape(), optimizers_made(), [], [0]

    def enters(*_: Any) -> None:
        depth[0] += 1

    def leaves(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        depth[0] -= 1
        if depth[0] == 0 and not calls and any(each.requires_grad for each in tensors(output)):
            calls.append((module, kwargs if kwargs and not args else args, output))
            tape.calls.clear()

    hooks = (
        nn.modules.module.register_module_forward_pre_hook(enters),
        nn.modules.module.register_module_forward_hook(leaves, with_kwargs=True, always_call=True),
    )
    loss = None
    try:
        with tape:
            runpy.run_path(str(program), run_name="__main__")
    except Backward as reached:
        loss = reached.loss
    if loss is None or not calls:
        return []
    for hook in hooks:
        hook.remove()
    model, inputs, output = calls[0]
    report = check_model(
        model, inputs, optimizer=next((each for each in made if holds(each, model)), None),
        loss_fn=lambda renewed: tape.replay(output, renewed, loss),
    )  # fmt: skip
    return [f"{result.name} {result.status}" for result in report if result.status in (Status.FAIL, Status.WARN)]


# ----------------------------------------------------------------------------------------------------------- torch-audit
def torch_audit(program: Path) -> list[str]:
    """Patch the first model that the program trains and its optimizer, and look at every step."""
    from torch_audit import autopatch

    made, auditors, steps = optimizers_made(), [], [0]

    def enters(module: nn.Module, args: Any) -> None:
        if auditors or not torch.is_grad_enabled() or not any(p.requires_grad for p in module.parameters()):
            return
        optimizer = next((each for each in made if holds(each, module)), None)
        auditors.append(autopatch(module, optimizer=optimizer, every_n_steps=1, reporters=[]))

    def stepped(*_: Any) -> None:
        steps[0] += 1
        if steps[0] >= STEPS:
            raise Enough

    nn.modules.module.register_module_forward_pre_hook(enters)
    register_optimizer_step_post_hook(stepped)
    with contextlib.suppress(Enough):
        runpy.run_path(str(program), run_name="__main__")
    return sorted({finding.rule_id for each in auditors for finding in each.finish(report=False).findings})


def optimizers_made() -> list[Optimizer]:
    """Return a list that grows by each optimizer that is made."""
    made: list[Optimizer] = []
    original = Optimizer.__init__

    def init(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        made.append(self)

    Optimizer.__init__ = init
    return made


def holds(optimizer: Optimizer, model: nn.Module) -> bool:
    own = set(map(id, model.parameters()))
    return any(id(each) in own for group in optimizer.param_groups for each in group["params"])


# ----------------------------------------------------------------------------------------------------------------- forks
CHECKERS = {"linkboy": linkboy, "torchtest2": torchtest2, "torch-audit": torch_audit}


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Send what a program prints to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    yield


def answer(checker: str, program: Path) -> dict[str, Any]:
    """Run a program under a checker in a fork, and return what the checker found, or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer.json"
        child = os.fork()
        if child == 0:
            with silent():
                os.chdir(folder)
                sys.argv = [str(program)]
                torch.manual_seed(0)
                try:
                    said = {"found": CHECKERS[checker](program)}
                except BaseException as error:  # noqa: BLE001 - whatever it is, the answer says so
                    said = {"found": [], "error": f"{type(error).__name__}: {error}"[:200]}
                path.write_text(json.dumps(said), "utf-8")
            os._exit(0)
        limit = time.monotonic() + SECONDS
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > limit:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.02)
        return json.loads(path.read_text("utf-8")) if path.exists() else {"found": [], "error": "no answer"}


def main() -> None:
    torch.set_num_threads(1)
    nn.Linear(2, 2)(torch.zeros(1, 2)).sum().backward()
    _ = hf.GPT2Config, hf.BertConfig
    for name in sys.argv[2:]:
        program = Path(name).resolve()
        print(json.dumps({"program": name, **answer(sys.argv[1], program)}), flush=True)


if __name__ == "__main__":
    main()
