"""Holders that the collector does not show, advice run in a real notebook, and full memory in every device's words."""

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import os
import re
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import torch

import linkboy as lb
from linkboy.memory import _process

MIB = 2**20


def paths(target):
    return [holder.path for holder in lb.who_holds(target, limit=40).holders]


# --- holders ---


class Keeper:
    """What holds the tensor under test, as an attribute of which the path is known."""


@pytest.fixture
def keeper():
    keeper = Keeper()
    globals()["KEEPER"] = keeper
    yield keeper
    del globals()["KEEPER"]


def test_an_array_whose_memory_a_tensor_shows_holds_it(keeper):
    keeper.array = np.zeros(100_000, np.float32)
    keeper.other = np.zeros(100_000, np.float32)

    def held():
        return paths(torch.from_numpy(keeper.array[50_000:]))

    found = held()
    assert any(path.endswith("KEEPER.array (a NumPy array over its memory)") for path in found), found
    assert not any("KEEPER.other" in path for path in found), found


def test_what_an_array_of_objects_holds_is_found(keeper):
    keeper.column = np.empty((2, 3), object)
    keeper.column[1, 2] = torch.zeros(1000)
    keeper.nested = np.empty(2, object)
    keeper.nested[1] = [torch.zeros(2000)]
    for get, path in (
        (lambda: keeper.column[1, 2].untyped_storage(), "KEEPER.column[1, 2]"),
        (lambda: keeper.nested[1][0].untyped_storage(), "KEEPER.nested[1][0]"),
    ):
        found = paths(get())
        assert any(held.endswith(path) for held in found), found


@pytest.mark.slow
def test_numpy_arrays_over_the_memory_are_followed(keeper):
    keeper.whole = torch.zeros(1000).numpy()
    keeper.views = [torch.zeros(3, 1000).numpy()[1:, ::2]]
    keeper.table = {"a": (torch.zeros(1000).numpy().reshape(10, 100),)}
    for array, path in (
        (keeper.whole, "KEEPER.whole (a NumPy array over its memory)"),
        (keeper.views[0].base, "KEEPER.views[0]"),
        (keeper.table["a"][0].base, "KEEPER.table['a'][0]"),
    ):
        tensor = array.base
        del array
        report = lb.who_holds(tensor)
        assert any(path in holder.path for holder in report.holders), report
        advice = {line for holder in report.holders if "NumPy" in holder.path for line in holder.advice}
        assert advice == {
            "an array from `.numpy()` keeps the tensor's memory: drop it, or keep `.copy()` of the part you need"
        }


def test_context_variables_are_named(keeper):
    variable = contextvars.ContextVar("current_batch")
    token = variable.set({"x": torch.zeros(1000)})
    report = lb.who_holds(variable.get()["x"])
    (holder,) = [holder for holder in report.holders if holder.path.startswith("context")]
    assert holder.path == "context variable 'current_batch'['x']"
    assert holder.advice == ("set the variable to `None`, or call `reset` on it with its token",)
    variable.reset(token)
    context = contextvars.copy_context()
    context.run(variable.set, torch.zeros(1000))  # a context that is not the running one, as a task of asyncio has
    assert "context variable 'current_batch'" in paths(context[variable])


