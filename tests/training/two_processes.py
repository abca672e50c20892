"""Run by torchrun on two gloo processes: many claims in one start, because a start costs more than all of them."""

import itertools
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from tests.training.helpers import (
    Augmented,
    Plain,
    Recorder,
    full_batch_gradient,
    relative_error,
    same_state,
    small_run,
    without_clock,
)
from torch import nn
from torch.utils.data import DataLoader

from linkboy.training import (
    Checkpointer,
    EarlyStopping,
    _processes,
    evaluate,
    fit,
    is_main_process,
    predict,
    process_count,
    wait_for_everyone,
)

SQUARED = nn.MSELoss(reduction="none")
SHARED = Path(sys.argv[1] if __name__ == "__main__" else ".")


def everywhere(value):
    """The value of both processes, which must be the same; only call where both come by."""
    first, second = _processes.gather(value)
    assert same_state(first, second), (first, second)
    return value


def gradients_are_those_of_the_full_batch():
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        for accumulate, batch_size in ((4, 3), (3, 4), (1, 11), (11, 1), (1, 50), (20, 1)):
            dataset, model = Plain(21, dtype), nn.Linear(4, 2, dtype=dtype)
            model.load_state_dict(_processes.broadcast(model.state_dict()))
            optimizer = Recorder(model.parameters())
            loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
            history = fit(model, SQUARED, optimizer, loader, accumulate=accumulate, seed=0, progress=False)
            (got,) = everywhere(optimizer.gradients)
            assert relative_error(got, full_batch_gradient(model, dataset, weighted=True)) <= limit
            assert round(history.rows[0]["examples_per_second"] * history.rows[0]["seconds"], 6) == 21


def a_process_without_weight_or_without_a_sample_takes_part():
    for rows, zero in ((8, slice(1, None, 2)), (1, slice(0, 0)), (3, slice(0, 0))):
        dataset, model = Plain(rows), nn.Linear(4, 2, dtype=torch.float64)
        dataset.weights[zero] = 0  # rows 1, 3, ... are those of process 1
        model.load_state_dict(_processes.broadcast(model.state_dict()))
        optimizer = Recorder(model.parameters())
        fit(model, SQUARED, optimizer, DataLoader(dataset, batch_size=2), accumulate=8, progress=False)
        (got,) = everywhere(optimizer.gradients)
        assert relative_error(got, full_batch_gradient(model, dataset, weighted=True)) <= 1e-12
    dataset.weights[:] = 0
    assert fit(model, SQUARED, optimizer, DataLoader(dataset, batch_size=2), progress=False).skipped_steps == 1


def every_sample_is_evaluated_once(cases):
    for rows, batch_size in cases:
        data = torch.arange(float(rows))
        out = everywhere(predict(nn.Identity(), DataLoader(data, batch_size=batch_size, shuffle=True)))
        assert torch.equal(out, data), (rows, batch_size)
    pairs = torch.utils.data.TensorDataset(torch.arange(7.0)[:, None], torch.zeros(7, 1), torch.arange(7.0)[:, None])
    report = everywhere(
        evaluate(nn.Identity(), DataLoader(pairs, batch_size=2), {"sum": lambda o, t: o.sum()}, loss_fn=SQUARED)
    )
    assert (report.sample_count, report.loss, report.metrics) == (7, 441 / 21, {"sum": 21.0})


def run(directory, *, max_steps=None, **options):
    model, loss_fn, optimizer, data, scheduler = small_run()
    history = fit(
        model, loss_fn, optimizer, data, scheduler=scheduler, val_loader=DataLoader(Augmented(7), batch_size=4),
        metrics={"accuracy": lambda output, target: (output.argmax(1) == target).float().mean()}, epochs=2, accumulate=3,
        ema=0.9, early_stopping=EarlyStopping("accuracy", "max"), max_steps=max_steps, seed=7, log_every=2, progress=False,
        checkpoint=directory and Checkpointer(directory, every_steps=1000), **options,
    )  # fmt: skip
    return everywhere((model.state_dict(), optimizer.state_dict(), scheduler.state_dict(), without_clock(history)))


def resume_is_bit_equal_from_every_step():
    whole = run(None)
    for cut in range(1, whole[3][1]["steps"] + 1):
        run(SHARED / f"cut{cut}", max_steps=cut)
        assert same_state(run(SHARED / f"cut{cut}"), whole), f"cut after step {cut}"


