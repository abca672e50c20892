"""Models and files of other kinds: the count is exact or says that it is a lower bound, and a refusal says what to do."""

import collections
import json
import zipfile

import numpy as np
import pytest
import torch
import torch.ao.quantization as quantization
import torch.nn.utils.prune as prune
from safetensors.torch import save_file
from torch import nn

from linkboy import compare_models, count_parameters, freeze, summarize

# What torch says of its own quantisation, scripts and hooks that it gives up.
pytestmark = pytest.mark.filterwarnings("ignore:.*(torch.ao|deprecated|reduce_range|CSR)")


def frozen(model):
    return torch.jit.freeze(torch.jit.script(model.eval()))


# ---------------------------------------------------------------- models
def test_the_weights_of_a_frozen_script_are_counted():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LSTM(8, 3))
    count = count_parameters(frozen(model))
    assert count.logical == sum(parameter.numel() for parameter in model.parameters())
    assert count.notes == ("196 weights, quantised or of a frozen script, are outside model.parameters()",)
    summary = summarize(frozen(model), torch.zeros(2, 4))
    assert summary.flops == 2 * 2 * 4 * 8 + 2 * 2 * 4 * 3 * (8 + 3)


@pytest.mark.parametrize("layer", [nn.Embedding(10, 4), nn.EmbeddingBag(10, 4, mode="sum")])
def test_a_quantised_embedding_is_counted(layer):
    model = nn.Sequential(layer)
    model.qconfig = quantization.float_qparams_weight_only_qconfig
    assert count_parameters(quantization.convert(quantization.prepare(model))).logical == 40


def test_a_product_with_a_sparse_matrix_makes_flops_a_lower_bound():
    """The formula of a dense product would count the zeros: 10,000 nodes of a graph give 200 million for each feature."""

    class Graph(nn.Module):
        def __init__(self, adjacency):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("adjacency", adjacency)

        def forward(self, x):
            return self.adjacency @ self.linear(x)

    for adjacency in (torch.eye(5).to_sparse(), torch.eye(5).to_sparse_csr()):
        for run in ("auto", "values"):
            summary = summarize(Graph(adjacency), torch.zeros(5, 4), run=run)
            assert (summary.flops, summary.flops_are_lower_bound, summary.notes) == (2 * 5 * 4 * 4, True, ())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("run", ["auto", "shapes", "values"])
def test_a_jagged_input_has_the_flops_of_its_rows(run):
    """torch asked a jagged tensor for its dims without end: a RecursionError in the note."""
    rows = torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)], layout=torch.jagged)
    summary = summarize(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), rows, run=run)
    assert (summary.flops, summary.notes) == (2 * 5 * (4 * 8 + 8 * 2), ())


def test_a_weight_that_a_hook_computes_is_no_plain_tensor():
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)])
    prune.l1_unstructured(model[0], "weight", 0.5)
    nn.utils.spectral_norm(model[1])
    nn.utils.weight_norm(model[2])
    assert summarize(model, torch.zeros(2, 4)).notes == ()


def test_layers_in_a_deque_are_named():
    model = nn.Module()
    model.last = collections.deque([nn.Linear(2, 2)])
    assert "last.0 (Linear)" in count_parameters(model).notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("run", ["auto", "shapes"])
def test_an_input_of_another_dtype_fails_as_it_does_in_a_run(run, dtype):
    """The shape functions of torch multiply matrices of any two dtypes; a kernel does not."""
    model, x = nn.Linear(4, 4), torch.zeros(2, 4, dtype=dtype)
    with pytest.raises(RuntimeError, match="dtype"):
        model(x)
    summary = summarize(model, x, run=run)
    assert summary.flops is None
    assert "dtype" in summary.notes[0]