def test_a_search_in_a_program_of_asyncio_does_not_hang_the_next_collection():
    script = """
import asyncio, gc, torch, linkboy as lb

async def main():
    del [iter(asyncio.get_running_loop().create_future())][:]  # kept by the module for later use
    for _ in range(3):
        lb.who_holds(torch.zeros(1000))
    gc.collect()

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=200)


def test_a_context_variable_of_a_waiting_task_is_named():
    variable = contextvars.ContextVar("request")
    found = []

    async def work():
        variable.set(torch.zeros(1000))
        found.append(weakref.ref(variable.get()))
        await asyncio.sleep(0.05)

    async def main():
        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        found.append(paths(found[0]()))
        await task

    asyncio.run(main())
    assert "context variable 'request'" in found[1]


@pytest.mark.slow
def test_thread_locals_are_named_as_people_write_them(keeper):
    keeper.local = threading.local()
    keeper.local.cache = [torch.zeros(1000)]
    assert "KEEPER.local.cache[0]" in " ".join(paths(keeper.local.cache[0]))

    class Local(threading.local):
        pass

    keeper.other = Local()
    keeper.other.x = torch.zeros(1000)
    assert "KEEPER.other.x" in " ".join(paths(keeper.other.x))


def test_a_thread_local_of_another_thread_is_named(keeper):
    keeper.local, ready, done, held = threading.local(), threading.Event(), threading.Event(), []

    def work():
        keeper.local.x = torch.zeros(1000)
        held.append(weakref.ref(keeper.local.x))
        ready.set()
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    found = " ".join(paths(held[0]()))
    done.set()
    thread.join()
    assert "KEEPER.local.x" in found


def test_defaults_and_hooks_are_named(keeper):
    def default():
        held = torch.zeros(1000)
        keeper.function = lambda x, scale=held: x * scale
        return held

    def keyword():
        held = torch.zeros(1000)
        keeper.function = lambda x, *, scale=held: x * scale
        return held

    def hook():
        held = torch.zeros(1000)
        keeper.function = torch.zeros(3, requires_grad=True)
        keeper.function.register_hook(lambda gradient, held=held: gradient)
        return held

    for made, end in (
        (default, r"KEEPER\.function -> <lambda>'s default of scale"),
        (keyword, r"KEEPER\.function -> <lambda>'s default of scale"),
        (
            hook,
            r"KEEPER\.function\._backward_hooks\[\d+\] -> <lambda>'s default of held",
        ),  # torch counts hooks in a process
    ):
        assert any(re.search(f"{end}$", path) for path in paths(made())), made


# --- advice in a real notebook ---


NOTEBOOK = {
    "an output": (
        ["import torch, weakref\nimport linkboy as lb", "t = torch.zeros(3_000_000)\nref = weakref.ref(t.untyped_storage())",
         "t", "del t"],
        "keeps outputs",
    ),
    "an output of an expression": (
        ["import torch, weakref\nimport linkboy as lb\nrefs = []",
         "t = torch.zeros(3_000_000)\nrefs.append(weakref.ref(t.untyped_storage()))\n{'batch': t}", "ref = refs[0]\ndel t",
         "1 + 1"],
        "keeps outputs",
    ),
    "an error": (
        ["import torch, weakref\nimport linkboy as lb\nrefs = []",
         "def work():\n    big = torch.zeros(2_000_000)\n    refs.append(weakref.ref(big.untyped_storage()))\n"
         "    raise RuntimeError('out of memory')", "work()", "ref = refs[0]"],
        "keeps the last error",
    ),
    "an error within another": (
        ["import torch, weakref\nimport linkboy as lb\nrefs = []",
         "def work():\n    big = torch.zeros(2_000_000)\n    refs.append(weakref.ref(big.untyped_storage()))\n"
         "    raise KeyError('inner')\ndef outer():\n    try:\n        work()\n    except KeyError as error:\n"
         "        raise ValueError('outer') from error", "outer()", "ref = refs[0]"],
        "keeps the last error",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def run_cells():
    """Run cells in one kernel, started as Jupyter starts it; `%reset -f` makes it new."""
    manager_module = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    from jupyter_client.kernelspec import KernelSpec

    class Manager(manager_module.KernelManager):
        @property
        def kernel_spec(self):
            command = [sys.executable, "-W", "ignore", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="here", language="python")

    manager = Manager()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()

    def run(code):
        printed = []

        def output(message):
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        client.execute_interactive(code, timeout=120, output_hook=output)
        return "".join(printed)

    client.wait_for_ready(timeout=120)
    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


@pytest.mark.filterwarnings("ignore")  # of pyzmq and jupyter_client, about event loops and file permissions
@pytest.mark.parametrize("name", NOTEBOOK)
def test_the_one_piece_of_advice_frees_the_memory_in_a_real_kernel(name, run_cells):
    cells, said = NOTEBOOK[name]
    run_cells("%reset -f")
    for cell in cells:
        run_cells(cell)
    report = run_cells("print(lb.release_memory(ref))")
    assert "still held by" in report
    holders = report.partition("still held by\n")[2].partition("\n\n")[0].splitlines()
    assert len(holders) == 2, report  # one path and its advice: what IPython keeps is one cause
    assert said in holders[1]
    (advice,) = re.findall("`([^`]+)`", holders[1])
    assert run_cells("import gc; gc.collect(); print(ref() is None)") == "False\n"
    run_cells(advice)
    assert run_cells("import gc; gc.collect(); print(ref() is None)") == "True\n"


# --- out of memory ---


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA driver error: out of memory",
        "HIP out of memory. Tried to allocate 2.00 GiB",
        "hipErrorOutOfMemory",
        "MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 1.0 GB, max allowed: 9.07 GB)",
        "Invalid buffer size: 24.00 GiB",
        "Failed to allocate private MTLBuffer for size 1073741824",
        "command buffer exited with error status. Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "XPU out of memory. Tried to allocate 12.00 GiB",
        "level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
        "Native API failed. Native API returns: 38 (UR_RESULT_ERROR_OUT_OF_HOST_MEMORY)",
        "Native API failed. Native API returns: -6 (PI_ERROR_OUT_OF_HOST_MEMORY)",
        "ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`",
        "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
        "rocblas_status_memory_error",
        "miopenStatusAllocFailed",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "[Rank:3] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::1073741824 (1024)MB",
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 16106127360 bytes.",
        "RESOURCE_EXHAUSTED: TPU backend error: Ran out of memory in memory space hbm.",
        "NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 29.50 GiB total capacity)",
        "Could not allocate tensor with 1073741824 bytes. There is not enough GPU video memory available!",
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8.",
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "unable to mmap 1073741824 bytes from file <x>: Cannot allocate memory (12)",
        "std::bad_alloc",
        "VK_ERROR_OUT_OF_DEVICE_MEMORY",
    ],
)  # fmt: skip
def test_the_words_of_each_backend_are_known(text):
    assert lb.is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."),
        RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904]"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("RESOURCE_EXHAUSTED: Received message larger than max (5242880 vs. 4194304)"),
        RuntimeError("shape '[3]' is invalid for input of size 4"),
        ValueError("out of memory"),
        OSError(28, "No space left on device"),
        ExceptionGroup("two", [MemoryError(), ValueError("x")]),
    ],
)
def test_other_faults_are_not_taken_for_full_memory(error):
    assert not lb.is_out_of_memory(error)


def test_errors_of_the_system_and_groups_of_exceptions_count():
    assert lb.is_out_of_memory(OSError(12, "Cannot allocate memory"))
    inner = ExceptionGroup("inner", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
    assert lb.is_out_of_memory(ExceptionGroup("outer", [inner, RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED")]))


def test_the_strings_that_accelerate_looks_for_are_known():
    memory = pytest.importorskip("accelerate.utils.memory")
    texts = ("CUDA out of memory.", "DefaultCPUAllocator: can't allocate memory", "MODULE:PT_DEVMEM Allocation failed")
    errors = [RuntimeError(f"FATAL ERROR :: {text}") for text in texts]
    known = [error for error in errors if memory.should_reduce_batch_size(error)]
    assert len(known) >= 2  # accelerate 1.0.1 does not know the HPU
    assert all(map(lb.is_out_of_memory, errors))


# --- what has not run ---


class Method:
    async def __call__(self, batch_size, accumulate):
        return batch_size


def generator(batch_size, accumulate):
    yield batch_size


async def coroutine(batch_size, accumulate):
    return batch_size


async def stream(batch_size, accumulate):
    yield batch_size


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (generator, "generator function"),
        (coroutine, "coroutine function"),
        (stream, "asynchronous generator function"),
        (functools.partial(generator), "generator function"),
        (functools.partial(functools.partial(coroutine)), "coroutine function"),
        (Method(), "coroutine function"),
        (lambda batch_size, accumulate: generator(batch_size, accumulate), "generator"),
        (lambda batch_size, accumulate: coroutine(batch_size, accumulate), "coroutine"),
        (lambda batch_size, accumulate: map(abs, [batch_size]), "map"),
        (lambda batch_size, accumulate: filter(None, [batch_size]), "filter"),
    ],
)
def test_what_has_not_run_is_not_reported_as_run(function, what):
    with pytest.raises(TypeError) as caught:
        lb.retry_on_oom(function, 16)
    assert str(caught.value) == (
        f"fn must do its work when it is called, got a {what}, of which nothing has run; let fn itself go through it"
    )


def test_a_future_is_not_reported_as_run():
    with concurrent.futures.ThreadPoolExecutor(1) as pool, pytest.raises(TypeError) as caught:
        lb.retry_on_oom(lambda batch_size, accumulate: pool.submit(abs, batch_size), 16)
    assert str(caught.value) == (
        "fn must do its work when it is called, got a Future, whose work may still run; return its result()"
    )


def of_one(batch_size):
    return batch_size


def by_name(*, batch_size, accumulate):
    return batch_size


@pytest.mark.parametrize(
    ("function", "signature"), [(of_one, "(batch_size)"), (by_name, "(*, batch_size, accumulate)")]
)
def test_a_function_of_other_arguments_is_refused_before_it_is_called(function, signature):
    with pytest.raises(TypeError) as caught:
        lb.retry_on_oom(function, 16)
    assert str(caught.value) == (
        f"fn must be a function of (batch_size, accumulate), got one of {signature}; write lambda batch_size, accumulate: ..."
    )


# --- loops ---


def test_a_leak_that_the_collector_ends_is_called_a_reference_cycle(monkeypatch):
    find = lb.LeakDetector._survivors

    def survivors(self):
        gc.collect()  # as may happen by itself between the verdict and the search
        return find(self)

    monkeypatch.setattr(lb.LeakDetector, "_survivors", survivors)
    detector = lb.LeakDetector()
    gc.disable()
    try:
        for _ in detector.watch(range(10)):
            cycle = [torch.zeros(500_000)]
            cycle.append(cycle)
        report = detector.report()
    finally:
        gc.enable()
    assert not report.ok
    assert report.notes == (
        "what grew was gone once the garbage collector ran: a reference cycle holds it until then; break the cycle, or call "
        "gc.collect() after some steps",
    )


GROWING = """
import torch, linkboy as lb
detector = lb.LeakDetector()
for size in detector.watch(range(1, 21)):
    batch = torch.zeros(200_000 * size)
    hidden = batch * 2
