"""The doors: a watched training is bit for bit the one that nobody watches, and everything is as before afterwards."""

import copy
import json
import os
import random
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import linkboy as lb
from linkboy.cli.app import run
from linkboy.doctor import TrainingCheck
from linkboy.doctor._lines import CUTS, FILLS
from linkboy.doctor._losses import FACTORIES, METHODS, WATCHED_LOSSES
from linkboy.doctor._watcher import Watcher

pytestmark = pytest.mark.filterwarnings("ignore")
PROGRAMS = Path(__file__).parent / "programs"
HEAD = """import torch
from torch import nn
x = torch.randn(64, 6)
y = x[:, :3].argmax(1)
net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
opt = torch.optim.Adam(net.parameters(), lr=1e-2)
def step():
    loss = nn.functional.cross_entropy(net(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.item()
"""


def model(*last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3), *last)


def train(steps: int = 14) -> tuple[list[torch.Tensor], list[float]]:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global stream is what is tested
    net = model()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 100)
    x = torch.randn(96, 6)
    loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), 16, shuffle=True)
    losses: list[float] = []
    while len(losses) < steps:
        for xb, yb in loader:
            loss = F.cross_entropy(net(xb + 0.01 * torch.randn_like(xb)), yb)
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            opt.step()
            sched.step()
            losses.append(loss.item())
    return [tensor.clone() for tensor in net.state_dict().values()], losses


def streams() -> list[object]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002


def patched() -> list[object]:
    names = [(F, name) for name in (*WATCHED_LOSSES, "embedding", "dropout")]
    names += [(torch, name) for name in (*FACTORIES, "argmax", "save", "load", "compile")]
    names += [(torch.Tensor, name) for name in (*METHODS, *CUTS, *FILLS)]
    names += [(nn.init, name) for name in ("normal_", "zeros_", "kaiming_uniform_")]
    names += [
        (nn.Module, "train"),
        (nn.Module, "zero_grad"),
        (torch.optim.Optimizer, "zero_grad"),
        (DataLoader, "__init__"),
    ]
    names += [(torch.autograd, "backward"), (torch.optim.Optimizer, "__init__"), (DataLoader, "__iter__")]
    names += [(torch.amp.GradScaler, "step"), (nn.Module, "state_dict"), (torch.nn.utils, "clip_grad_norm_")]
    names += [(torch.optim.lr_scheduler.LRScheduler, "step"), (torch.optim.lr_scheduler.CosineAnnealingLR, "__init__")]
    return [getattr(owner, name) for owner, name in names] + [vars(torch.autograd.Function)["apply"]]


def test_a_watched_training_has_the_same_bits_and_random_streams_as_one_without_a_watch():
    plain, losses = train()
    after = streams()
    with lb.watch_training() as watch:
        watched, watched_losses = train()
        at_end = streams()
    assert losses == watched_losses
    assert all(map(torch.equal, plain, watched))
    assert at_end == after == streams()
    assert watch.report().ok, str(watch.report())


