"""Dtypes to compute in, autocast, and the dense tensors behind sparse, split and packed ones."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from linkboy._tensors import (
    autocast_dtype,
    dense_parts,
    fill_rows_like,
    in_work_dtype,
    is_plain,
    result_dtype,
    wide_dtype,
    work_dtype,
)

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize(
    ("dtype", "work"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float8_e4m3fn, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_work_is_done_in_float32_at_least(dtype, work):
    tensor = torch.zeros(2, dtype=dtype)
    assert work_dtype(tensor) == work
    assert in_work_dtype(tensor).dtype == work
    assert (in_work_dtype(tensor) is tensor) == (dtype == work)


def test_the_widest_dtype_is_the_one_that_the_device_has():
    assert [wide_dtype(torch.device(kind)) for kind in ("cpu", "mps")] == [torch.float64, torch.float32]


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_is_told_per_device_also_when_compiled(compiled):
    def dtypes():
        return autocast_dtype(CPU), autocast_dtype(META)

    asked = torch.compile(dtypes, backend="eager", fullgraph=True) if compiled else dtypes
    assert asked() == (None, None)
    with torch.autocast("cpu", dtype=torch.float16):
        assert asked() == (torch.float16, None)
        with torch.autocast("cpu", enabled=False):
            assert asked() == (None, None)


def test_results_are_as_wide_as_those_of_torchs_losses():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        logits, target = torch.zeros(2, 3, dtype=dtype), torch.tensor([0, 1])
        assert result_dtype(logits) == nn.functional.cross_entropy(logits, target).dtype
        with torch.autocast("cpu"):
            assert result_dtype(logits) == nn.functional.cross_entropy(logits, target).dtype


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc"])
def test_the_parts_of_a_sparse_tensor_hold_all_its_memory(layout):
    dense = torch.eye(4)
    options = {"blocksize": (2, 2)} if layout.startswith("bs") else {}
    sparse = dense.to_sparse(layout=getattr(torch, f"sparse_{layout}"), **options)
    parts = list(dense_parts(sparse))
    assert all(is_plain(part) for part in parts)
    stored = math.prod(sparse._values().shape if layout == "coo" else sparse.values().shape)
    assert parts[-1].numel() == stored


def test_wrappers_and_packed_weights_are_opened():
    pair = TwoTensor(torch.zeros(2), torch.ones(3)[:2])
    assert [part.data_ptr() for part in dense_parts(pair)] == [pair.a.data_ptr(), pair.b.data_ptr()]

    class Packed(nn.Parameter):
        """As the four-bit weights of bitsandbytes."""

    packed = Packed(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    scales = SimpleNamespace(absmax=torch.ones(1), code=torch.ones(16), offset=None)
    packed.quant_state = SimpleNamespace(
        absmax=torch.ones(2), code=torch.ones(16), offset=torch.ones(()), state2=scales
    )
    assert [part.numel() for part in dense_parts(packed)] == [8, 2, 16, 1, 1, 16]


@pytest.mark.filterwarnings("ignore:DTensor random operators:UserWarning")  # torch 2.6, for every mesh of CPUs
def test_a_dtensor_is_what_this_process_holds():
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        whole = torch.arange(6.0)
        split = distribute_tensor(whole, init_device_mesh("cpu", (2,)), [Shard(0)])
        (part,) = dense_parts(split)
        assert (is_plain(part), part.shape) == (True, (3,))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2)])
def test_filled_rows_have_mean_and_spread_of_those_they_take_after(dtype, shape):
    torch.manual_seed(0)
    weight = torch.randn(9000, *shape).mul(3).add(10).to(dtype)
    before = weight.clone()
    rows, like = torch.arange(4000, 9000), torch.arange(4000)
    fill_rows_like(weight, rows, like, generator=torch.Generator().manual_seed(1))
    assert torch.equal(weight[:4000], before[:4000])
    new = weight[4000:].double()
    assert torch.allclose(new.mean(0), before[:4000].double().mean(0), atol=0.2)
    assert torch.allclose(new.std(0), before[:4000].double().std(0), atol=0.2)
    again = before.clone()
    fill_rows_like(again, rows, like, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again, weight)


def test_rows_that_are_not_finite_are_nobodys_example():
    weight = torch.tensor([[1.0], [3.0], [float("nan")], [float("inf")], [0.0]])
    fill_rows_like(weight, torch.tensor([4]), torch.arange(4), spread=False)
    assert weight[4].item() == 2
    meta = torch.empty(3, 2, device="meta")
    fill_rows_like(meta, torch.tensor([0]), torch.tensor([1, 2]))  # there is nothing to fill
