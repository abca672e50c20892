"""Checkpoint files: counted like the model that wrote them, nothing loaded and nothing executed."""

import json

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from linkboy.parameters import count_parameters


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def agree(count, model):
    live = count_parameters(model)
    assert (count.total, count.nbytes, count.buffer_count) == (live.total, live.nbytes, live.buffer_count)
    assert (count.trainable, count.frozen) == (None, None)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_state_dict_counts_like_its_model_with_ties(tmp_path, suffix, old):
    model = Net()
    path = tmp_path / f"net{suffix}"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not old)
    count = count_parameters(path, by="module")
    agree(count, model)
    assert count.tied == (("embed.weight", "head.weight"),)
    assert count.notes == (
        "taken for buffers by their names: norm.running_mean, norm.running_var, norm.num_batches_tracked",
    )
    assert [(row.name, row.parameter_count) for row in count.rows] == [("embed", 40), ("norm", 8)]


def test_a_pickled_module_knows_its_buffers_and_is_not_built(tmp_path):
    torch.save(Net(), tmp_path / "net.pt")
    count = count_parameters(tmp_path / "net.pt")
    agree(count, Net())
    assert count.notes[0].endswith(".Net was read but not built")


def test_dtypes_scalars_parameters_and_sparse_tensors(tmp_path):
    tensors = {
        "half": torch.ones(2).half(), "parameter": nn.Parameter(torch.ones(3)), "scalar": torch.tensor(1.0),
        "sparse": torch.eye(3).to_sparse(), "bf16": torch.ones(2, dtype=torch.bfloat16),
        "f8": torch.ones(4).to(torch.float8_e4m3fn), "slice": torch.zeros(100, 100)[:2, ::2], "empty": torch.zeros(0, 7),
    }  # fmt: skip
    torch.save(tensors, tmp_path / "all.pt")
    count = count_parameters(tmp_path / "all.pt", by="dtype")
    assert count.total == 2 + 3 + 1 + 9 + 2 + 4 + 100
    assert {row.name for row in count.rows} == {"float16", "float32", "bfloat16", "float8_e4m3fn"}
    assert count.nbytes == 4 + 12 + 4 + (2 * 3 * 8 + 3 * 4) + 4 + 4 + 400
    assert count.unique_storage_nbytes == count.nbytes - 400 + 40_000


def test_a_training_checkpoint_never_adds_its_optimizer(tmp_path):
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    model.head(model.embed(torch.tensor([1]))).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "last.pt")
    count = count_parameters(tmp_path / "last.pt")
    agree(count, model)
    assert count.notes[0] == "beside the weights the file holds 'optimizer' (81 elements), which are not counted"
    loose = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loss": torch.tensor(0.5)}
    torch.save(loose, tmp_path / "loose.pt")
    count = count_parameters(tmp_path / "loose.pt")
    agree(count, model)
    assert "'loss' (1 element)" in count.notes[0]
    torch.save(model.state_dict() | {"norm._extra_state": {"seen": torch.ones(2)}}, tmp_path / "extra.pt")
    assert count_parameters(tmp_path / "extra.pt").total == 48 + 2
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "only.pt")
    assert count_parameters(tmp_path / "only.pt").total == 0
    torch.save({"generator": model.state_dict(), "critic": nn.Linear(2, 2).state_dict()}, tmp_path / "gan.pt")
    assert count_parameters(tmp_path / "gan.pt").total == 48 + 6


