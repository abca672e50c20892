"""A run that was cut anywhere and resumed ends with the bits of one that was not."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from tests.training.helpers import Augmented, make_model, same_state, small_run, without_clock
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, WeightedRandomSampler

from linkboy import _random
from linkboy.training import Checkpointer, EarlyStopping, fit

ROOT = Path(__file__).resolve().parents[2]


def accuracy(output, target):
    return (output.argmax(1) == target).float().mean()


def run(directory, *, max_steps=None, epochs=2, loader=None, validate=True, keeper=None, **options):
    model, loss_fn, optimizer, data, scheduler = small_run(**(loader or {}))
    options = {"accumulate": 3, "early_stopping": EarlyStopping("accuracy", "max"), "ema": 0.9, **options}
    if not validate:
        options["early_stopping"] = None
    history = fit(
        model, loss_fn, optimizer, data, scheduler=scheduler, epochs=epochs, max_steps=max_steps, seed=7, log_every=2,
        val_loader=DataLoader(Augmented(7), batch_size=4) if validate else None,
        metrics=options.pop("metrics", {"accuracy": accuracy} if validate else None),
        checkpoint=keeper or (directory and Checkpointer(directory, every_steps=1000)), log=(), progress=False, **options,
    )  # fmt: skip
    return model.state_dict(), optimizer.state_dict(), scheduler.state_dict(), without_clock(history)


def test_resume_is_bit_equal_from_every_step(tmp_path):
    whole = run(None)
    steps = whole[3][1]["steps"]
    assert steps == 6
    for cut in range(1, steps + 1):
        run(tmp_path / str(cut), max_steps=cut)
        assert same_state(run(tmp_path / str(cut)), whole), f"cut after step {cut}"


def test_the_check_above_can_fail(tmp_path, monkeypatch):
    whole = run(None)
    run(tmp_path, max_steps=2)
    monkeypatch.setattr(_random, "restore", lambda state, device=None: None)
    assert not same_state(run(tmp_path), whole)


def test_resume_is_bit_equal_without_accumulation_and_without_validation(tmp_path):
    whole = run(None, accumulate=1, validate=False, ema=None)
    for cut in (1, 5, 8, 11):
        run(tmp_path / str(cut), max_steps=cut, accumulate=1, validate=False, ema=None)
        assert same_state(run(tmp_path / str(cut), accumulate=1, validate=False, ema=None), whole)


def test_validating_changes_nothing_in_training():
    model, optimizer, scheduler, _ = run(None, validate=False, ema=None)
    other = run(None, early_stopping=EarlyStopping("accuracy", "max", restore_best=False), ema=None)
    assert same_state((model, optimizer, scheduler), other[:3])


def test_workers_change_no_bit_and_resume_with_them_is_exact(tmp_path):
    whole = run(None, epochs=1)
    workers = {"num_workers": 2}
    run(tmp_path, epochs=1, loader=workers, max_steps=2)
    assert same_state(run(tmp_path, epochs=1, loader=workers), whole)


@pytest.mark.slow
@pytest.mark.parametrize("loader", [{"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_resume_with_workers_is_bit_equal_from_every_step(tmp_path, loader):
    whole = run(None)
    for cut in range(1, 7):
        run(tmp_path / str(cut), max_steps=cut, loader=loader)
        assert same_state(run(tmp_path / str(cut), loader=loader), whole)


def test_a_signal_in_any_step_loses_nothing(tmp_path):
    whole = run(None)
    for number in (signal.SIGTERM, signal.SIGINT):
        for step in (1, 2, 4, 6):

            def kill(event, state, step=step, number=number):
                if event == "step" and state.step == step:
                    os.kill(os.getpid(), number)

            directory = tmp_path / f"{number}-{step}"
            *_, (_, first) = run(directory, callbacks=[kill])
            assert first["stopped"] == number.name
            assert same_state(run(directory), whole)


def test_a_signal_during_the_last_validation_is_reported_and_nothing_is_left_to_do(tmp_path):
    calls = []

    def interrupted(output, target):
        calls.append(1)
        if len(calls) == 3:  # the first is the one before the training
            os.kill(os.getpid(), signal.SIGINT)
        return accuracy(output, target)

    *_, (_, kept) = run(tmp_path, metrics={"accuracy": interrupted})
    assert (kept["stopped"], kept["epochs"]) == ("SIGINT", 2)
    assert same_state(run(tmp_path), run(None))


def test_epochs_are_a_total_and_a_longer_run_goes_on_from_a_finished_one(tmp_path):
    run(tmp_path, epochs=1)
    assert same_state(run(tmp_path, epochs=3), run(None, epochs=3))


def test_a_finished_run_that_is_called_again_returns_the_same_and_trains_no_more(tmp_path):
    whole = run(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert same_state(run(tmp_path), whole)
    assert sorted(tmp_path.iterdir()) == before


def test_early_stopping_holds_after_a_resume(tmp_path):
    rule = EarlyStopping("accuracy", "max", patience=1)
    whole = run(None, epochs=30, early_stopping=rule)
    steps = whole[3][1]["steps"]
    assert whole[3][1]["stopped"] == "early stopping"
    assert steps < 90
    run(tmp_path, epochs=30, early_stopping=rule, max_steps=steps - 1)
    assert same_state(run(tmp_path, epochs=30, early_stopping=rule), whole)
    assert same_state(run(tmp_path, epochs=30, early_stopping=rule), whole)


def test_early_stopping_with_an_average_holds_after_a_resume_from_each_late_step(tmp_path):
    options = {
        "epochs": 30,
        "accumulate": 4,
        "early_stopping": EarlyStopping("accuracy", "max", patience=2),
        "ema": 0.8,
    }
    whole = run(None, **options)
    steps = whole[3][1]["steps"]
    assert whole[3][1]["stopped"] == "early stopping"
    # Every step is kept, among them the last of each epoch, saved before its validation; the last three epochs hold all cases.
    assert same_state(run(tmp_path, keeper=Checkpointer(tmp_path, every_steps=1, keep=100), **options), whole)
    assert len(list(tmp_path.glob("step-*"))) == steps
    for step in range(steps - 5, steps + 1):
        assert same_state(run(None, resume=tmp_path / f"step-{step}", **options), whole), f"from step {step}"


def test_a_second_interrupt_ends_a_validation_at_once_and_leaves_the_last_weights(tmp_path):
    def interrupted(output, target):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return accuracy(output, target)

    model, loss_fn, optimizer, data, _ = small_run()
    modes = [module.training for module in model.modules()]
    last = {}

    def note(event, state):
        last.update({name: tensor.clone() for name, tensor in state.model.state_dict().items()})

    with pytest.raises(KeyboardInterrupt):
        fit(
            model, loss_fn, optimizer, data, val_loader=DataLoader(Augmented(7)), metrics={"accuracy": interrupted}, ema=0.9,
            callbacks=[note], seed=7, progress=False, sanity=False,
        )  # fmt: skip
    assert same_state(dict(model.state_dict()), last)
    assert [module.training for module in model.modules()] == modes
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Forks a child that trains in the directory of every line it reads, so that torch is imported once for all kills.
TRAINING_FOR_EVER = r"""
import os, sys
from pathlib import Path
import accelerate, safetensors.torch, torch, torch._dynamo  # what training loads when it starts
from linkboy.training import Checkpointer, fit
from tests.training.helpers import small_run
torch.set_num_threads(1)
for line in sys.stdin:
    directory = Path(line.rstrip("\n"))
    if child := os.fork():
        os.write(1, b"dead %d\n" % os.waitpid(child, 0)[1])
        continue
    os.write(1, b"%d\n" % os.getpid())  # in one piece: a kill must not cut a line, whatever buffers the stream has
    model, loss_fn, optimizer, data, scheduler = small_run()
    def say(event, state):
        if event == "step":
            os.write(1, b"step %d\n" % state.step)
        elif event == "checkpoint":
            os.write(1, b"saved %s\n" % state.checkpoint.name.encode())
    history = fit(model, loss_fn, optimizer, data, scheduler=scheduler, epochs=6, accumulate=2, ema=0.9, seed=7, log=(),
                  progress=False, checkpoint=Checkpointer(directory, every_steps=3), callbacks=[say], device="cpu")
    torch.save(model.state_dict(), directory / "half.pt")
    os.replace(directory / "half.pt", directory / "final.pt")  # a kill must not leave half of it
    os._exit(0)