del batch, hidden
report = detector.report()
print(report.ok, report.survivors, *report.notes)
"""


def test_batches_that_grow_are_not_called_a_leak_and_it_is_said():
    """In a process of its own: what the heap does with blocks of many sizes depends on what was allocated before."""
    done = subprocess.run([sys.executable, "-c", GROWING], capture_output=True, text=True, timeout=120)
    assert (
        done.stdout == "True () the tensors of each step are larger than those before, and none outlives its step\n"
    ), done


def test_growth_below_the_tolerance_is_said_with_the_tolerance():
    kept, detector = [], lb.LeakDetector()
    for _ in detector.watch(range(10)):
        kept.append(torch.zeros(MIB // 8))  # noqa: PERF401
    report = detector.report()
    assert (report.ok, report.tolerance_nbytes) == (True, 5 * MIB)
    assert report.notes == (
        "tensors that stay grew steadily, below the tolerance of 5.0 MiB: watch more steps, or pass a smaller tolerance_mib",
    )
    assert str(report).startswith("no leak above 5.0 MiB: in 8 steps live tensors grew by 4.0 MiB (512.0 KiB a step)")


def test_numpy_memory_that_grows_is_a_leak_each_time():
    for _ in range(3):
        everything, detector = np.zeros(0, np.float32), lb.LeakDetector()
        for _ in detector.watch(range(12)):
            everything = np.concatenate([everything, np.ones(MIB, np.float32)])
        report = detector.report()
        if _process.read_malloc() is None:
            pytest.skip("this C library has no mallinfo2")
        assert not report.ok
        assert report.notes == (
            "no tensor accounts for it: NumPy arrays, other Python objects, or memory that a library keeps",
        )


@pytest.mark.slow
def test_a_list_of_predictions_as_arrays_is_named():
    predictions, detector = [], lb.LeakDetector()
    for _ in detector.watch(range(10)):
        predictions.append(torch.randn(500_000).numpy())  # noqa: PERF401
    report = detector.report()
    assert not report.ok
    assert "predictions[" in str(report)
    assert "keep `.copy()` of the part you need" in str(report)


CHILD = """
import sys
kept = []
for line in sys.stdin:
    kept.append(bytearray(2**22)); kept[-1][::4096] = b"x" * 1024
    print(len(kept), flush=True)