def test_safetensors_file_index_and_folder(tmp_path):
    model = Net()
    save_model(model, tmp_path / "net.safetensors")
    count = count_parameters(tmp_path / "net.safetensors")
    agree(count, model)
    assert count.tied == (("embed.weight", "head.weight"),)
    agree(count_parameters(tmp_path), model)

    shards = tmp_path / "shards"
    shards.mkdir()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = sorted(state)
    save_file({name: state[name] for name in names[:3]}, shards / "a.safetensors")
    save_file({name: state[name] for name in names[3:]}, shards / "b.safetensors")
    index = {"weight_map": {name: "a.safetensors" if i < 3 else "b.safetensors" for i, name in enumerate(names)}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    count = count_parameters(shards)
    assert (
        count.total == sum(p.numel() for p in model.parameters()) + 40
    )  # the tie is not in these files, and a note says so
    assert "a safetensors file does not record tied weights; each tensor in it was counted" in count.notes
    assert count_parameters(shards / "model.safetensors.index.json") == count


def test_sharded_pickles_do_not_take_equal_storage_keys_for_ties(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "1.bin")
    torch.save({"b": torch.ones(3)}, tmp_path / "2.bin")
    (tmp_path / "m.bin.index.json").write_text(json.dumps({"weight_map": {"a": "1.bin", "b": "2.bin"}}))
    count = count_parameters(tmp_path)
    assert (count.total, count.nbytes, count.unique_storage_nbytes, count.tied) == (6, 24, 24, ())


def test_four_bit_weights_in_a_file_count_logically(tmp_path):
    packed = {"w.weight": torch.zeros(8, 1, dtype=torch.uint8), "w.weight.absmax": torch.zeros(1)}
    packed |= {"w.weight.quant_map": torch.zeros(16), "w.weight.quant_state.bitsandbytes__nf4": torch.zeros(9).byte()}
    save_file(packed, tmp_path / "q.safetensors")
    count = count_parameters(tmp_path / "q.safetensors")
    assert (count.total, count.logical, count.buffer_count, count.nbytes) == (8, 16, 0, 8 + 4 + 64 + 9)


def test_a_folder_with_two_formats_takes_safetensors_and_says_so(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    torch.save({"w": torch.zeros(3)}, tmp_path / "m.bin")
    count = count_parameters(tmp_path)
    assert count.total == 2
    assert count.notes[0] == "m.safetensors was counted; the folder also holds m.bin"


def test_a_saved_script_module_is_read_by_its_attributes(tmp_path):
    import warnings

    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model), tmp_path / "scripted.pt")
    count = count_parameters(tmp_path / "scripted.pt")
    assert (count.total, count.buffer_count) == (15, 7)


def test_paths_that_are_not_there_or_not_clear(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        count_parameters(tmp_path / "none.pt")
    assert str(caught.value) == f"no file {str(tmp_path / 'none.pt')!r}"
    with pytest.raises(FileNotFoundError) as caught:
        count_parameters(tmp_path)
    assert str(caught.value) == f"folder {str(tmp_path)!r} holds no .safetensors, .bin, .pt, .pth or .ckpt file"
    for name in ("a.pt", "b.pth"):
        torch.save({"w": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(ValueError) as caught:
        count_parameters(tmp_path)
    assert str(caught.value) == f"folder {str(tmp_path)!r} holds 2 checkpoints: a.pt, b.pth; name one"
    (tmp_path / "x.bin").write_bytes(b"????0000")
    with pytest.raises(ValueError) as caught:
        count_parameters(tmp_path / "x.bin")
    assert str(caught.value) == (
        f"{str(tmp_path / 'x.bin')!r} cannot be read as a checkpoint: it is neither a safetensors file nor one that "
        "torch.save wrote"
    )


def test_links_that_lead_in_a_circle_end_and_are_named(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "self").symlink_to(folder)  # a folder within itself is not entered
    save_file({"w": torch.zeros(2)}, folder / "good.safetensors")
    assert count_parameters(folder).total == count_parameters(folder / "self" / "self").total == 2
    (folder / "good.safetensors").rename(tmp_path / "real.safetensors")
    (folder / "good.safetensors").symlink_to(tmp_path / "real.safetensors")
    assert count_parameters(folder).total == 2
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    with pytest.raises(FileNotFoundError) as caught:
        count_parameters(loop)
    assert str(caught.value) == f"no file {str(loop)!r}"
    (tmp_path / "pair").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "pair")
    with pytest.raises(FileNotFoundError) as caught:
        count_parameters(tmp_path / "pair")
    assert str(caught.value) == f"no file {str(tmp_path / 'pair')!r}"
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "loop.safetensors"}}))
    with pytest.raises(FileNotFoundError) as caught:
        count_parameters(index)
    assert str(caught.value) == f"index {str(index)!r} names shard 'loop.safetensors', which is not beside it"