def test_everything_that_was_patched_is_as_before_also_after_an_error():
    before = patched()
    hooks = len(nn.modules.module._global_forward_hooks)
    watch = lb.watch_training()

    def block() -> None:
        with watch:
            train(2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert patched() == before
    assert len(nn.modules.module._global_forward_hooks) == hooks
    assert not torch.is_anomaly_enabled()
    assert "ZeroDivisionError" in watch.report().notes[0]


def test_one_watch_at_a_time_and_a_report_after_the_block():
    with lb.watch_training() as watch:
        with pytest.raises(
            RuntimeError, match=r"^a training is watched already; end that watch before another one begins$"
        ):
            lb.watch_training().__enter__()
        with pytest.raises(
            RuntimeError, match=r"^the report is made when the block ends; ask for it after the with statement$"
        ):
            watch.report()
    assert watch.report().steps == 0


def test_another_thread_sees_plain_torch():
    seen: list[bool] = []

    def work() -> None:
        seen.append(Watcher.active is not None and Watcher.active.on())

    with lb.watch_training():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [False]


def test_the_watch_ends_after_its_steps_and_the_block_goes_on():
    with lb.watch_training(steps=5) as watch:
        _, losses = train(12)
    assert len(losses) == 12
    assert watch.report().steps == 5


NOT_TRAINED = (
    "the losses depend on no parameter that trains: all of the model is frozen, or the output was detached or turned into "
    "integers on the way to the loss"
)


class TwoParts(nn.Module):
    """Returns logits and loss as `returns` puts them."""

    def __init__(self, returns=lambda logits, loss: {"logits": logits}):
        super().__init__()
        self.linear, self.returns = nn.Linear(1, 1), returns

    def forward(self, x, y):
        logits = self.linear(x)
        return self.returns(logits, F.mse_loss(logits, y))


def trained_once(model=None, loss=F.mse_loss):
    model = model or (TwoParts() if loss is None else nn.Linear(1, 1))
    batch = torch.ones(8, 1), torch.arange(8.0)[:, None]
    return lb.check_training(model, loss, torch.optim.SGD(model.parameters(), lr=0.1), batch)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: lb.watch_training(ignore=["same-bach"]),
            "ignore must hold words of the doctor, got 'same-bach'; did you mean 'same-batch'?",
        ),
        (lambda: lb.watch_training(steps=0), "steps must be an integer of at least 1, got 0"),
        (lambda: lb.check_training(3, None, None, None), "model must be a torch.nn.Module, got int"),
        (
            lambda: lb.check_training(nn.Linear(1, 1), 3, None, None),
            "loss_fn must be a function of output and target, or None, got int",
        ),
        (
            lambda: lb.check_training(nn.Linear(1, 1), None, None, None),
            "optimizer must be a torch.optim.Optimizer, got NoneType",
        ),
        (
            lambda: lb.check_training(nn.Linear(1, 1), F.mse_loss, torch.optim.SGD([torch.ones(1)]), 3),
            "batches must be a loader, an iterable of batches or one batch, got int",
        ),
        (
            lambda: lb.check_training(nn.Linear(1, 1), F.mse_loss, torch.optim.SGD([torch.ones(1)]), torch.ones(1)),
            "a batch must be a tuple of inputs and a target, got f32[1]; pass unpack=, a function that splits it",
        ),
        (
            lambda: lb.check_training(nn.Linear(1, 1), F.mse_loss, torch.optim.SGD([torch.ones(1)]), iter(())),
            "batches must hold at least one batch, got none",
        ),
        (
            lambda: lb.check_training(
                nn.Linear(1, 1), F.mse_loss, torch.optim.SGD([torch.ones(1)]),
                torch.utils.data.TensorDataset(torch.ones(9, 1), torch.ones(9, 1)),
            ),
            "batches must be a loader, an iterable of batches or one batch, got TensorDataset, whose items are samples; "
            "pass DataLoader(it, batch_size=32, shuffle=True)",
        ),
        (lambda: trained_once(loss=lambda out, y: F.mse_loss(out, y).item()),
            "loss_fn must return a tensor, got float; leave out .item()"),
        (lambda: trained_once(loss=lambda out, y: F.mse_loss(out, y).detach()), NOT_TRAINED),
        (lambda: trained_once(loss=lambda out, y: (out.argmax(1) - y).float().mean()), NOT_TRAINED),
        (lambda: trained_once(nn.Linear(1, 1).requires_grad_(False)), NOT_TRAINED),
        (lambda: trained_once(loss=None),
            "without loss_fn the model must return its loss, as `output.loss`, `output['loss']` or the one scalar of a tuple, "
            "got dict; pass loss_fn, give the model its labels as an input, or wrap it in a module that returns the loss"),
        (lambda: lb.check_script("train.py", steps=0), "steps must be an integer of at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_is_refused_is_refused_by_its_text(call, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("returns", [lambda logits, loss: (logits, loss), lambda logits, loss: (loss, logits)])
def test_the_loss_of_a_model_is_the_scalar_of_its_tuple(returns):
    check = trained_once(TwoParts(returns), None)
    (first,) = [float(part.split()[2].rstrip(",")) for part in check.seen if part.startswith("first loss ")]
    assert 5 < first < 50  # a mean of squares up to 49, and not the mean of the logits, which is below 2


def test_an_optimizer_with_a_closure_is_given_one():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x = torch.randn(32, 3)
    batch, optimizer = (x, x.sum(1, keepdim=True)), torch.optim.LBFGS(model.parameters())
    before = [p.clone() for p in model.parameters()]
    with torch.no_grad():  # whatever the caller has switched off
        check = lb.check_training(model, F.mse_loss, optimizer, batch, accumulate=2, steps=2)
    assert (check.findings, check.steps) == ((), 2)
    assert all(map(torch.equal, before, model.parameters()))


def test_parts_of_a_batch_that_the_model_does_not_take_are_explained():
    model = nn.Linear(1, 1)
    batch = torch.ones(8, 1), torch.ones(8, 1), torch.arange(8)
    with pytest.raises(TypeError) as caught:
        lb.check_training(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), batch)
    assert "a batch of 3 parts was taken for 2 inputs and a target; pass unpack= otherwise" in caught.value.__notes__


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_model_is_watched():
    model = torch.jit.script(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)))
    batch = torch.randn(16, 3), torch.randint(2, (16,))
    assert lb.check_training(model, F.cross_entropy, torch.optim.Adam(model.parameters()), batch).ok