"""


def training_server():
    command = [sys.executable, "-c", TRAINING_FOR_EVER]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def kill_while_training(server, directory, seed):
    """Kill a run at random moments until it comes to its end; return how often, and the weights it ended with."""
    directory.mkdir()
    rng, kills, last_saved = random.Random(seed), 0, 0
    while not (directory / "final.pt").exists():
        print(directory, file=server.stdin, flush=True)
        last_saved_before = last_saved
        child, steps = int(server.stdout.readline()), []
        lines_to_live = rng.randrange(1, 30)
        for word, value in iter(lambda: server.stdout.readline().split(), None):
            if word == "dead":
                kills += value != "0"
                break
            if word == "saved":
                last_saved = int(value.removeprefix("step-"))
            else:
                steps.append(int(value))
            lines_to_live -= 1
            if lines_to_live == 0:
                time.sleep(rng.uniform(0.0, 0.01))
                with contextlib.suppress(ProcessLookupError):  # it came to its end meanwhile
                    os.kill(child, signal.SIGKILL)
        if steps:
            assert steps[0] > last_saved_before, "more than one interval was lost"
    return kills, torch.load(directory / "final.pt", weights_only=True)


def uncut_weights():
    model, loss_fn, optimizer, data, scheduler = small_run()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the runs that are killed: the order of sums, and so the last bit, follows the threads
    try:
        fit(
            model,
            loss_fn,
            optimizer,
            data,
            scheduler=scheduler,
            epochs=6,
            accumulate=2,
            ema=0.9,
            seed=7,
            progress=False,
        )
    finally:
        torch.set_num_threads(threads)
    return model.state_dict()


def test_a_run_killed_at_random_moments_ends_with_the_bits_of_an_undisturbed_one(tmp_path):
    expected = dict(uncut_weights())
    with training_server() as server:
        for seed in range(10):  # on a busy machine a run may come to its end before it is killed
            kills, weights = kill_while_training(server, tmp_path / str(seed), seed)
            assert same_state(weights, expected)
            if kills:
                return
    raise AssertionError("no run was killed")


@pytest.mark.slow
def test_runs_killed_200_times_end_with_the_bits_of_an_undisturbed_one(tmp_path):
    total, expected = 0, dict(uncut_weights())
    with training_server() as server:
        for seed in itertools.count():
            kills, weights = kill_while_training(server, tmp_path / str(seed), seed)
            assert same_state(weights, expected)
            total += kills
            if total >= 200:
                return


class OwnState(Sampler):
    """A sampler that no key reaches."""

    def __init__(self, size):
        self.size, self.generator_of_its_own = size, __import__("random").Random(3)

    def __iter__(self):
        order = list(range(self.size))
        self.generator_of_its_own.shuffle(order)
        return iter(order)

    def __len__(self):
        return self.size


def train_on(data, directory, max_steps=None, **options):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(
        model, nn.CrossEntropyLoss(reduction="none"), optimizer, data, max_steps=max_steps, checkpoint=directory, seed=1,
        progress=False, log=(), **options,
    )  # fmt: skip
    return model.state_dict(), history


def test_the_order_of_an_unknown_sampler_is_kept_and_said_not_to_be_exact(tmp_path):
    data = Augmented()
    whole, _ = train_on(DataLoader(data, batch_size=4, sampler=OwnState(23)), None)
    train_on(DataLoader(data, batch_size=4, sampler=OwnState(23)), tmp_path, max_steps=3)
    sampler = OwnState(23)
    list(sampler)  # its state has moved on since
    resumed, history = train_on(DataLoader(data, batch_size=4, sampler=sampler), tmp_path)
    assert same_state(resumed, whole)
    assert (history.exact, history.exact_reason) == (False, "OwnState may keep random state of its own")
    report = Checkpointer(tmp_path).verify(history.checkpoint)
    assert (report.exact, report.exact_reason) == (False, "OwnState may keep random state of its own")


def test_a_drawing_sampler_of_torch_is_exact_even_with_a_generator_of_its_own(tmp_path):
    def loader():
        generator = torch.Generator().manual_seed(11)
        sampler = WeightedRandomSampler([1.0, 2.0] * 11 + [1.0], 23, generator=generator)
        return DataLoader(Augmented(), batch_size=4, sampler=sampler)

    whole, history = train_on(loader(), None, epochs=2)
    assert history.exact
    train_on(loader(), tmp_path, max_steps=8, epochs=2)
    assert same_state(train_on(loader(), tmp_path, epochs=2)[0], whole)


class Stream(IterableDataset):
    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(12):
            yield torch.randn(6, generator=generator), torch.randint(3, (), generator=generator)


def test_a_stream_resumes_by_fetching_again_and_says_so(tmp_path):
    whole, _ = train_on(DataLoader(Stream(), batch_size=2), None)
    train_on(DataLoader(Stream(), batch_size=2), tmp_path, max_steps=3)
    resumed, history = train_on(DataLoader(Stream(), batch_size=2), tmp_path)
    assert history.steps == 6
    assert same_state(resumed, whole)
    assert history.exact_reason == "Stream cannot say where it stands; a resumed run fetches the epoch's batches again"


def test_seed_none_draws_a_seed_that_repeats_the_run_and_survives_a_resume(tmp_path):
    def train(directory, seed, max_steps=None):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        data = DataLoader(Augmented(), batch_size=4, shuffle=True)
        options = {"checkpoint": directory, "max_steps": max_steps, "seed": seed, "progress": False, "log": ()}
        return model, fit(model, nn.CrossEntropyLoss(reduction="none"), optimizer, data, **options)

    _, first = train(tmp_path, None, max_steps=2)
    resumed, history = train(tmp_path, None)
    again, _ = train(None, first.seed)
    assert history.seed == first.seed
    assert same_state(resumed.state_dict(), again.state_dict())


def test_random_streams_and_modes_of_the_caller_are_as_before():
    model = make_model().eval()
    model[3].train()
    data = DataLoader(Augmented(), batch_size=4, shuffle=True)
    before = _random.capture()
    options = {"val_loader": data, "seed": 3, "progress": False}
    fit(model, nn.CrossEntropyLoss(reduction="none"), torch.optim.SGD(model.parameters(), lr=0.1), data, **options)
    assert same_state(_random.capture(), before)
    assert [module.training for module in model] == [False, False, False, True, False]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_handlers_are_put_back_and_the_users_own_is_called_afterwards(tmp_path):
    called = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    try:
        handler = signal.getsignal(signal.SIGTERM)

        def kill(event, state):
            if event == "step" and state.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
                assert not called

        *_, (_, kept) = run(tmp_path, callbacks=[kill])
        assert kept["stopped"] == "SIGTERM"
        assert called == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_training_in_a_thread_works_without_handlers():
    results = []
    thread = threading.Thread(target=lambda: results.append(run(None)))
    thread.start()
    thread.join()
    assert same_state(results[0], run(None))


def test_a_second_interrupt_ends_a_long_step_at_once(tmp_path):
    def kill(event, state):
        if event == "step" and state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[kill])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert same_state(run(tmp_path), run(None))
