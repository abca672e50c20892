"""Checkpoint files that lie, explode or would run code: counted as far as they are true, or refused."""

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
from safetensors.torch import save_file
from torch import nn

from linkboy.parameters import count_parameters
from linkboy.parameters._files import _sections
from linkboy.parameters._pickles import read_pickle


def archive(path, data, *, compression=zipfile.ZIP_STORED, name="m/data.pkl"):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(name, data)
    return path


@pytest.fixture
def refused(refusal):
    """Count a hostile file and return what the sentence says of it."""

    def attacked(path):
        text = refusal(lambda: count_parameters(path))
        head = f"{str(path)!r} cannot be read as a checkpoint: "
        assert text.startswith(head)
        return text.removeprefix(head)

    return attacked


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
    "LONG4 of 2**30": (b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"x.", "its pickle is cut off or damaged"),
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
def test_hostile_pickles_end_in_one_sentence_and_little_memory(tmp_path, name, refused):
    data, expected = BOMBS[name]
    assert refused(archive(tmp_path / "m.pt", data)) == expected


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


def test_lists_that_unfold_without_end_are_refused(tmp_path, refused):
    laughs = b"\x80\x02]q\x00" + b"".join(b"](" + b"h\x00" * 64 + b"eq\x00" for _ in range(40)) + b"."
    assert refused(archive(tmp_path / "m.pt", laughs)) == "its pickle unfolds to more than 500,000 values"
    itself = b"\x80\x02]q\x00h\x00a."
    assert refused(archive(tmp_path / "m.pt", itself)) == "its pickle unfolds to more than 500,000 values"


def test_a_deep_tuple_as_a_key_is_not_hashed(tmp_path, refused):
    data = b"\x80\x02}(" + b")" + b"\x85" * 200_000 + b"Nu."
    assert refused(archive(tmp_path / "m.pt", data)) == "it holds no tensors"


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


def test_claims_of_a_tensor_are_held_against_its_storage_and_the_archive(tmp_path, refused):
    path = tmp_path / "m.pt"
    assert refused(archive(path, tensor_pickle())) == "storage '0' claims 12 bytes, the archive has no"
    path.unlink()
    assert refused(archive(path, tensor_pickle(numel=2**60, size=(2**60,)))) == (
        "storage '0' claims 4,611,686,018,427,387,904 bytes, the archive has no"
    )
    for wrong in ({"size": (4,)}, {"offset": 1}, {"stride": (2,)}):
        path.unlink()
        assert refused(archive(path, tensor_pickle(**wrong))).startswith("its pickle describes a tensor of shape (")
    for wrong in ({"size": (-1,)}, {"size": (3, 1)}, {"offset": -1}, {"size": ("a",)}):
        path.unlink()
        assert refused(archive(path, tensor_pickle(**wrong))) == "its pickle describes a tensor that cannot be"


def test_a_tensor_that_is_rebuilt_in_an_unknown_way_is_not_left_out_in_silence(tmp_path, refused):
    data = b"\x80\x02ctorch._utils\n_rebuild_wrapper_subclass\n)R."
    assert refused(archive(tmp_path / "m.pt", data)) == (
        "its pickle rebuilds a tensor by _rebuild_wrapper_subclass in a way that is not understood"
    )


@pytest.mark.parametrize("function", ["somewhere\nrebuild_mine", "collections\nOrderedDict"])
def test_a_subclass_around_an_unknown_function_is_not_left_out_in_silence(tmp_path, function, refused):
    call = f"ctorch._utils\n_rebuild_from_type_v2\n(c{function}\nctorch\nTensor\n)}}tR".encode()
    data = tensor_pickle().removesuffix(b".") + b"X\x01\0\0\0v" + call + b"s."
    assert refused(archive(tmp_path / "m.pt", data)) == (
        "its pickle rebuilds a tensor by _rebuild_from_type_v2 in a way that is not understood"
    )


def test_zip_bomb_and_foreign_archives(tmp_path, refused):
    path = tmp_path / "m.pt"
    assert refused(archive(path, b"\0" * 2**20, compression=zipfile.ZIP_DEFLATED)) == (
        "its data.pkl is compressed, which torch.save never does"
    )
    path.unlink()
    assert refused(archive(path, b"x", name="m/other")) == (
        "the archive holds no data.pkl, so torch.save did not write it"
    )
    path.unlink()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", b"\0" * (16 * 2**20 + 1))
    assert refused(path) == "its data.pkl has 16,777,217 bytes, more than the 16,777,216 allowed"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (100_001, "its archive has more than 100,000 entries"),
        (350_000, "its archive has a directory or entry of more than 16,777,216 bytes"),
    ],
)
@pytest.mark.parametrize("claimed", [0, 1, 65_535])
def test_an_archive_of_very_many_entries_is_refused_before_they_are_built(tmp_path, entries, message, claimed, refused):
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 4, 0) + b"a/bc"
    entry = struct.pack("<4s4B4H3L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0) + b"a/bc"
    size = len(entry) * entries
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, claimed, claimed, size, len(local), 0)
    path = tmp_path / "m.pt"
    path.write_bytes(local + entry * entries + end)
    assert refused(path) == message


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


def test_a_tensor_of_more_elements_than_torch_can_count_is_refused(tmp_path, refused):
    path = archive(tmp_path / "m.pt", tensor_pickle(size=(2**32, 2**31), stride=(0, 0)))
    assert refused(path) == "its pickle describes a tensor that cannot be"


def test_truncated_files(tmp_path, refused):
    for old in (False, True):
        path = tmp_path / "m.pt"
        torch.save({"w": torch.zeros(10_000)}, path, _use_new_zipfile_serialization=not old)
        path.write_bytes(path.read_bytes()[:-8_000])
        found = refused(path)
        assert (
            found == "its tensors claim 40,000 bytes, the file has 32,000 left"
            if old
            else found.startswith("the archive is cut off or damaged (File is not a zip file)")
        )
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:-8_000])
    assert "incomplete" in refused(path).lower()


def test_safetensors_headers_that_lie(tmp_path, refused):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert "header too large" in refused(path).lower()
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    assert refused(path)
    path.write_bytes(b"")
    assert refused(path)
    path.write_bytes(b"hello")
    assert refused(path)


def test_indexes_that_lie(tmp_path, refused):
    index = tmp_path / "m.safetensors.index.json"
    index.write_text("[" * 100_000)
    assert refused(index) == "it is not a JSON file"
    index.write_text('{"weight_map": 3}')
    assert refused(index) == "its 'weight_map' must map tensor names to file names"
    for shard in ("../up.safetensors", "/etc/passwd", "..", ""):
        index.write_text(json.dumps({"weight_map": {"w": shard}}))
        assert refused(index) == f"its shard {shard!r} is not a plain file name"
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    with pytest.raises(FileNotFoundError) as caught:
        count_parameters(index)
    assert str(caught.value) == f"index {str(index)!r} names shard 'a.safetensors', which is not beside it"
    save_file({"v": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert refused(index) == "its shards lack 1 tensor that it names: w"