def test_a_complex_gradient_is_measured_without_a_warning():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.cfloat))

        def forward(self, x):
            return (x.to(torch.cfloat) @ self.weight).abs()

    model, batch = Complex(), (torch.randn(16, 4), torch.randint(3, (16,)))
    assert lb.check_training(model, F.cross_entropy, torch.optim.Adam(model.parameters()), batch).ok


def test_a_directory_is_no_script(tmp_path):
    with pytest.raises(IsADirectoryError):
        lb.check_script(str(tmp_path))


def test_check_training_puts_everything_back():
    torch.manual_seed(0)
    net = model()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
    sched = torch.optim.lr_scheduler.StepLR(opt, 2)
    x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
    F.cross_entropy(net(x), y).backward()
    opt.step()
    net.eval()
    state = copy.deepcopy((net.state_dict(), opt.state_dict(), sched.state_dict()))
    grads, modes, before = [p.grad.clone() for p in net.parameters()], [m.training for m in net.modules()], streams()
    report = lb.check_training(net, F.cross_entropy, opt, (x, y), scheduler=sched, val_batches=[(x, y)], accumulate=2)
    assert report.steps == 8
    after = (net.state_dict(), opt.state_dict(), sched.state_dict())
    assert str(after) == str(state)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), state[0].values(), strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))
    assert [m.training for m in net.modules()] == modes
    assert streams() == before
    opt.step()  # the averages are those of the tensors themselves


def test_check_training_puts_everything_back_where_a_step_raises():
    net = nn.Linear(6, 3)
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    before = [p.clone() for p in net.parameters()]
    good, bad = (torch.randn(8, 6), torch.randint(0, 3, (8,))), (torch.randn(8, 6), torch.full((8,), 9))
    with pytest.raises(IndexError):
        lb.check_training(net, F.cross_entropy, opt, [good, bad])
    assert all(map(torch.equal, net.parameters(), before))
    assert not opt.state
    assert Watcher.active is None


def test_a_model_that_returns_its_loss_and_a_mapping_as_batch():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 3)

        def forward(self, x, y):
            return {"loss": F.cross_entropy(self.net(x).softmax(1), y)}

    net = Own()
    batch = {"x": torch.randn(16, 6), "y": torch.randint(0, 3, (16,))}
    report = lb.check_training(net, None, torch.optim.SGD(net.parameters(), lr=0.1), batch)
    assert [found.word for found in report.findings] == ["double-softmax"]


