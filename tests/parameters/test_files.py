"""Checkpoint files: counted like the model that wrote them, nothing loaded, nothing executed, hostile ones refused."""

import contextlib
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model
from torch import nn

from linkboy.parameters import count_parameters
from linkboy.parameters._pickles import read_pickle
from linkboy.parameters.files import _sections


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def agree(count, model):
    live = count_parameters(model)
    assert (count.total, count.bytes, count.buffers) == (live.total, live.bytes, live.buffers)
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
    assert [(row.name, row.parameters) for row in count.rows] == [("embed", 40), ("norm", 8)]


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
    assert count.bytes == 4 + 12 + 4 + (2 * 3 * 8 + 3 * 4) + 4 + 4 + 400
    assert count.unique_storage_bytes == count.bytes - 400 + 40_000


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
    assert "'loss' (1 elements)" in count.notes[0]
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
    assert (count.total, count.bytes, count.unique_storage_bytes, count.tied) == (6, 24, 24, ())


def test_four_bit_weights_in_a_file_count_logically(tmp_path):
    packed = {"w.weight": torch.zeros(8, 1, dtype=torch.uint8), "w.weight.absmax": torch.zeros(1)}
    packed |= {"w.weight.quant_map": torch.zeros(16), "w.weight.quant_state.bitsandbytes__nf4": torch.zeros(9).byte()}
    save_file(packed, tmp_path / "q.safetensors")
    count = count_parameters(tmp_path / "q.safetensors")
    assert (count.total, count.logical, count.buffers, count.bytes) == (8, 16, 0, 8 + 4 + 64 + 9)


