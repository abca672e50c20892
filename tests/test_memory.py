"""Release, holders, leaks, retries and the timeline, in this process; whole patterns run in test_memory_processes.py."""

import dataclasses
import gc
import json
import sys
import threading
import types
import warnings
import weakref
from collections import deque
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

import linkboy as lb
from linkboy.memory import _process, leak, retry
from linkboy.memory._live import storages

MIB = 2**20


def paths(target, **options):
    return [holder.path for holder in lb.who_holds(target, **options).holders]


# Live bytes


def test_live_bytes_grow_by_exactly_what_was_made():
    def live():
        return sum(device.nbytes for device in lb.memory_report(top=0).live)

    gc.collect()
    before = live()
    base = torch.zeros(1000, 100)
    made = [base, base[:1], base.t(), base.expand(5, 1000, 100), nn.Parameter(base), base.detach()]
    made.append(torch.empty(10**9, device="meta"))
    tied = nn.Linear(10, 10, bias=False)
    tied.other = tied.weight
    made += [tied, torch.zeros(0)]
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 1], [2, 3]]), torch.ones(2), (10**6, 10**6), check_invariants=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors are deprecated, and still alive
        made += [sparse, torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8)]
    # 100 000 floats; 10 x 10 floats; 4 indices and 2 values; 64 bytes
    assert live() - before == 400_000 + 400 + (32 + 8) + 64
    del made, base, tied, sparse
    assert live() == before


def test_the_parts_of_a_wrapped_tensor_are_counted_and_its_own_reports_are_whole():
    from torch.testing._internal.two_tensor import TwoTensor

    gc.collect()
    before = sum(device.nbytes for device in lb.memory_report(top=0).live)
    pair = TwoTensor(torch.zeros(1000), torch.zeros(1000))
    assert sum(device.nbytes for device in lb.memory_report(top=0).live) - before == 8000
    assert lb.who_holds(pair).nbytes == 8000
    assert lb.who_holds(pair).summary.startswith("f32[1000], 7.8 KiB, has ")


def test_a_tensor_that_cannot_be_taken_apart_stops_no_search():
    class Broken(torch.Tensor):
        def __tensor_flatten__(self):
            raise ValueError("planted")

    broken = torch.zeros(3).as_subclass(Broken)
    assert list(storages(broken))
    assert paths(broken)


@pytest.mark.slow  # the import
def test_fake_tensors_take_nothing():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(1000)
    assert not list(storages(fake))


@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=8))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_largest_storages_come_first_with_every_view_counted(sizes):
    tensors = [torch.zeros(10_000_000 + size, dtype=torch.int8) for size in sizes]
    views = [tensor[:1] for tensor in tensors]
    largest = lb.memory_report(top=len(sizes)).largest
    assert [item.nbytes for item in largest] == sorted((t.numel() for t in tensors), reverse=True)
    assert all(item.tensor_count == 2 for item in largest)
    assert len(views) == len(sizes)


# Holders


class Keeper:
    """A place with a name of its own, so that each path has an end to look for."""


HELD: Any = types.ModuleType("held")  # a new one for each test