def test_autocast_counts_what_it_keeps_in_its_dtype():
    """16 inputs of 8 in bfloat16 are kept for the weight's gradient; on the meta device autocast does nothing."""

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.linear(x)

    kept = [summarize(Half(), torch.zeros(16, 8), run=run).activation_nbytes for run in ("auto", "shapes", "values")]
    assert kept == [16 * 8 * 2] * 3
    with torch.autocast("cpu", torch.bfloat16):
        assert summarize(nn.Linear(8, 8, device="meta"), torch.zeros(16, 8)).flops == 2 * 16 * 8 * 8


@pytest.mark.parametrize(
    ("given", "described"),
    [
        (nn.Linear(1, 1).state_dict(), "a state dict; load it into its model with load_state_dict"),
        (nn.Linear, "the class Linear; build it first"),
        (torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), "an ExportedProgram; pass its .module()"),
        ([1], "list"),
    ],
    ids=["state dict", "class", "exported", "list"],
)
def test_what_is_no_model_is_refused_with_what_makes_one(given, described):
    with pytest.raises(TypeError) as caught:
        summarize(given)
    assert str(caught.value) == f"model must be an nn.Module, got {described}"
    with pytest.raises(TypeError) as caught:
        count_parameters(given)
    assert str(caught.value) == f"model must be an nn.Module or the path of a checkpoint, got {described}"


# ---------------------------------------------------------------- comparing and freezing
def holding(weight):
    model = nn.Module()
    model.register_buffer("weight", weight)
    return model


def quantised(scale):
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    nn.init.constant_(model[0].weight, scale)
    return quantization.quantize_dynamic(model, {nn.Linear})


def script(scale):
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    nn.init.constant_(model[0].weight, scale)
    return frozen(model)


@pytest.mark.parametrize(
    ("make", "largest"),
    [
        (lambda scale: holding((scale * torch.eye(2)).to_sparse()), 1),
        (lambda scale: holding((scale * torch.eye(2)).to_sparse_csr()), 1),
        (lambda scale: holding(torch.quantize_per_tensor(torch.full((2,), scale), 0.5, 0, torch.qint8)), 1),
        (lambda scale: holding(torch.tensor([2**60 + int(scale)])), 1),
        (lambda scale: holding(torch.tensor([int(scale)], dtype=torch.uint16)), 1),
        (quantised, 1),
        (script, 1),
    ],
    ids=["sparse", "csr", "quantised", "large integers", "uint16", "quantised layer", "frozen script"],
)
def test_weights_of_every_kind_are_compared(make, largest):
    """Layers that keep their weights outside of `parameters()` were identical with whatever weights."""
    same = compare_models(make(1.0), make(1.0))
    assert same.ok
    assert same.equal_count
    (difference,) = compare_models(make(1.0), make(2.0)).differences
    assert (difference.what, difference.largest) == ("value", pytest.approx(largest, rel=0.01))


def test_a_sparse_and_a_dense_weight_differ_in_layout():
    (difference,) = compare_models(holding(torch.eye(2).to_sparse()), holding(torch.eye(2))).differences
    assert (difference.what, difference.first, difference.second) == ("layout", "torch.sparse_coo", "torch.strided")


@pytest.mark.parametrize(
    ("wrap", "frozen_names"),
    [
        (nn.utils.parametrizations.weight_norm, ["parametrizations.weight.original0", "parametrizations.weight.original1"]),
        (nn.utils.parametrizations.orthogonal, ["parametrizations.weight.original"]),
        (nn.utils.weight_norm, ["weight_g", "weight_v"]),
        (nn.utils.spectral_norm, ["weight_orig"]),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), ["weight_orig"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "0."])
def test_a_computed_weight_is_frozen_by_its_own_name(wrap, frozen_names, prefix):
    layer = wrap(nn.Linear(2, 2))
    model = nn.Sequential(layer) if prefix else layer
    freeze(model, f"{prefix}weight")
    still = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert still == [prefix + name for name in frozen_names]