"""


@pytest.mark.skipif(not _process.STATM.exists(), reason="needs /proc")
def test_memory_of_child_processes_counts(monkeypatch):
    from linkboy.memory import leak

    monkeypatch.setattr(leak, "_SHARE", 1.0)
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    detector = lb.LeakDetector()
    for _ in detector.watch(range(14)):
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        time.sleep(0.02)  # a step that takes long enough for the child to be looked at
    child.communicate()
    report = detector.report()
    assert not report.ok
    assert report.children_growth_nbytes > 5 * MIB
    assert report.notes[-1].startswith("child processes grew by ")


@pytest.mark.skipif(not _process.STATM.exists(), reason="needs /proc")
def test_a_child_that_has_ended_still_gives_its_exit_code_to_the_user():
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(7)"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    _process.read_children()
    assert child.wait() == 7


def test_a_long_loop_is_looked_at_often_enough_and_not_more():
    with lb.LeakDetector() as detector:
        for _ in range(400):
            detector.step()
    assert 20 < len(detector._samples) < 400
    assert detector.report().step_count == 398


# --- release ---


@pytest.mark.slow
def test_releasing_again_frees_nothing_of_its_own():
    big = torch.zeros(2_000_000)
    watch = weakref.ref(big.untyped_storage())
    first, *again = [lb.release_memory(watch) for _ in range(4)]
    assert not first.watched[0].gone
    # What other threads of a test process free in between is theirs; the search would be seen in each call.
    assert min(abs(report.freed_nbytes) for report in again) < 0.1 * MIB
    del big
    assert lb.release_memory(watch).watched[0].gone