def test_a_folder_with_two_formats_takes_safetensors_and_says_so(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    torch.save({"w": torch.zeros(3)}, tmp_path / "m.bin")
    count = count_parameters(tmp_path)
    assert count.total == 2
    assert count.notes[0] == "m.safetensors was counted; the folder also holds m.bin"


# Hostile and damaged files.


def archive(path, data, *, compression=zipfile.ZIP_STORED, name="m/data.pkl"):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(name, data)
    return path


def refusal(path):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            count_parameters(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * 2**20, f"{peak:,} bytes for a hostile file"
    text = str(caught.value)
    head = f"{str(path)!r} cannot be read as a checkpoint: "
    assert text.startswith(head)
    return text.removeprefix(head)


class Attack:
    def __reduce__(self):
        return os.system, (f"touch {os.environ.get('LINKBOY_MARK', '/nonexistent/mark')}",)


def test_no_global_of_a_pickle_is_ever_called(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    monkeypatch.setenv("LINKBOY_MARK", str(mark))
    hostile = {"w": torch.zeros(3), "x": Attack()}
    torch.save(hostile, tmp_path / "evil.pt")
    assert count_parameters(tmp_path / "evil.pt").total == 3
    assert not mark.exists()
    assert count_parameters(tmp_path / "evil.pt").notes == (
        f"an object of class {os.system.__module__}.system was read but not built",
    )
    torch.load(tmp_path / "evil.pt", weights_only=False)  # the attack is a real one
    assert mark.exists()


BOMBS = {
    "nested lists": (b"\x80\x02" + b"](" * 200_000, "its pickle nests more than 50,000 values"),
    "many marks": (b"\x80\x02" + b"(" * 200_000, "its pickle nests more than 50,000 values"),
    "memo 2**28": (b"\x80\x02Nr\x00\x00\x00\x10.", "it holds no tensors"),
    "memo 2**31-1": (b"\x80\x02Nr\xff\xff\xff\x7f.", "it holds no tensors"),
    "BINBYTES8 of 2**60": (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.", "its pickle is cut off or damaged"),
    "BINUNICODE of 2**31": (b"\x80\x02X" + struct.pack("<I", 2**31) + b"x.", "its pickle is cut off or damaged"),
    "LONG4 of 2**30": (b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"x.", "its pickle holds an integer of 1,073,741,824 bytes"),
    "cut off": (b"\x80\x02}q\x00(X\x01\x00\x00\x00w", "its pickle is cut off or damaged"),
    "empty": (b"", "its pickle is cut off or damaged"),
    "pop of nothing": (b"\x80\x020.", "its pickle is cut off or damaged"),
    "REDUCE of nothing": (b"\x80\x02R.", "its pickle is cut off or damaged"),
    "mark below the stack": (b"\x80\x02N(00t.", "its pickle is cut off or damaged"),
    "GLOBAL without an end": (b"\x80\x02cos", "its pickle is cut off or damaged"),
    "unknown opcode": (b"\x80\x02I1\n.", "its pickle holds opcode 0x49, which torch.save does not write"),
    "not UTF-8": (b"\x80\x02X\x01\x00\x00\x00\xff.", "its pickle holds text that is not UTF-8"),
    "no tensors": (b"\x80\x02}.", "it holds no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_hostile_pickles_end_in_one_sentence_and_little_memory(tmp_path, name):
    data, expected = BOMBS[name]
    assert refusal(archive(tmp_path / "m.pt", data)) == expected


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_pickle_is_refused_or_read_but_never_raises_anything_else(data):
    torch.manual_seed(0)
    out = io.BytesIO()
    torch.save({"model": nn.BatchNorm1d(3).state_dict(), "n": {"a": [1, 2.5, None]}}, out)
    good = zipfile.ZipFile(out).read("archive/data.pkl")
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        value, end = read_pickle(bytes(bad[: data.draw(st.integers(1, len(bad)))]))
        assert end <= len(bad)
        with contextlib.suppress(ValueError):
            _sections(value, [])


def test_lists_that_unfold_without_end_are_refused(tmp_path):
    laughs = b"\x80\x02]q\x00" + b"".join(b"](" + b"h\x00" * 64 + b"eq\x00" for _ in range(40)) + b"."
    assert refusal(archive(tmp_path / "m.pt", laughs)) == "its pickle unfolds to more than 500,000 values"
    itself = b"\x80\x02]q\x00h\x00a."
    assert refusal(archive(tmp_path / "m.pt", itself)) == "its pickle unfolds to more than 500,000 values"


def test_a_deep_tuple_as_a_key_is_not_hashed(tmp_path):
    data = b"\x80\x02}(" + b")" + b"\x85" * 200_000 + b"Nu."
    assert refusal(archive(tmp_path / "m.pt", data)) == "it holds no tensors"


def tensor_pickle(numel=3, offset=0, size=(3,), stride=(1,)):
    class Key:
        pass

    class Writer(pickle._Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(obj, Key) else None

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Key(), offset, size, stride, False, {})

    out = io.BytesIO()
    writer = Writer(out, protocol=2)
    writer.dump({"w": Tensor()})
    return out.getvalue()


def test_claims_of_a_tensor_are_held_against_its_storage_and_the_archive(tmp_path):
    path = tmp_path / "m.pt"
    assert refusal(archive(path, tensor_pickle())) == "storage '0' claims 12 bytes, the archive has no"
    path.unlink()
    assert refusal(archive(path, tensor_pickle(numel=2**60, size=(2**60,)))) == (
        "storage '0' claims 4,611,686,018,427,387,904 bytes, the archive has no"
    )
    for wrong in ({"size": (4,)}, {"offset": 1}, {"stride": (2,)}):
        path.unlink()
        assert refusal(archive(path, tensor_pickle(**wrong))).startswith("its pickle describes a tensor of shape (")
    for wrong in ({"size": (-1,)}, {"size": (3, 1)}, {"offset": -1}, {"size": ("a",)}):
        path.unlink()
        assert refusal(archive(path, tensor_pickle(**wrong))) == "its pickle describes a tensor that cannot be"


def test_a_tensor_that_is_rebuilt_in_an_unknown_way_is_not_left_out_in_silence(tmp_path):
    data = b"\x80\x02ctorch._utils\n_rebuild_wrapper_subclass\n)R."
    assert refusal(archive(tmp_path / "m.pt", data)) == (
        "its pickle rebuilds a tensor by _rebuild_wrapper_subclass in a way that is not understood"
    )


@pytest.mark.parametrize("function", ["somewhere\nrebuild_mine", "collections\nOrderedDict"])
def test_a_subclass_around_an_unknown_function_is_not_left_out_in_silence(tmp_path, function):
    call = f"ctorch._utils\n_rebuild_from_type_v2\n(c{function}\nctorch\nTensor\n)}}tR".encode()
    data = tensor_pickle().removesuffix(b".") + b"X\x01\0\0\0v" + call + b"s."
    assert refusal(archive(tmp_path / "m.pt", data)) == (
        "its pickle rebuilds a tensor by _rebuild_from_type_v2 in a way that is not understood"
    )


def test_a_saved_script_module_is_read_by_its_attributes(tmp_path):
    import warnings

    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model), tmp_path / "scripted.pt")
    count = count_parameters(tmp_path / "scripted.pt")
    assert (count.total, count.buffers) == (15, 7)


def test_zip_bomb_and_foreign_archives(tmp_path):
    path = tmp_path / "m.pt"
    assert refusal(archive(path, b"\0" * 2**20, compression=zipfile.ZIP_DEFLATED)) == (
        "its data.pkl is compressed, which torch.save never does"
    )
    path.unlink()
    assert refusal(archive(path, b"x", name="m/other")) == (
        "the archive holds no data.pkl, so torch.save did not write it"
    )
    path.unlink()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", b"\0" * (16 * 2**20 + 1))
    assert refusal(path) == "its data.pkl has 16,777,217 bytes, more than the 16,777,216 allowed"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (100_001, "its archive has more than 100,000 entries"),
        (350_000, "its archive has a directory or entry of more than 16,777,216 bytes"),
    ],
)
@pytest.mark.parametrize("claimed", [0, 1, 65_535])
def test_an_archive_of_very_many_entries_is_refused_before_they_are_built(tmp_path, entries, message, claimed):
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 4, 0) + b"a/bc"
    entry = struct.pack("<4s4B4H3L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0) + b"a/bc"
    size = len(entry) * entries
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, claimed, claimed, size, len(local), 0)
    path = tmp_path / "m.pt"
    path.write_bytes(local + entry * entries + end)
    assert refusal(path) == message


def test_many_small_values_cannot_fill_the_memory(tmp_path):
    dicts = b"\x80\x02](" + b"}" * 40_000 + b"e"
    dicts += (b"(" + b"}" * 40_000 + b"e") * 5 + b"."
    tracemalloc.start()
    with pytest.raises(ValueError, match="unfolds"):
        _sections([{}] * 2_000_000, [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * 2**20
    assert read_pickle(dicts)[1] == len(dicts)
    path = archive(tmp_path / "m.pt", b"\x80\x02" + b"N0" * 1_500_001 + b".")
    with pytest.raises(ValueError) as caught:
        count_parameters(path)
    assert (
        str(caught.value) == f"{str(path)!r} cannot be read as a checkpoint: its pickle has more than 3,000,000 opcodes"
    )


def test_a_tensor_of_more_elements_than_torch_can_count_is_refused(tmp_path):
    path = archive(tmp_path / "m.pt", tensor_pickle(size=(2**32, 2**31), stride=(0, 0)))
    assert refusal(path) == "its pickle describes a tensor that cannot be"


def test_truncated_files(tmp_path):
    for old in (False, True):
        path = tmp_path / "m.pt"
        torch.save({"w": torch.zeros(10_000)}, path, _use_new_zipfile_serialization=not old)
        path.write_bytes(path.read_bytes()[:-8_000])
        found = refusal(path)
        assert (
            found == "its tensors claim 40,000 bytes, the file has 32,000 left"
            if old
            else found.startswith("the archive is cut off or damaged (File is not a zip file)")
        )
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:-8_000])
    assert "incomplete" in refusal(path).lower()


def test_safetensors_headers_that_lie(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert "header too large" in refusal(path).lower()
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    assert refusal(path)
    path.write_bytes(b"")
    assert refusal(path)
    path.write_bytes(b"hello")
    assert refusal(path)


def test_paths_that_are_not_there_or_not_clear(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        count_parameters(tmp_path / "none.pt")
    assert str(caught.value) == f"no file {str(tmp_path / 'none.pt')!r}"
    with pytest.raises(FileNotFoundError) as caught:
        count_parameters(tmp_path)
    assert str(caught.value) == f"folder {str(tmp_path)!r} holds no .safetensors, .bin, .pt or .pth file"
    for name in ("a.pt", "b.pth"):
        torch.save({"w": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(ValueError) as caught:
        count_parameters(tmp_path)
    assert str(caught.value) == f"folder {str(tmp_path)!r} holds 2 checkpoints: a.pt, b.pth; name one"
    (tmp_path / "x.bin").write_bytes(b"GGUF0000")
    assert refusal(tmp_path / "x.bin") == "it is neither a safetensors file nor one that torch.save wrote"


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


def test_indexes_that_lie(tmp_path):
    index = tmp_path / "m.safetensors.index.json"
    index.write_text("[" * 100_000)
    assert refusal(index) == "it is not a JSON file"
    index.write_text('{"weight_map": 3}')
    assert refusal(index) == "its 'weight_map' must map tensor names to file names"
    for shard in ("../up.safetensors", "/etc/passwd", "..", ""):
        index.write_text(json.dumps({"weight_map": {"w": shard}}))
        assert refusal(index) == f"its shard {shard!r} is not a plain file name"
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    with pytest.raises(FileNotFoundError) as caught:
        count_parameters(index)
    assert str(caught.value) == f"index {str(index)!r} names shard 'a.safetensors', which is not beside it"
    save_file({"v": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert refusal(index) == "its shards lack 1 tensors that it names: w"