def test_assert_training_raises_with_the_page_and_ignore_leaves_a_word_out():
    net = model(nn.Softmax(1))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    batch = torch.randn(16, 6), torch.randint(0, 3, (16,))
    with pytest.raises(AssertionError, match="double-softmax"):
        lb.assert_training(net, F.cross_entropy, opt, batch)
    lb.assert_training(net, F.cross_entropy, opt, batch, ignore=["double-softmax"])


# ------------------------------------------------------------------------------------------------------------- scripts
@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "train.py") -> str:
        path = tmp_path / name
        path.write_text(text, "utf8")
        return str(path)

    return write


def test_a_script_runs_as_main_with_its_arguments_folder_and_output(script, capsys):
    path = script(HEAD + "import sys\nprint(__name__, sys.argv[1:], sys.path[0])\nfor _ in range(12): print(step())\n")
    check = lb.check_script(path, ["--lr", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"__main__ ['--lr', '3'] {Path(path).parent}"
    assert len(lines) == 13
    assert check.exit_code == 0
    assert check.steps == 12


def test_a_script_is_ended_after_its_steps_and_finally_blocks_run(script, capsys):
    path = script(HEAD + "try:\n    while True: step()\nfinally:\n    print('closed')\n")
    assert lb.check_script(path, steps=10).steps == 10
    assert capsys.readouterr().out == "closed\n"


@pytest.mark.parametrize(
    ("body", "code", "note"),
    [
        ("print('no training')", 2, ""),
        ("for _ in range(9): step()\nraise KeyError('mine')", 2, "KeyError: 'mine'"),
        ("import sys\nfor _ in range(9): step()\nsys.exit(3)", 0, "the script ended itself with exit status 3"),
        ("import os\nos.chdir('/')\nfor _ in range(9): step()", 0, ""),
        ("net[2] = nn.Linear(16, 3)\nfor _ in range(9): step()\nraise KeyError('mine')", 1, "KeyError: 'mine'"),
        ("raise RuntimeError('at once')", 2, "RuntimeError: at once"),
        ("net[2] = nn.Linear(16, 3)\nfor _ in range(9): step()", 1, ""),
    ],
)
def test_how_a_script_ends(script, body, code, note):
    here = Path.cwd()
    check = lb.check_script(script(HEAD + body))
    assert check.exit_code == code
    assert note in "\n".join(check.notes)
    assert Path.cwd() == here
    assert Watcher.active is None


def test_files_of_a_script_go_to_a_temporary_folder_where_it_finds_them(script, tmp_path):
    body = "for _ in range(9): step()\ntorch.save(net.state_dict(), 'best.pt')\nnet.load_state_dict(torch.load('best.pt'))\n"
    (tmp_path / "best.pt").write_bytes(b"mine")
    check = lb.check_script(script(HEAD + body))
    assert (tmp_path / "best.pt").read_bytes() == b"mine"
    assert any("best.pt" in note for note in check.notes)
    assert not any("error" in note for note in check.notes)
    lb.check_script(script(HEAD + body), write=True)
    assert (tmp_path / "best.pt").read_bytes() != b"mine"


def test_a_forked_child_does_not_write_the_report(script, capsys):
    path = script(
        HEAD
        + "import os\nchild = os.fork()\nif child == 0: raise SystemExit(0)\nos.waitpid(child, 0)\nfor _ in range(9): step()\n"
    )
    assert lb.check_script(path).steps == 9


def test_the_command_writes_text_html_and_json_and_ends_with_the_code(script, tmp_path, capsys):
    path = script(HEAD + "net.append(nn.Softmax(1))\nfor _ in range(9): print('x')\nfor _ in range(9): step()\n")
    assert run(["doctor", "--report", str(tmp_path / "page.json"), path, "--steps", "3"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "x\n" * 9
    assert "FAULT   double-softmax" in shown.err
    assert "more about a word: linkboy doctor --explain WORD" in shown.err
    written = json.loads((tmp_path / "page.json").read_text("utf8"))
    assert written["findings"][0]["word"] == "double-softmax"
    assert "softmax" in written["findings"][0]["explanation"]
    check = lb.check_script(path, steps=3)
    assert "more about a word: the explanation of its finding" in str(check)
    assert check.findings[0].explanation == written["findings"][0]["explanation"]
    assert written["exit_code"] == 1
    assert run(["doctor", "--ignore", "double-softmax", "--report", str(tmp_path / "page.html"), path]) == 0
    page = (tmp_path / "page.html").read_text("utf8")
    assert "Nothing was found" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "more about a word" not in capsys.readouterr().err
    assert run(["doctor"]) == 2
    assert "write: linkboy doctor train.py" in capsys.readouterr().err
    assert run(["doctor", str(tmp_path / "absent.py")]) == 2


def test_the_page_escapes_what_a_program_is_called():
    check = TrainingCheck(True, (), ("nan",), (), (), 3, ("<b>",), (), "<script>alert(1)</script>")
    assert "<script>" not in check.to_html()
    assert check.summary.startswith("no finding in 3 steps")


def test_a_model_with_layers_in_a_list_has_the_name_of_its_variable(script, capsys):
    body = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = [torch.nn.Linear(8, 8)], torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.hidden[0](x))

def main():
    network = Net()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()

main()
"""
    assert run(["doctor", script(body)]) == 1
    assert "seen: network (Net, 27 parameters)" in capsys.readouterr().err


def test_a_program_that_trains_nothing_is_not_called_right(script, capsys):
    assert run(["doctor", script("import torch\n\ntorch.nn.Linear(3, 2)(torch.randn(4, 3))\n")]) == 2
    shown = capsys.readouterr().err
    assert "no step of an optimizer was seen in " in shown
    assert "so little can be said of its training: no finding; asked" in shown
    page = TrainingCheck(True, (), (), ("nan",), (), 0, (), (), "a.py").to_html("en")
    assert "No training was seen" in page
    assert "Nothing was found" not in page


@pytest.mark.slow
def test_a_script_that_catches_everything_is_ended_all_the_same(script, tmp_path):
    body = "import itertools\nfor n in itertools.count():\n    try:\n        step()\n    except BaseException:\n        pass\n"
    command = [sys.executable, "-m", "linkboy", "doctor", "--report", str(tmp_path / "a.json"), script(HEAD + body)]
    source = str(Path(lb.__file__).parents[1])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": source}
    )
    assert done.returncode == 0, done.stderr
    assert "the process was ended" in done.stderr
    assert json.loads((tmp_path / "a.json").read_text("utf8"))["ok"]


@pytest.mark.slow
def test_a_module_runs_as_with_python_m(script, tmp_path, capsys):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "train.py").write_text(
        HEAD + "import sys\nprint(sys.argv[1:])\nfor _ in range(9): step()\n"
    )
    assert run(["doctor", "-m", "package.train", "--lr", "1"]) == 0
    assert capsys.readouterr().out == "['--lr', '1']\n"


# --------------------------------------------------------------------------------------------------- heads and dropout
class Pooled(nn.Module):
    """A head of convolutions whose ReLU stands before a mean, as that of SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 3, 1)

    def forward(self, x):
        return self.body(x[:, None, :, None]).relu().mean((2, 3))


class Positive(nn.Module):
    """A network whose last step is what it is given."""

    def __init__(self, last) -> None:
        super().__init__()
        self.body, self.last = nn.Linear(6, 3), last

    def forward(self, x):
        return self.last(self.body(x))


@pytest.mark.parametrize(
    ("net", "loss", "found"),
    [
        (model(nn.ReLU()), nn.CrossEntropyLoss(), True),
        (Positive(F.relu), nn.CrossEntropyLoss(), True),
        (Positive(lambda x: F.relu(x).view(-1, 3)), nn.CrossEntropyLoss(label_smoothing=0.1), True),
        (Positive(lambda x: F.log_softmax(F.relu(x), 1)), nn.NLLLoss(), True),
        (Positive(F.relu), lambda out, y: F.binary_cross_entropy_with_logits(out, F.one_hot(y, 3).float()), True),
        (model(), nn.CrossEntropyLoss(), False),
        (model(nn.ReLU(), nn.Linear(3, 3)), nn.CrossEntropyLoss(), False),
        (model(nn.GELU()), nn.CrossEntropyLoss(), False),
        (Pooled(), nn.CrossEntropyLoss(), False),
        (Positive(F.relu), lambda out, y: F.mse_loss(out, F.one_hot(y, 3).float()), False),
    ],
)
def test_a_relu_directly_before_the_softmax_of_a_loss_is_named(net, loss, found):
    torch.manual_seed(0)
    batch = torch.randn(32, 6), torch.arange(32) % 3
    check = lb.check_training(net, loss, torch.optim.SGD(net.parameters(), lr=0.1), batch)
    assert ("relu-logits" in [each.word for each in check.findings]) == found, str(check)


@pytest.mark.parametrize(("share", "found"), [(0.99, True), (0.9, True), (1.0, True), (0.89, False), (0.5, False)])
def test_a_dropout_that_leaves_next_to_nothing_is_named(share, found):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Dropout(share), nn.Linear(64, 3))
    batch = torch.randn(32, 6), torch.arange(32) % 3
    check = lb.check_training(net, nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=0.1), batch)
    (said,) = [each.sentence for each in check.findings if each.word == "heavy-dropout"] or [""]
    assert said.startswith(f"Dropout 2 of net sets {share:.0%} of its values to zero in training" if found else ""), (
        str(check)
    )
    assert bool(said) == found