@pytest.fixture(scope="module", autouse=True)
def old_objects_hidden():
    """Hide what is older than these tests from the collector: each search takes 5 ms in place of 300."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def nothing_hidden():
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch):
    held = types.ModuleType("held")  # younger than the freeze, so that a search can end at it
    monkeypatch.setitem(sys.modules, "held", held)
    monkeypatch.setitem(globals(), "HELD", held)
    yield
    vars(held).clear()


def held_by(watch, start="held"):
    """Path (without the start) and advice of the one holder that begins with `start`; the test runner has others."""
    found = [holder for holder in lb.who_holds(watch(), limit=30).holders if holder.path.startswith(start)]
    assert len(found) == 1
    return found[0].path.removeprefix(start), found[0].advice


def test_a_list_of_losses_is_named_through_its_graph():
    HELD.history = []

    def step():
        hidden = (torch.randn(20, 20) @ torch.randn(20, 20, requires_grad=True)).relu()
        HELD.history.append(hidden.mean())
        return weakref.ref(hidden.untyped_storage())

    watch = step()
    path, advice = held_by(watch)
    assert path == ".history[0] -> MeanBackward0 -> ReluBackward0._saved_result"
    assert advice == ("store `loss.item()` or `.detach()`: a tensor with a graph keeps all activations",)
    HELD.history[0] = HELD.history[0].item()
    assert watch() is None


def test_a_leaf_that_only_a_graph_holds_is_named():
    leaf = torch.ones(5, requires_grad=True)
    watch = weakref.ref(leaf.untyped_storage())
    HELD.loss = (leaf + 1).sum()
    del leaf
    assert held_by(watch)[0] == ".loss -> SumBackward0 -> AddBackward0 -> AccumulateGrad.variable"


def test_an_intermediate_that_is_also_named_is_found_in_the_graph_of_the_loss():
    hidden = (torch.randn(4, 4, requires_grad=True) * 2).relu()
    HELD.loss = hidden.mean()
    assert "held.loss -> MeanBackward0 -> ReluBackward0._saved_result" in paths(hidden)


def test_a_deep_graph_is_shown_without_its_middle():
    deep = torch.randn(4, requires_grad=True).exp()
    watch = weakref.ref(deep.untyped_storage())
    for _ in range(300):
        deep = deep + 1
    HELD.loss = deep
    del deep
    assert held_by(watch)[0] == (
        ".loss -> AddBackward0 -> AddBackward0 -> ... -> AddBackward0 -> ExpBackward0._saved_result"
    )


def test_a_custom_function_is_seen_with_what_its_context_keeps():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            ctx.extra = torch.ones(7)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad

    def step():
        leaf = torch.ones(5, requires_grad=True)
        middle = leaf + 1
        HELD.loss = Double.apply(middle)
        return weakref.ref(middle.untyped_storage()), weakref.ref(HELD.loss.grad_fn.extra)

    saved, extra = step()
    assert held_by(saved)[0] == ".loss -> DoubleBackward._saved_tensors"
    assert held_by(extra)[0] == ".loss -> DoubleBackward.extra"


FREED = {
    "index": lambda x: x[torch.tensor([0, 2])],
    "index_put": lambda x: x.index_put((torch.tensor([0]),), torch.zeros(1, 3)),
    "cat": lambda x: torch.cat([x, x]) * x.repeat(2, 1),
    "stack": lambda x: torch.stack([x, x]).exp(),
    "lstm": lambda x: torch.nn.LSTM(3, 2)(x)[0],
}


@pytest.mark.parametrize("name", FREED)
def test_a_graph_that_a_backward_pass_has_freed_can_be_searched(name):
    """A list of tensors that was saved raises once it is freed, where a single one reads as `None`."""
    leaf = torch.randn(4, 3, requires_grad=True)
    kept = [FREED[name](leaf).sum()]
    kept[0].backward()
    assert lb.memory_report(top=1).largest
    assert lb.who_holds(kept[0]).holders
    watch = weakref.ref(leaf)
    del leaf
    assert not lb.release_memory(watch).watched[0].gone  # the graph of the loss still leads to it
    kept.clear()
    assert lb.release_memory(watch).watched[0].gone


def test_looking_at_a_graph_runs_no_saved_tensor_hook():
    calls = []

    def block(x):
        calls.append(1)
        return x.relu() * 2

    x = torch.randn(8, requires_grad=True)
    y = checkpoint(block, x, use_reentrant=False)
    lb.memory_report()
    lb.who_holds(x)
    assert calls == [1]
    y.sum().backward()
    lb.memory_report()  # and a graph that is already freed is no error


def test_an_optimizer_is_named_for_its_state():
    model = nn.Sequential(nn.Linear(4, 4))
    HELD.optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    HELD.optimizer.step()
    moment = weakref.ref(next(iter(HELD.optimizer.state.values()))["exp_avg"])
    whole = weakref.ref(model)
    del model
    assert whole() is None
    assert held_by(moment) == (
        ".optimizer.state[f32[4, 4]]['exp_avg']",
        ("delete the optimizer together with the model",),
    )
    del HELD.optimizer
    gc.collect()
    assert moment() is None


def test_an_attribute_of_a_class_is_named():
    tensor = torch.zeros(3)
    kind = type("Run", (), {"kept": [tensor]})
    assert "class tests.test_memory.Run.kept[0]" in paths(tensor)
    assert kind.kept


def test_a_gradient_is_named():
    HELD.model = nn.Linear(3, 3)
    HELD.model(torch.ones(1, 3)).sum().backward()
    watch = weakref.ref(HELD.model.weight.grad.untyped_storage())
    path, advice = held_by(watch)
    assert path == ".model.weight.grad"
    assert advice == ("call `zero_grad(set_to_none=True)`",)
    HELD.model.zero_grad(set_to_none=True)
    assert watch() is None


def test_locals_generators_slots_and_threads_are_named():
    class Slotted:
        __slots__ = ("tensor",)

    def generate():
        inner = torch.zeros(3)
        yield weakref.ref(inner)
        yield

    HELD.generator = generate()
    held = next(HELD.generator)
    assert held_by(held)[0].endswith(", local inner")
    HELD.slotted = Slotted()
    HELD.slotted.tensor = torch.zeros(3)
    assert "held.slotted.tensor" in paths(HELD.slotted.tensor)

    ready, finish, seen = threading.Event(), threading.Event(), []

    def work():
        mine = torch.zeros(3)
        seen.append(weakref.ref(mine))
        ready.set()
        finish.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    assert any("work() at test_memory.py:" in path and path.endswith("local mine") for path in paths(seen[0]()))
    finish.set()
    thread.join()


def test_nan_in_keys_and_values_hides_no_holder():
    nan = float("nan")
    HELD.table = {nan: torch.full((3,), nan)}
    assert held_by(weakref.ref(HELD.table[nan]))[0] == ".table[nan]"


def test_reports_are_right_while_other_threads_allocate():
    target = torch.zeros(3)
    HELD.queue, stop, failures = deque([*range(20_000), target]), threading.Event(), []  # long enough to be cut off

    def allocate():
        try:
            while not stop.is_set():
                HELD.queue.appendleft([torch.ones(100, requires_grad=True).exp().sum() for _ in range(20)])
                HELD.queue.popleft()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=allocate) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            assert any(path.startswith("held.queue[") for path in paths(target, limit=30))
            assert lb.memory_report(top=3).live[0].nbytes > 0
            assert lb.release_memory(weakref.ref(target)).watched[0].holders
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()
    assert failures == []


def test_only_addresses_of_files_on_disk_are_found_in_mapped_files(monkeypatch, tmp_path):
    (tmp_path / "maps").write_text(
        "1000-2000 r--p 00000000 fe:00 11 /home/a b/model.safetensors\n"
        "2000-3000 rw-p 00000000 00:00 0\n"
        "3000-4000 rw-p 00000000 00:00 0 [heap]\n"
        "4000-5000 rw-s 00000000 00:1b 12 /dev/shm/torch_1 (deleted)\n"
        "6000-7000 rw-s 00000000 fe:00 13 /tmp/file (deleted)\n"
    )
    monkeypatch.setattr(_process, "MAPS", tmp_path / "maps")
    addresses = [0xFFF, 0x1000, 0x1FFF, 0x2000, 0x3000, 0x4000, 0x5FFF, 0x6000, 0x7000]
    assert _process.in_mapped_files(addresses) == {0x1000, 0x1FFF, 0x6000}
    monkeypatch.setattr(_process, "MAPS", tmp_path / "absent")
    assert _process.in_mapped_files(addresses) == set()


@pytest.mark.usefixtures("nothing_hidden")
def test_what_only_a_library_holds_is_said_to_be_unknown():
    def make():
        tensor = torch.zeros(5)
        return tensor.numpy(), weakref.ref(tensor.untyped_storage())

    array, watch = make()
    result = lb.release_memory(watch, trim=False).watched[0]
    assert len(array) == 5
    assert not result.gone
    assert result.holders == ()
    assert result.notes == (
        "nothing found in Python: held by C++, by a library, or by a reference cycle (gc.collect())",
    )


def test_a_search_leaves_nothing_behind():
    gc.collect()
    gc.disable()
    try:
        tensor = torch.zeros(100)
        watch = weakref.ref(tensor)
        lb.who_holds(tensor)
        lb.memory_report()
        del tensor
        assert watch() is None
        assert not any(type(item).__name__ == "HolderSearch" for item in gc.get_objects())
    finally:
        gc.enable()


# Release


def test_a_reference_cycle_is_freed_by_the_collector():
    cycle = Keeper()
    cycle.me, cycle.tensor = cycle, torch.zeros(100)
    watch = weakref.ref(cycle.tensor)
    del cycle
    report = lb.release_memory(watch)
    assert report.watched[0].what == "f32[100]"
    assert report.watched[0].gone


def test_watched_objects_keep_their_order_and_say_who_holds_them():
    gone, held = torch.zeros(1), torch.zeros(2)
    references = [weakref.ref(gone), weakref.ref(held)]
    del gone
    report = lb.release_memory(*references, trim=False)
    assert [(w.what, w.gone) for w in report.watched] == [
        ("an object that was gone before the call", True),
        ("f32[2]", False),
    ]
    assert any(h.path.endswith("local held") for h in report.watched[1].holders)
    assert "1 of 2 watched still held" in report.summary
    assert "watched[1], f32[2]: still held by" in str(report)


@pytest.mark.skipif(_process.read_process_memory() is None, reason="needs /proc")
def test_a_second_release_in_a_row_finds_nothing():
    lb.release_memory()
    again = [lb.release_memory().freed_nbytes for _ in range(3)]
    assert all(abs(freed) < 0.1 * 2**20 for freed in again if freed is not None), again


def test_release_report_is_json_and_its_figures_add_up():
    report = lb.release_memory()
    data = json.loads(report.to_json())
    assert data["freed_nbytes"] == data["before"]["resident_nbytes"] - data["after"]["resident_nbytes"]
    memory = report.after
    parts = memory.anonymous_nbytes + memory.file_backed_nbytes + memory.shared_nbytes
    assert abs(memory.resident_nbytes - parts) < MIB
    assert report.summary.startswith("released ")


def test_a_missing_malloc_trim_becomes_a_note(monkeypatch):
    monkeypatch.setattr(_process, "has_symbol", lambda name: False)
    assert _process.NO_TRIM in lb.release_memory().notes
    assert not lb.memory_environment().abilities[1].works


def test_another_allocator_becomes_a_note(monkeypatch):
    monkeypatch.setattr(_process, "has_symbol", lambda name: name in ("malloc_trim", "mallctl"))
    note = "heap trim does nothing here: jemalloc serves malloc, malloc_trim is glibc's"
    assert note in lb.release_memory().notes


def test_trim_can_be_left_out():
    report = lb.release_memory(trim=False)
    assert [step.name for step in report.steps] == ["collector"]
    assert "heap trim not done: trim=False" in report.notes


def test_the_collector_can_be_left_out(monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("the collector ran"))
    report = lb.release_memory(collect=False)
    assert [step.name for step in report.steps] == ["heap trim"]
    assert "garbage collector not run: collect=False" in report.notes


def test_without_proc_the_figures_come_from_psutil_and_without_both_they_are_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(_process, "STATUS", tmp_path / "absent")
    monkeypatch.setattr(_process, "STATM", tmp_path / "absent")
    assert lb.release_memory().before.source == "psutil"
    assert _process.AnonymousMemory().read() is None
    monkeypatch.setitem(sys.modules, "psutil", None)
    report = lb.release_memory()
    assert report.freed_nbytes is None
    assert "resident memory unknown: neither /proc/self/status nor psutil can be read" in report.notes
    assert report.summary.startswith("released unknown")


def test_a_device_cache_is_emptied_after_a_synchronise_and_its_share_reported(monkeypatch):
    class Fake:
        reserved, calls = [100 * MIB, 0], []
        is_initialized = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 2)
        memory_allocated = staticmethod(lambda i: 0)
        memory_reserved = staticmethod(lambda i: Fake.reserved[i])
        synchronize = staticmethod(lambda device: Fake.calls.append(device))

        @staticmethod
        def empty_cache():
            Fake.calls.append("empty")
            Fake.reserved[0] = 20 * MIB

    monkeypatch.setattr(torch, "cuda", Fake)
    report = lb.release_memory(trim=False)
    assert Fake.calls == ["cuda:0", "empty"]  # the device without memory is not touched
    assert [(s.name, s.freed_nbytes) for s in report.steps[1:]] == [("cuda:0 cache", 80 * MIB), ("cuda:1 cache", 0)]
    assert "cuda:0 cache 80.0 MiB" in report.summary


def test_no_device_is_initialised():
    lb.release_memory()
    lb.memory_report(top=1)
    lb.memory_environment()
    assert not torch.cuda.is_initialized()


# Out of memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("NCCL error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 10 bytes"),
    ],
)
def test_memory_that_ran_out_is_recognised(error):
    assert lb.is_out_of_memory(error)


def test_real_failures_are_recognised():
    import numpy as np

    for allocate in (lambda: torch.empty(2**46), lambda: np.empty(2**50)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert lb.is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904]"),
        ValueError("out of memory"),
        KeyboardInterrupt("out of memory"),
    ],
)
def test_other_errors_are_not_taken_for_it(error):
    assert not lb.is_out_of_memory(error)


def test_room_for_50_is_found_from_100_on_the_second_attempt():
    def step(batch_size, accumulate):
        if batch_size > 50:
            raise RuntimeError("CUDA error: out of memory")
        return "done"

    for _ in range(2):  # nothing is remembered
        report = lb.retry_on_oom(step, 100)
        assert (report.result, report.batch_size, report.accumulate) == ("done", 50, 2)
        assert [a.batch_size for a in report.attempts] == [100, 50]
    assert "result" not in report.to_dict()
    assert str(report).startswith("ran with batch size 50 x 2 accumulated = effective batch 100\n")


@pytest.fixture
def without_cleaning():
    with pytest.MonkeyPatch.context() as patch:  # the collector at each of hundreds of attempts is all this would time
        patch.setattr(retry, "release_memory", lambda **options: None)
        yield


@pytest.mark.usefixtures("without_cleaning")
@given(room=st.integers(1, 300), batch=st.integers(1, 300), accumulate=st.integers(1, 5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_largest_fit_among_the_halvings_is_reached_and_the_effective_batch_kept(room, batch, accumulate):
    def step(batch_size, accumulate):
        if batch_size > room:
            raise MemoryError

    report = lb.retry_on_oom(step, batch, accumulate=accumulate)
    halvings = [batch >> i for i in range(batch.bit_length())]
    assert report.batch_size == next(size for size in halvings if size <= room)
    assert len(report.attempts) <= batch.bit_length()
    assert 0 <= report.effective_batch - batch * accumulate < report.batch_size
    assert report.requested_batch == batch * accumulate


def test_every_attempt_starts_with_nothing_left_of_the_failed_one():
    gc.collect()  # what earlier tests left
    live = []

    def inner():
        kept = torch.zeros(16 * MIB)
        kept.cycle = [kept]
        try:
            raise MemoryError("first")
        except MemoryError:
            raise RuntimeError("CUDA error: out of memory") from None

    def step(batch_size, accumulate):
        live.append(sum(device.nbytes for device in lb.memory_report(top=0).live))
        mine = torch.zeros(MIB)
        if batch_size > 8:
            inner()
        return len(mine)

    lb.retry_on_oom(step, 64)
    assert len(live) == 4
    assert max(live) - min(live) < MIB


def test_an_exception_that_someone_keeps_holds_nothing_of_the_failed_attempt():
    HELD.log, watches = [], []

    def step(batch_size, accumulate):
        assert all(watch() is None for watch in watches)
        big = torch.zeros(100)
        watches.append(weakref.ref(big))
        try:
            raise KeyError("first")
        except KeyError as error:
            HELD.log.append(error)
            if batch_size > 2:
                raise MemoryError from error
        return len(big)

    assert lb.retry_on_oom(step, 8).batch_size == 2
    assert len(watches) == 3


def test_a_failure_inside_backward_is_retried_with_the_gradients_of_the_whole_batch():
    torch.manual_seed(0)
    data, target = torch.randn(64, 5, dtype=torch.float64), torch.randn(64, dtype=torch.float64)

    class Hungry(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.rows = len(x)
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            if ctx.rows > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return grad

    model = nn.Linear(5, 1).double()

    def step(batch_size, accumulate):
        model.zero_grad(set_to_none=True)
        for part, wanted in zip(data.split(batch_size), target.split(batch_size), strict=True):
            ((Hungry.apply(model(part)[:, 0]) - wanted).square().sum() / len(data)).backward()
        return model.weight.grad.clone()

    report = lb.retry_on_oom(step, 64)
    assert (report.batch_size, report.accumulate) == (16, 4)
    weight = model.weight.detach()
    residual = data @ weight[0] + model.bias.detach() - target
    torch.testing.assert_close(report.result[0], 2 * residual @ data / 64, rtol=1e-12, atol=1e-14)


def test_the_last_failure_is_raised_with_a_note_on_every_attempt():
    def step(batch_size, accumulate):
        raise MemoryError(f"at {batch_size}")

    with pytest.raises(MemoryError) as caught:
        lb.retry_on_oom(step, 10, minimum=3)
    assert str(caught.value) == "at 3"
    assert caught.value.__notes__ == [
        "retry_on_oom ran out of memory at batch_size x accumulate = 10 x 1, 5 x 2, 3 x 4"
    ]


def test_other_exceptions_pass_untouched_at_the_first_attempt():
    calls = []

    def step(batch_size, accumulate):
        calls.append(batch_size)
        raise ValueError("wrong") from MemoryError()

    with pytest.raises(ValueError, match=r"^wrong$") as caught:
        lb.retry_on_oom(step, 8)
    assert calls == [8]
    assert not hasattr(caught.value, "__notes__")


# Leaks


def run_loop(body, steps=8, **options):
    with lb.LeakDetector(**options) as detector:
        for index in range(steps):
            body(index)
            detector.step()
    return detector.report()


LEAKS = {
    "outputs saved in a graph, named by nobody": lambda kept: kept.append(
        (torch.ones(1, requires_grad=True) + torch.zeros(600_000)).exp().sum()
    ),
    "losses": lambda kept: kept.append(
        (torch.randn(1000, 600) @ torch.ones(600, 600, requires_grad=True)).relu().sum()
    ),
    "slice": lambda kept: kept.append(torch.zeros(600_000)[:1]),
    "dict": lambda kept: kept.append({"output": torch.zeros(600_000)}),
    "exception": lambda kept: kept.append(caught_error()),
}


def caught_error():
    try:
        big = torch.zeros(600_000)
        raise ValueError(str(len(big)))
    except ValueError as error:
        return error


@pytest.mark.parametrize("kind", LEAKS)
def test_a_planted_leak_is_found_within_five_steps(kind):
    HELD.kept = []
    report = run_loop(lambda index: LEAKS[kind](HELD.kept), steps=5)
    assert not report.ok
    assert report.step_count == 3
    assert report.tensor_growth_nbytes > 5 * MIB
    assert any("held.kept[" in h.path for h in report.survivors[0].holders)


@pytest.mark.parametrize(
    ("series", "steady"),
    [
        ([0, 2, 4, 6, 8], True),
        ([0, 4, 8, 9, 9, 9, 9, 9], False),  # filled early
        ([0, 0, 9, 9, 9, 9], False),  # one peak
        ([0, 3, 12, 12], False),  # mainly one step
        ([0, 3, 6, 9, 9, 9, 9, 9, 9, 9], False),  # filled and full
        ([0, 1, 2, 3, 4], False),  # below the tolerance
        ([0, 9, 18], False),  # too few to tell
        ([], False),
    ],
)
def test_only_steady_growth_past_the_tolerance_counts(series, steady):
    assert leak._grows_steadily(series, 5) is steady


@pytest.mark.parametrize(
    ("series", "steady"),
    [
        ([0, 4, 8, 12], True),
        ([0, 8, 9, 12], False),  # a heap that takes its size in a leap
        ([0, 6, 6, 12], False),
        ([0, 2, 4, 6, 8, 10, 12, 14], True),
        ([0, 4, 8, 12, 12, 12, 12, 12], False),
        ([0, 4, 8], False),
    ],
)
def test_the_process_has_to_grow_in_each_of_four_parts(series, steady):
    assert leak._grows_steadily(series, 5, parts=4) is steady


@pytest.mark.usefixtures("nothing_hidden")
def test_a_report_inside_the_loop_changes_nothing_afterwards():
    HELD.kept = []
    window = deque(maxlen=3)
    with lb.LeakDetector(tolerance_mib=1, warmup=0) as keeping:
        for index in range(12):
            HELD.kept.append(torch.zeros(100_000))
            keeping.step()
            if index in (4, 7):
                keeping.report()
    assert not keeping.report().ok
    assert keeping.report().tensor_growth_nbytes == 12 * 400_000
    assert keeping.report().survivors[0].storage_count == 11  # all but that of the last step
    with lb.LeakDetector(tolerance_mib=1, warmup=0) as passing:
        for index in range(12):
            window.append(torch.zeros(100_000))
            passing.step()
            if index in (4, 7):
                passing.report()
    assert passing.report().tensor_growth_nbytes == 3 * 400_000
    assert passing.report().ok


@pytest.mark.usefixtures("nothing_hidden")
def test_garbage_of_before_the_loop_does_not_hide_a_leak():
    HELD.kept = []
    cycle = [torch.zeros(2_000_000)]
    cycle.append(cycle)
    del cycle
    with lb.LeakDetector(tolerance_mib=1, warmup=0) as keeping:
        for index in range(12):
            HELD.kept.append(torch.zeros(100_000))
            keeping.step()
            if index == 4:
                keeping.report()  # lets the garbage collector see what is older than the loop
                gc.collect()
    assert not keeping.report().ok


def test_process_growth_that_tensors_account_for_is_no_second_leak(monkeypatch):
    # A window that fills: below the tolerance as tensors, just above it as pages of the process.
    pages = iter([0, 0, 0, 2, 4, 6, 8, 10])
    monkeypatch.setattr(leak.AnonymousMemory, "read", lambda memory: next(pages) * MIB)
    window = deque(maxlen=20)
    report = run_loop(lambda index: window.append(torch.zeros(MIB // 4)), steps=7)
    assert report.process_growth_nbytes == 10 * MIB
    assert report.tensor_growth_nbytes == 5 * MIB
    assert report.ok


def test_new_tensors_in_place_of_older_ones_are_no_leak():
    old = [torch.ones(600_000) for _ in range(20)]

    def replace(index):
        old[index] = torch.ones(600_000)

    assert run_loop(replace, steps=8).ok


@pytest.mark.usefixtures("nothing_hidden")
def test_a_report_can_be_asked_for_inside_the_loop_and_a_users_freeze_stays():
    HELD.kept = []
    with lb.LeakDetector(tolerance_mib=1, warmup=0) as detector:
        for _ in range(5):
            HELD.kept.append(torch.zeros(200_000))
            detector.step()
        assert not detector.report().ok
        assert gc.get_freeze_count() > 0
    gc.freeze()
    try:
        run_loop(lambda index: None)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


@pytest.mark.usefixtures("nothing_hidden")
def test_the_collector_is_unfrozen_when_the_loop_fails():
    with pytest.raises(ZeroDivisionError):
        run_loop(lambda index: 1 // 0)
    assert gc.get_freeze_count() == 0


# Timeline


def test_a_timeline_sees_the_peak_and_draws_it(tmp_path):
    with lb.track_memory(every_seconds=0.005) as memory:
        big = torch.ones(20 * MIB)
        memory.mark("made")
        del big
    timeline = memory.timeline()
    start, peak, end = timeline.resident[0], timeline.peak_nbytes, timeline.resident[-1]
    assert peak - start > 70 * MIB
    assert peak - end > 70 * MIB
    assert list(timeline.seconds) == sorted(timeline.seconds)
    timeline.save_picture(tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
    assert "made" in str(timeline)
    with pytest.raises(RuntimeError) as caught:
        memory.mark("late")
    assert str(caught.value) == "mark('late') must be called inside the block: `with track_memory() as memory: ...`"


def test_a_pause_longer_than_a_thread_can_wait_samples_start_and_end():
    with lb.track_memory(every_seconds=1e30) as memory:
        pass
    assert len(memory.timeline().seconds) == 2


# Reports and messages


def test_reports_are_plain_json():
    for report in (lb.memory_report(top=2), lb.memory_environment(), lb.who_holds(torch.zeros(1)), run_loop(print)):
        assert json.loads(report.to_json())
        assert str(report)
        assert dataclasses.is_dataclass(report)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: lb.release_memory(torch.zeros(4, 3)),
            TypeError,
            "watched[0] must be a weak reference, got f32[4, 3]: passing the object itself keeps it alive; before you "
            "delete it, make `watch = weakref.ref(it)` and pass `watch`",
        ),
        (
            lambda: lb.release_memory(weakref.proxy(Keeper())),  # gone: it may not even be asked what it is
            TypeError,
            "watched[0] must be a weak reference, got weakref.proxy: passing the object itself keeps it alive; before "
            "you delete it, make `watch = weakref.ref(it)` and pass `watch`",
        ),
        (
            lambda: lb.LeakDetector(tolerance_mib=float("nan")),
            ValueError,
            "tolerance_mib must be a number of at least 0, got nan",
        ),
        (
            lambda: lb.track_memory(every_seconds=float("nan")),
            ValueError,
            "every_seconds must be a number above 0, got nan",
        ),
        (
            lambda: lb.retry_on_oom(max, float("nan")),
            TypeError,
            "batch_size must be an integer of at least 1, got nan of type float",
        ),
        (lambda: lb.release_memory(trim=1), TypeError, "trim must be True or False, got 1"),
        (lambda: lb.release_memory(collect=0), TypeError, "collect must be True or False, got 0"),
        (lambda: lb.who_holds([1]), TypeError, "target must be a tensor, a module or a storage, got list"),
        (
            lambda: lb.who_holds(torch.zeros(1), depth=0),
            ValueError,
            "depth must be an integer of at least 1, got 0",
        ),
        (
            lambda: lb.who_holds(torch.zeros(1), limit=0),
            ValueError,
            "limit must be an integer of at least 1, got 0",
        ),
        (lambda: lb.memory_report(top=-1), ValueError, "top must be an integer of at least 0, got -1"),
        (lambda: lb.memory_report(depth=0), ValueError, "depth must be an integer of at least 1, got 0"),
        (lambda: lb.LeakDetector(tolerance_mib=-1), ValueError, "tolerance_mib must be a number of at least 0, got -1"),
        (
            lambda: lb.LeakDetector(warmup=1.5),
            TypeError,
            "warmup must be an integer of at least 0, got 1.5 of type float",
        ),
        (
            lambda: lb.LeakDetector().step(),
            RuntimeError,
            "step() must be called inside the block: `with LeakDetector() as detector: ...`",
        ),
        (
            lambda: lb.LeakDetector().report(),
            RuntimeError,
            "report() needs a watched loop: `for batch in detector.watch(loader): ...`",
        ),
        (
            lambda: lb.retry_on_oom(3, 8),
            TypeError,
            "fn must be a function of (batch_size, accumulate), got int",
        ),
        (lambda: lb.retry_on_oom(max, 0), ValueError, "batch_size must be an integer of at least 1, got 0"),
        (
            lambda: lb.retry_on_oom(max, 8, accumulate=0),
            ValueError,
            "accumulate must be an integer of at least 1, got 0",
        ),
        (lambda: lb.retry_on_oom(max, 8, minimum=9), ValueError, "minimum must be at most batch_size 8, got 9"),
        (lambda: lb.track_memory(every_seconds=0), ValueError, "every_seconds must be a number above 0, got 0"),
        (
            lambda: lb.track_memory().timeline(),
            RuntimeError,
            "timeline() needs a recorded block: `with track_memory() as memory: ...`",
        ),
        (lambda: lb.track_memory().mark(3), TypeError, "name must be a string, got int"),
        (
            lambda: lb.track_memory().mark("here"),
            RuntimeError,
            "mark('here') must be called inside the block: `with track_memory() as memory: ...`",
        ),
    ],
)
def test_messages(call, kind, message):
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message


def test_a_detector_or_a_timeline_is_not_entered_twice():
    with lb.LeakDetector() as detector:
        with pytest.raises(RuntimeError) as caught:
            detector.__enter__()
    assert str(caught.value) == ("this LeakDetector is already watching a loop; make a second one for the inner loop")
    with lb.track_memory() as memory:
        pass
    with pytest.raises(RuntimeError) as caught:
        memory.__enter__()
    assert str(caught.value) == "this track_memory has already recorded a block; make a new one for each"


def test_a_view_that_torch_forbids_to_ask_about_its_graph_does_not_end_the_search():
    base = torch.zeros(4, requires_grad=True).clone()
    with torch.no_grad():
        view = base[:2]
    base.mul_(2)
    with pytest.raises(RuntimeError):
        view.grad_fn  # the trap itself
    kept = [torch.zeros(1000)]
    assert "kept" in str(lb.who_holds(kept[0]))