# ---------------------------------------------------------------- files
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty; copy or download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n",
         "it is a pointer of Git LFS, not the weights; run git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "it is a web page, not the weights; download it again"),
        (b"\x1f\x8b\x08\x00", "it is compressed with gzip; unpack it first"),
        (b"GGUF\x03\x00", "it is a GGUF file; name one in safetensors format, or one that torch.save wrote"),
        (b"\x89HDF\r\n", "it is an HDF5 file; name one in safetensors format, or one that torch.save wrote"),
        (b"\x80\x04}.", "it is a plain pickle; write it with torch.save or safetensors"),
    ],
    ids=["empty", "lfs", "page", "gzip", "gguf", "hdf5", "pickle"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_of_another_kind_is_refused_with_what_it_is(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        count_parameters(tmp_path)
    assert str(caught.value) == f"{str(tmp_path / name)!r} cannot be read as a checkpoint: {why}"


def test_a_shard_that_was_cut_off_is_named(tmp_path):
    shard = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(10, 10)}, shard)
    shard.write_bytes(shard.read_bytes()[:-50])
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    with pytest.raises(
        ValueError, match=r"its shard 'a.safetensors': .*; if it was cut off, copy or download it again$"
    ):
        count_parameters(tmp_path)


def shards(folder, *numbers, of):
    for number in numbers:
        save_file({f"w{number}": torch.zeros(4)}, folder / f"model-{number:05}-of-{of:05}.safetensors")


def test_shards_without_an_index_are_one_checkpoint(tmp_path):
    shards(tmp_path, 1, 2, of=2)
    count = count_parameters(tmp_path)
    assert (count.total, count.source) == (8, "model-*-of-00002.safetensors")
    assert count.notes[0] == "its shards have no index; all were counted"


def test_a_shard_by_itself_is_said_to_be_one(tmp_path):
    shards(tmp_path, 1, of=2)
    count = count_parameters(tmp_path / "model-00001-of-00002.safetensors")
    assert (count.total, count.notes[0]) == (4, "shard 1 of 2; for all of them name the folder")
    with pytest.raises(FileNotFoundError) as caught:
        count_parameters(tmp_path)
    assert str(caught.value) == f"folder {str(tmp_path)!r} holds 1 of 2 shards: model-00001-of-00002.safetensors"


def test_of_a_tensor_in_two_shards_the_one_that_the_index_names_counts(tmp_path):
    save_file({"a": torch.zeros(4), "b": torch.zeros(9)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(3), "c": torch.zeros(5)}, tmp_path / "2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    for shard, numel in (("1.safetensors", 9), ("2.safetensors", 3)):
        index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": shard, "c": "2.safetensors"}}))
        assert count_parameters(tmp_path).total == 4 + numel + 5
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
    assert count_parameters(tmp_path).notes[-1] == "counted, though the index does not name them: b"


def test_arrays_and_packed_objects_make_the_total_a_lower_bound(tmp_path):
    torch.save({"w": np.zeros((4, 4)), "b": torch.zeros(4)}, tmp_path / "array.pt")
    count = count_parameters(tmp_path / "array.pt")
    assert (count.total, count.uncounted) == (4, ("w",))
    assert str(count).startswith("array.pt: at least 4 parameters")
    assert count.notes[-1] == "not counted, as they are not tensors: w"
    model = quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 8), nn.LSTM(8, 2)), {nn.Linear, nn.LSTM})
    torch.save(model.state_dict(), tmp_path / "packed.pt")
    count = count_parameters(tmp_path / "packed.pt")
    assert (count.total, count.buffer_count) == (4 * 8 + 8, 2)  # the scale and zero point of the Linear's output
    assert str(count).startswith("packed.pt: at least 40 parameters")