@pytest.mark.parametrize(("factor", "found"), [(255.0, True), (1 / 50, True), (1.0, False), (3.0, False)])
def test_an_evaluation_on_inputs_of_another_size_is_named(factor, found):
    torch.manual_seed(0)
    net, x = model(), torch.rand(96, 6)
    y = x[:, :3].argmax(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    with lb.watch_training() as watch:
        for _ in range(3):
            net.train()
            for start in range(0, 64, 16):
                loss = F.cross_entropy(net(x[start : start + 16] - 0.5), y[start : start + 16])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                net((x[64:] - 0.5) * factor).argmax(1)
    check = watch.report()
    assert ("eval-scale" in [each.word for each in check.findings]) == found, str(check)


@pytest.mark.parametrize(
    ("last", "target", "loss", "share"),
    [
        (nn.Sigmoid(), lambda x: 40 * x.sum(1, keepdim=True), F.mse_loss, "of the targets are outside [0, 1], and a sigmoid"),
        (nn.ReLU(), lambda x: x.sum(1, keepdim=True) - 3, F.smooth_l1_loss, "of the targets are outside [0, inf), and a relu"),
        (nn.Tanh(), lambda x: 9 * x.sum(1, keepdim=True), F.huber_loss, "of the targets are outside [-1, 1], and a tanh"),
        (
            nn.Identity(), lambda x: 255 * (x[:, :1] > 0.5), lambda out, y: F.binary_cross_entropy_with_logits(out, y.float()),
            "of the targets of a cross-entropy with logits are outside 0 to 1, and are no probabilities",
        ),
        (nn.Sigmoid(), lambda x: x[:, :1], F.mse_loss, ""),
        (nn.Sigmoid(), lambda x: 1.04 * (x[:, :1] > 0.5), F.mse_loss, ""),  # smoothed labels
        (nn.Tanh(), lambda x: 2 * x[:, :1] - 1, F.mse_loss, ""),
        (nn.ReLU(), lambda x: x[:, :1], F.mse_loss, ""),
        (nn.Tanh(), lambda x: 40 * x[:, :1], lambda out, y: F.mse_loss(40 * out, y), ""),
        (nn.Identity(), lambda x: x[:, :1], F.binary_cross_entropy_with_logits, ""),
    ],
)  # fmt: skip
def test_targets_that_no_output_can_reach_are_named(last, target, loss, share):
    torch.manual_seed(0)
    x = torch.rand(64, 6)
    net = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 1), last)
    check = lb.check_training(net, loss, torch.optim.SGD(net.parameters(), lr=1e-3), (x, target(x)))
    (said,) = [each.sentence for each in check.findings if each.word == "unscaled-target"] or [""]
    assert share in said, said
    assert bool(said) == bool(share), str(check)


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (F.l1_loss, True),  # torch builds it of operations, and expands both sides itself
        (F.mse_loss, True),
        (F.smooth_l1_loss, True),
        (lambda out, y: (out - y).abs().mean(), True),
        (lambda out, y: F.l1_loss(out, y[:, None]), False),
        (lambda out, y: (out.expand(16, 16) - out.T.expand(16, 16)).abs().mean(), False),  # all pairs, on purpose
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_column_against_a_row_is_named_in_every_loss(loss, found):
    torch.manual_seed(0)
    net = nn.Linear(6, 1)
    batch = torch.randn(16, 6), torch.randn(16)
    check = lb.check_training(net, loss, torch.optim.SGD(net.parameters(), lr=0.01), batch)
    assert ("broadcast" in [each.word for each in check.findings]) == found, str(check)