def a_signal_to_one_process_stops_both_at_one_step():
    def kill(event, state):
        if event == "step" and state.step == 1 and not is_main_process():
            os.kill(os.getpid(), signal.SIGTERM)

    *_, (_, kept) = run(SHARED / "signal", callbacks=[kill])
    assert (kept["stopped"], kept["steps"]) == ("SIGTERM", 2)
    assert same_state(run(SHARED / "signal"), run(None))


def a_nan_on_one_process_is_told_by_both():
    for on_nan in ("skip", "raise"):
        dataset, model = Plain(8), nn.Linear(4, 2, dtype=torch.float64)
        dataset.inputs[5] = float("nan")  # sample 5 is the third of process 1
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(dataset, batch_size=2)
        if on_nan == "skip":
            assert fit(model, SQUARED, optimizer, loader, on_nan=on_nan, progress=False).skipped_steps == 1
            assert all(p.isfinite().all() for p in everywhere(list(model.parameters())))
            continue
        with pytest.raises(FloatingPointError) as caught:
            fit(model, SQUARED, optimizer, loader, on_nan=on_nan, progress=False)
        assert everywhere(str(caught.value)) == (
            "the loss is not finite in step 2 of epoch 1; the input of the batch is not finite, samples [5]; "
            "there is no checkpoint"
        )


def a_failed_write_on_one_process_is_raised_by_both():
    directory = SHARED / "full"
    checkpointer = Checkpointer(directory)
    good = checkpointer.save({"a": torch.ones(2)}, 1)
    from linkboy.training import _checkpoint

    write = _checkpoint._write_part
    if not is_main_process():
        _checkpoint._write_part = lambda *arguments: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    try:
        with pytest.raises(OSError, match="No space left on device") as caught:
            checkpointer.save({"a": torch.ones(2)}, 2)
    finally:
        _checkpoint._write_part = write
    assert caught.value.errno == 28
    wait_for_everyone()
    assert everywhere(checkpointer.latest()) == good
    assert [path.name for path in directory.iterdir()] == ["step-1"]


def a_stream_cannot_be_evaluated_by_two():
    with pytest.raises(ValueError) as caught:
        predict(nn.Identity(), [torch.ones(2)])
    assert str(caught.value) == (
        "an iterable cannot be shared out over 2 processes so that each sample counts once; "
        "pass a DataLoader over a map-style dataset"
    )


def streams_of_unequal_length_train_to_their_end():
    dataset, model = Plain(5), nn.Linear(4, 2, dtype=torch.float64)
    model.load_state_dict(_processes.broadcast(model.state_dict()))
    own = [[0], [1], [2]] if is_main_process() else [[3, 4]]
    batches = [(dataset.inputs[i], dataset.targets[i], dataset.weights[i]) for i in own]
    optimizer = Recorder(model.parameters())
    fit(model, SQUARED, optimizer, batches, accumulate=4, progress=False)
    (got,) = everywhere(optimizer.gradients)
    assert relative_error(got, full_batch_gradient(model, dataset, weighted=True)) <= 1e-12


def only_the_main_process_prints():
    model = nn.Linear(4, 2, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, SQUARED, optimizer, DataLoader(Plain(8), batch_size=2), epochs=2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert process_count() == 2
    wait_for_everyone()
    gradients_are_those_of_the_full_batch()
    a_process_without_weight_or_without_a_sample_takes_part()
    cases = list(itertools.product(range(1, 51), range(1, 13)))
    if "all" in sys.argv:
        every_sample_is_evaluated_once(cases)
        sys.exit()
    every_sample_is_evaluated_once([(1, 1), (1, 12), (2, 1), (50, 12), *cases[5::29]])
    resume_is_bit_equal_from_every_step()
    a_signal_to_one_process_stops_both_at_one_step()
    a_nan_on_one_process_is_told_by_both()
    a_failed_write_on_one_process_is_raised_by_both()
    a_stream_cannot_be_evaluated_by_two()
    streams_of_unequal_length_train_to_their_end()
    only_the_main_process_prints()
    if is_main_process():
        print("all claims hold", flush=True)
    wait_for_everyone()  # a process that leaves while the other still talks to it can bring that one down