def test_a_folder_of_lightning_is_read_and_one_of_parts_names_them(tmp_path):
    (tmp_path / "run").mkdir()
    torch.save({"state_dict": nn.Linear(2, 2).state_dict()}, tmp_path / "run" / "last.ckpt")
    assert count_parameters(tmp_path / "run").total == 6
    with pytest.raises(FileNotFoundError, match=r"\.ckpt file; name one of the folders in it: run$"):
        count_parameters(tmp_path)
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"; join its \.distcp shards with .*dcp_to_torch_save$"):
        count_parameters(tmp_path)


def test_a_safetensors_header_of_any_length_is_read(tmp_path):
    lengths = set()
    for count in range(
        1, 60
    ):  # the header is padded to eight bytes, so its length takes all 32 first bytes that there are
        path = tmp_path / "model.safetensors"
        save_file({f"layer.{number}": torch.zeros(number + 1) for number in range(count)}, path)
        lengths.add(path.read_bytes()[0])
        assert count_parameters(path).total == count * (count + 1) // 2
    for padding in range(0, 256, 8):
        save_file({"weight": torch.zeros(3)}, path, metadata={"note": "x" * padding})
        lengths.add(path.read_bytes()[0])
        assert count_parameters(path).total == 3
    assert 0x80 in lengths  # which a pickle begins with as well


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_of_the_old_format_is_read_in_every_protocol(tmp_path, protocol):
    torch.save(
        nn.Linear(4, 3).state_dict(), tmp_path / "a.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=False
    )
    assert count_parameters(tmp_path / "a.pt").total == 15


def test_the_directory_of_a_trainer_has_one_file_of_weights(tmp_path):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    beside = ["optimizer.pt", "rng_state_0.pth", "scheduler.pt", "training_args.bin"]
    for name in beside:
        torch.save(optimizer.state_dict(), tmp_path / name)
    count = count_parameters(tmp_path)
    assert count.total == 15
    assert count.notes == (f"pytorch_model.bin was counted; the folder also holds {', '.join(beside)}",)
    (tmp_path / "pytorch_model.bin").unlink()
    for name in beside[1:]:
        (tmp_path / name).unlink()
    with pytest.raises(
        ValueError, match=r"holds the state of an optimizer and no weights; name the file of the model$"
    ):
        count_parameters(tmp_path)
    (tmp_path / "optimizer.pt").unlink()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model_best.pth.tar")
    assert count_parameters(tmp_path).total == 15


def trained():
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return model.state_dict(), optimizer.state_dict()


@pytest.mark.parametrize(
    ("pack", "beside"),
    [
        (lambda weights, moments: {"G": weights, "opt_G": moments}, "'opt_G (optimizer)' (32 elements)"),
        (lambda weights, moments: (weights, moments), "'1 (optimizer)' (32 elements)"),
        (lambda weights, moments: {"g": weights, "g_ema": weights}, "'g_ema' (15 elements)"),
        (lambda weights, moments: {"params": weights, "params_ema": weights}, "'params_ema' (15 elements)"),
        (lambda weights, moments: {"params_ema": weights}, ""),
        (lambda weights, moments: {"net": weights, "rng": {"cpu": torch.get_rng_state()}}, "'rng' (5,056 elements)"),
    ],
)
def test_moments_copies_and_random_states_are_beside_the_weights_under_any_name(tmp_path, pack, beside):
    torch.save(pack(*trained()), tmp_path / "last.pt")
    count = count_parameters(tmp_path / "last.pt")
    assert count.total == 15
    assert [note for note in count.notes if "beside the weights" in note] == (
        [f"beside the weights the file holds {beside}, which are not counted"] if beside else []
    )


@pytest.mark.parametrize("name", ["8f7d2c", "pytorch_model.bin", "model.ckpt"])
def test_a_safetensors_file_is_told_by_what_is_in_it(tmp_path, name):
    save_file({"weight": torch.zeros(3)}, tmp_path / name)
    assert count_parameters(tmp_path / name).total == 3