def gptq(rows, columns, bits, group, *, order=True, zeros=True):
    """Return a GPTQ layer of `rows` inputs and `columns` outputs as it is stored."""
    layer = {
        "l.qweight": torch.zeros(rows * bits // 32, columns, dtype=torch.int32),
        "l.scales": torch.zeros(rows // group, columns, dtype=torch.float16),
    }
    if zeros:
        layer["l.qzeros"] = torch.zeros(rows // group, columns * bits // 32, dtype=torch.int32)
    if order:
        layer["l.g_idx"] = torch.zeros(rows, dtype=torch.int32)
    return layer


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("order", "zeros"), [(True, True), (True, False), (False, True)])
def test_the_shapes_of_gptq_tell_what_its_weights_stand_for(tmp_path, bits, order, zeros):
    save_file(gptq(64, 96, bits, 32, order=order, zeros=zeros), tmp_path / "m.safetensors")
    count = count_parameters(tmp_path / "m.safetensors")
    assert count.logical == 64 * 96
    assert count.total == 64 * 96 * bits // 32
    assert count.uncounted == ()
    assert str(count).startswith(f"m.safetensors: 6,144 parameters (packed in {count.total:,})")


def test_the_shapes_of_awq_tell_what_its_weights_stand_for(tmp_path):
    layer = {
        "l.qweight": torch.zeros(64, 96 // 8, dtype=torch.int32),
        "l.qzeros": torch.zeros(2, 96 // 8, dtype=torch.int32),
        "l.scales": torch.zeros(2, 96, dtype=torch.float16),
        "l.bias": torch.zeros(96, dtype=torch.float16),
    }
    save_file(layer, tmp_path / "m.safetensors")
    assert count_parameters(tmp_path).logical == 64 * 96 + 96


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        ("quantize_config.json", {"bits": 4, "group_size": 32}),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 32}),
        ("config.json", {"quantization_config": {"config_groups": {"group_0": {"weights": {"num_bits": 4}}}}}),
    ],
)
def test_a_configuration_tells_the_bits_that_shapes_do_not(tmp_path, name, content):
    packed = {"l.weight_packed" if "num_bits" in str(content) else "l.qweight": torch.zeros(8, 96, dtype=torch.int32)}
    save_file(packed, tmp_path / "m.safetensors")
    count = count_parameters(tmp_path)
    assert count.logical == 768
    assert count.uncounted == tuple(packed)
    assert count.notes[-1] == f"packed weights counted as stored, not as what they stand for: {next(iter(packed))}"
    assert str(count).startswith("m.safetensors: at least 768 parameters")
    (tmp_path / name).write_text(json.dumps(content))
    count = count_parameters(tmp_path)
    assert (count.logical, count.uncounted) == (768 * 8, ())
    for broken in ("{", "[]", "[" * 100_000, '{"quantization_config": {"bits": "four"}}'):
        (tmp_path / name).write_text(broken)
        assert count_parameters(tmp_path).uncounted == tuple(packed)


def test_mxfp4_blocks_count_two_in_a_byte(tmp_path):
    blocks = {
        "e.up_blocks": torch.zeros(2, 8, 3, 16, dtype=torch.uint8),
        "e.up_scales": torch.zeros(2, 8, 3, dtype=torch.uint8),
    }
    save_file(blocks | {"e.up_bias": torch.zeros(2, 8)}, tmp_path / "m.safetensors")
    assert count_parameters(tmp_path).logical == 2 * 2 * 8 * 3 * 16 + 16


@pytest.mark.parametrize(("weight", "second"), [("weight", "weight_scale_2"), ("weight_packed", "weight_global_scale")])
def test_nvfp4_weights_count_two_in_a_byte(tmp_path, weight, second):
    tensors = {
        f"m.{weight}": torch.zeros(64, 32, dtype=torch.uint8),
        "m.weight_scale": torch.zeros(64, 4, dtype=torch.float8_e4m3fn),
        f"m.{second}": torch.zeros(()),
        "m.input_scale": torch.zeros(()),
        "m.bias": torch.zeros(64),
    }
    save_file(tensors, tmp_path / "m.safetensors")
    count = count_parameters(tmp_path)
    assert (count.logical, count.uncounted) == (64 * 64 + 64, ())