@pytest.mark.parametrize(("last", "found"), [(20, True), (19, False)])
def test_a_window_of_a_series_that_holds_its_target_is_named(last, found):
    torch.manual_seed(0)
    series = torch.sin(torch.arange(200) / 9.0) + 0.1 * torch.randn(200)
    windows = torch.stack([series[start : start + last] for start in range(160)])[..., None]
    net = nn.Sequential(nn.Flatten(), nn.Linear(last, 8), nn.Tanh(), nn.Linear(8, 1))
    data = torch.utils.data.TensorDataset(windows, series[19:179, None])
    loader = torch.utils.data.DataLoader(data, 16, shuffle=True)
    check = lb.check_training(net, F.mse_loss, torch.optim.Adam(net.parameters(), lr=0.01), loader)
    assert ("target-leak" in [each.word for each in check.findings]) == found, str(check)


# ------------------------------------------------------------------------------------------------------------ programs
def word_of(path: Path) -> str:
    first = path.read_text("utf8").split("\n", 1)[0].lstrip("# ")
    return first.removeprefix("fault: ") if first.startswith("fault: ") else ""


QUICK = ("unoptimized_class", "squeeze_conv", "graph_network")
ALL = sorted(PROGRAMS.rglob("*.py"))


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=() if p.stem in QUICK else pytest.mark.slow) for p in ALL]
)
def test_a_program_is_named_by_its_word_or_not_at_all(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check = lb.check_script(str(path))
    loud = [found.word for found in check.findings if found.severity != "NOTE"]
    assert loud == ([word] if (word := word_of(path)) else []), str(check)
    assert not check.failed


def test_no_global_hook_of_modules_stays():
    from torch.nn.modules import module

    model = torch.nn.Linear(2, 1)
    batch = torch.zeros(4, 2), torch.ones(4, 1)
    lb.check_training(model, torch.nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), [batch] * 3)
    tables = {name: table for name, table in vars(module).items() if name.startswith("_global_") and "hooks" in name}
    assert len(tables) > 5
    assert not any(tables.values())


def test_a_compiled_model_is_watched_without_a_warning_of_our_hooks():
    model = torch.compile(torch.nn.Linear(2, 1), backend="eager")
    batch = torch.randn(8, 2), torch.randn(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        before = list(warnings.filters)
        with lb.watch_training() as watch:
            for _ in range(4):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(batch[0]), batch[1]).backward()
                optimizer.step()
        added = [str(rule) for rule in warnings.filters if rule not in before]  # older compilers add rules of their own
        assert not [rule for rule in added if "hook" in rule]
        assert all(rule in warnings.filters for rule in before)
    assert not [str(warning.message) for warning in caught if "global hooks" in str(warning.message)]
    assert watch.report().ok