def test_a_lazy_parameter_in_a_file_makes_the_total_a_lower_bound(tmp_path):
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    for each in (model, model.state_dict()):
        torch.save(each, tmp_path / "lazy.pt")
        count = count_parameters(tmp_path / "lazy.pt")
        assert (count.total, count.uninitialized) == (10, ("0.weight", "0.bias"))
        assert "at least 10 parameters" in str(count)
        assert count.notes[-1] == "not yet materialised, so the total is a lower bound: 0.weight, 0.bias"


def test_the_counter_of_an_averaged_model_is_no_parameter(tmp_path):
    model = torch.optim.swa_utils.AveragedModel(nn.Linear(4, 3))
    torch.save(model.state_dict(), tmp_path / "swa.pt")
    assert count_parameters(tmp_path / "swa.pt").total == count_parameters(model).total == 15


class Buffers(nn.Module):
    """What tutorials and models register as buffers, beside a bias of each shape that is none."""

    def __init__(self):
        super().__init__()
        self.linear, self.conv = nn.Linear(4, 3), nn.Conv2d(1, 1, 4)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        for name, tensor in (
            ("pe", torch.zeros(5, 1, 4)), ("tril", torch.zeros(6, 6)), ("attn_mask", torch.zeros(2, 4, 4)),
            ("final_logits_bias", torch.zeros(1, 7)), ("betas", torch.zeros(9)), ("sqrt_alphas_cumprod", torch.zeros(9)),
            ("seen", torch.tensor(3)), ("used", torch.zeros(4, dtype=torch.bool)),
        ):  # fmt: skip
            self.register_buffer(name, tensor)
        self.attention = nn.Module()
        self.attention.register_buffer("bias", torch.ones(6, 6).tril()[None, None])  # as in GPT-2


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_usual_buffers_of_a_file_are_no_parameters(tmp_path, suffix):
    model, path = Buffers(), tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    count, live = count_parameters(path), count_parameters(model)
    assert (count.total, count.buffer_count) == (live.total, live.buffer_count)
    assert any(note.startswith("taken for buffers by their names: ") for note in count.notes)


def test_an_archive_of_another_kind_is_refused_with_what_to_do(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.zeros(3))
    with pytest.raises(
        ValueError, match=r"it holds arrays of NumPy, and is counted when they are saved with torch.save or s"
    ):
        count_parameters(tmp_path / "a.npz")
    torch.save(nn.Linear(4, 3).state_dict(), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.pt", "inside/a.pt")
    with pytest.raises(ValueError, match=r"; unpack it first and name inside/a.pt$"):
        count_parameters(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("a/archive_format", "pt2")
    with pytest.raises(
        ValueError, match=r"a program of torch.export: load it with torch.export.load and pass its .module"
    ):
        count_parameters(tmp_path / "a.pt2")


@pytest.mark.parametrize("name", ["bert-base-uncased", "meta-llama/Llama-2-7b-hf"])
def test_a_name_on_a_hub_is_refused_with_what_to_do(name):
    advice = "; if it is a name on a hub, download the model first, linkboy downloads nothing"
    with pytest.raises(FileNotFoundError, match=f"^no file '{name}'{advice}$"):
        count_parameters(name)
    with pytest.raises(FileNotFoundError, match=r"^no file 'model.pt'$"):
        count_parameters("model.pt")


def test_a_tensor_to_be_trained_that_is_no_parameter_is_named():
    model = nn.Linear(4, 3)
    model.scale, model.table = torch.ones(3, requires_grad=True), torch.ones(3)
    model.seen = model(torch.ones(1, 4))  # an activation that forward kept
    assert count_parameters(model).notes == (
        "not registered, so neither counted nor trained nor saved: scale (Tensor); use nn.ModuleList, nn.ModuleDict or "
        "nn.Parameter",
    )


def test_what_is_packed_outside_of_the_parameters_is_not_called_trainable():
    model = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(4, 4)).eval()))
    assert str(count_parameters(model)).startswith(
        "RecursiveScriptModule: 20 parameters (packed in 0), 0 trainable, 80 B"
    )