PACKED = {
    "bitnet": (
        {"weight": torch.zeros(16, 64, dtype=torch.uint8), "weight_scale": torch.zeros(1)},
        {"quantization_config": {"quant_method": "bitnet"}},
    ),
    "mlx": (
        {"weight": torch.zeros(64, 8, dtype=torch.uint32), "scales": torch.zeros(64, 1), "biases": torch.zeros(64, 1)},
        {"quantization": {"group_size": 64, "bits": 4}},
    ),
    "hqq": (
        {
            "W_q": torch.zeros(32, 64, dtype=torch.uint8), "scale": torch.zeros(64), "zero": torch.zeros(64),
            "nbits": torch.tensor(4),
        },
        {"quantization_config": {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}},
    ),
    "eetq": (
        {"weight": torch.zeros(64, 64, dtype=torch.int8), "weight_scales": torch.zeros(64)},
        {"quantization_config": {"quant_method": "eetq"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", PACKED)
def test_integers_beside_a_scale_count_what_the_configuration_says(tmp_path, method):
    tensors, config = PACKED[method]
    save_file({f"layer.q.{key}": tensor for key, tensor in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    count = count_parameters(tmp_path)
    assert (count.logical, count.uncounted) == (64 * 64, ())
    assert count.nbytes == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.zeros(64, 32, dtype=torch.uint8), "weight_scale": torch.zeros(64, 2, dtype=torch.uint8)},
        {
            "codes": torch.zeros(64, 8, 2, dtype=torch.int16),
            "codebooks": torch.zeros(2, 9),
            "scales": torch.zeros(64, 1),
        },
    ],
)
def test_integers_beside_a_scale_whose_width_nothing_tells_are_a_lower_bound(tmp_path, tensors):
    save_file({f"q.{key}": tensor for key, tensor in tensors.items()}, tmp_path / "model.safetensors")
    count = count_parameters(tmp_path)
    assert count.uncounted == (f"q.{next(iter(tensors))}",)
    assert str(count).startswith("model.safetensors: at least ")


def test_a_layer_with_a_scale_and_a_counter_is_not_taken_for_packed(tmp_path):
    tensors = {
        "act.scale": torch.zeros(8),
        "act.seen": torch.zeros(1, dtype=torch.int32),
        "act.biases": torch.zeros(2, 8),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    count = count_parameters(tmp_path)
    assert (count.total, count.logical, count.uncounted) == (8 + 1 + 16, 8 + 1 + 16, ())


def test_an_index_says_how_many_parameters_there_are(tmp_path):
    shard = "m-1.safetensors"

    def count(stated, **tensors):
        save_file(tensors, tmp_path / shard)
        index = {"metadata": {"total_parameters": stated}, "weight_map": dict.fromkeys(tensors, shard)}
        (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
        return count_parameters(tmp_path)

    plain = {"a": torch.zeros(10, 8)}
    assert count(80, **plain).notes == count(None, **plain).notes == count(-3, **plain).notes
    assert count(640, **plain).notes[-1] == "the index states a total of 640 parameters"
    assert count(640, **plain).logical == 80
    packed = {"a.weight_packed": torch.zeros(10, 8, dtype=torch.int32)}
    assert (count(640, **packed).logical, count(640, **packed).uncounted) == (640, ())
    assert count(None, **packed).uncounted == ("a.weight_packed",)


def test_layers_of_a_live_packed_model_count_what_they_stand_for():
    class QuantLinear(nn.Module):
        def __init__(self, **sizes):
            super().__init__()
            self.register_buffer("qweight", torch.zeros(8, 96, dtype=torch.int32))
            self.__dict__.update(sizes)

    count = count_parameters(
        nn.Sequential(QuantLinear(infeatures=64, outfeatures=96), QuantLinear(in_features=64, out_features=96))
    )
    assert (count.total, count.logical, count.uncounted) == (0, 2 * 64 * 96, ())
    count = count_parameters(nn.Sequential(QuantLinear()))
    assert count.uncounted == ("0",)
    assert str(count).startswith("Sequential: at least 0 parameters")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_quantised_recurrent_layers_are_counted(kind, dtype):
    plain = nn.Sequential(nn.Linear(40, 50), kind(50, 20))
    model = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear, kind}, dtype=dtype)
    count = count_parameters(model)
    assert count.logical == sum(p.numel() for p in plain.parameters())
    assert count.uncounted == ()
