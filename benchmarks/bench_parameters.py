"""Counting, summary, checkpoint headers, audit and initialisation beside the copied snippet, torchinfo, torch.load and others."""

import json
import struct
import tempfile
from pathlib import Path

import torch
import torchinfo
import transformers as hf
from fvcore.nn import FlopCountAnalysis
from huggingface_hub import get_local_safetensors_metadata
from torch import Tensor, nn

from benchmarks.harness import Row, median_seconds
from linkboy import Rule, audit_activations, count_parameters, initialize, summarize


def copied_snippet(model: nn.Module) -> tuple[int, int]:
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p.requires_grad)


def on_meta(kind: type[nn.Module], config: object) -> nn.Module:
    with torch.device("meta"):
        model = kind(config)  # type: ignore[call-arg]
    model.tie_weights()  # type: ignore[operator]
    return model


def run(*, quick: bool) -> list[Row]:
    torch.manual_seed(0)
    layers = 2 if quick else 12
    bert = hf.BertForMaskedLM(hf.BertConfig(num_hidden_layers=layers)).eval()
    models = {"BERT-base": bert, "Llama 7B": on_meta(hf.LlamaForCausalLM, hf.LlamaConfig())}
    if not quick:
        large = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
        models["Llama 70B"] = on_meta(hf.LlamaForCausalLM, hf.LlamaConfig(**large, num_key_value_heads=8))
    rows = [counted(name, model, quick=quick) for name, model in models.items()]
    rows += [outlined(quick=quick), *described(layers, quick=quick), *checkpoints(bert, quick=quick)]
    return [*rows, audited(quick=quick), initialized(bert, quick=quick)]


def counted(name: str, model: nn.Module, *, quick: bool) -> Row:
    count = count_parameters(model)
    assert (count.total, count.trainable) == copied_snippet(model)
    seconds = median_seconds(
        {"ours": lambda: count_parameters(model), "peer": lambda: copied_snippet(model)}, rounds=11 if quick else 201
    )
    what = f"count {name}, with ties, bytes and storage"
    equality = f"{count.total:,} both"
    return Row(what, seconds["ours"] * 1e3, "copied snippet", seconds["peer"] * 1e3, "ms", equality, "<= 1.0x")


def outlined(*, quick: bool) -> Row:
    model = on_meta(hf.BertModel, hf.BertConfig(num_hidden_layers=2 if quick else 12))
    ours, peer = summarize(model), torchinfo.summary(model, verbose=0)
    assert ours.count.total == peer.total_params
    seconds = median_seconds(
        {"ours": lambda: str(summarize(model)), "peer": lambda: str(torchinfo.summary(model, verbose=0))},
        rounds=3 if quick else 31,
    )
    what = "summary of BERT-base without input, printed"
    return Row(
        what, seconds["ours"] * 1e3, f"torchinfo {torchinfo.__version__}", seconds["peer"] * 1e3, "ms",
        f"{ours.count.total:,} both", "<= 0.25x",
    )  # fmt: skip


def described(layers: int, *, quick: bool) -> list[Row]:
    model = hf.BertModel(hf.BertConfig(num_hidden_layers=layers)).eval()
    ids = torch.zeros(1, 128, dtype=torch.long)
    tokens, width, inner = 128, 768, 3072
    exact = layers * (2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width) + 2 * width**2
    summary = summarize(model, ids)
    assert summary.flops == exact

    def forward() -> None:
        with torch.no_grad():
            model(ids)

    def other() -> None:
        torchinfo.summary(model, input_data=ids, verbose=0)

    candidates = {"ours": lambda: summarize(model, ids), "peer": forward, "torchinfo": other}
    seconds = median_seconds(candidates, rounds=2 if quick else 9)
    info = 2 * torchinfo.summary(model, input_data=ids, verbose=0).total_mult_adds
    analysis = FlopCountAnalysis(model, ids)
    fvcore = 2 * analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
    what = "summary of BERT-base with input (128 tokens)"
    rows = [
        Row(what, seconds["ours"] * 1e3, "one real forward", seconds["peer"] * 1e3, "ms", "FLOPs exact", "<= 1.0x"),
        Row(
            what,
            seconds["ours"] * 1e3,
            f"torchinfo {torchinfo.__version__}",
            seconds["torchinfo"] * 1e3,
            "ms",
            "see below",
        ),
    ]
    for name, found in ((f"torchinfo {torchinfo.__version__}, x2", info), ("fvcore 0.1.5, x2", fvcore)):
        error, wrong = abs(summary.flops - exact) / exact, abs(found - exact) / exact
        rows.append(Row("FLOPs of it, relative error", error, name, wrong, "of the analytic number", "ours exact", "0"))
    return rows


def checkpoints(bert: nn.Module, *, quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        seven = Path(folder) / "7b.safetensors"
        total = sparse_safetensors(seven)
        assert count_parameters(seven).total == total
        saved = Path(folder) / "bert.pt"
        torch.save(bert.state_dict(), saved)

        def hub() -> int:
            metadata = get_local_safetensors_metadata(folder)
            return sum(metadata.parameter_count.values())

        def load() -> int:
            state = torch.load(saved, weights_only=True)
            unique = {(t.data_ptr(), t.shape): t.numel() for t in state.values()}
            return sum(unique.values())

        def mapped() -> int:
            state = torch.load(saved, weights_only=True, mmap=True)
            unique = {(t.data_ptr(), t.shape): t.numel() for t in state.values()}
            return sum(unique.values())

        count = count_parameters(saved)
        assert count.total == load() == mapped() == sum(p.numel() for p in bert.parameters())
        (Path(folder) / "model.safetensors").symlink_to(seven)
        assert hub() == total
        rounds = 5 if quick else 51
        header = median_seconds({"ours": lambda: count_parameters(seven), "peer": hub}, rounds=rounds)
        pickled = median_seconds({"ours": lambda: count_parameters(saved), "mapped": mapped}, rounds=rounds)
        loaded = median_seconds({"load": load}, rounds=2 if quick else 5)
    ours, what = pickled["ours"] * 1e3, f"count a {saved_megabytes(bert):.0f} MB .pt, ties seen"
    same, both = f"{total:,} both", f"{count.total:,} both"
    hub_ms, mapped_ms, load_ms = header["peer"] * 1e3, pickled["mapped"] * 1e3, loaded["load"] * 1e3
    return [
        Row(
            "count a 13.5 GB .safetensors", header["ours"] * 1e3, "huggingface_hub header", hub_ms, "ms", same, "< 1 ms"
        ),
        Row(what, ours, "torch.load", load_ms, "ms", both, "< 5 ms"),
        Row(what, ours, "torch.load(mmap=True)", mapped_ms, "ms", both, "< 5 ms"),
    ]


def saved_megabytes(model: nn.Module) -> float:
    return sum(p.nbytes for p in model.parameters()) / 1e6


def sparse_safetensors(path: Path) -> int:
    """Write the file of a 7B model in half precision whose data are a hole in the file; return its parameters."""
    header, at, total = {}, 0, 0
    for name, parameter in on_meta(hf.LlamaForCausalLM, hf.LlamaConfig()).named_parameters():
        size = 2 * parameter.numel()
        header[name] = {"dtype": "F16", "shape": list(parameter.shape), "data_offsets": [at, at + size]}
        at, total = at + size, total + parameter.numel()
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return total


def audited(*, quick: bool) -> Row:
    model = hf.BertModel(hf.BertConfig(num_hidden_layers=4)).eval()
    ids = torch.zeros(4, 128, dtype=torch.long)
    final: list[Tensor] = []

    def forward() -> None:
        with torch.no_grad():
            final[:] = [model(ids).last_hidden_state]

    seconds = median_seconds(
        {"ours": lambda: audit_activations(model, {"input_ids": ids}), "peer": forward}, rounds=2 if quick else 15
    )
    audit = audit_activations(model, {"input_ids": ids})
    last = next(row for row in audit.rows if row.name == "encoder.layer.3.output.LayerNorm")
    assert abs(last.std - final[0].std(correction=0).item()) < 1e-5
    what = "audit of BERT, 4 layers"
    return Row(what, seconds["ours"] * 1e3, "one forward", seconds["peer"] * 1e3, "ms", "same last std", "<= 1.25x")


def initialized(model: nn.Module, *, quick: bool) -> Row:
    def loop() -> None:
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    rules = [Rule((nn.Linear, nn.Embedding), "weight", nn.init.normal_, std=0.02)]
    seconds = median_seconds(
        {"ours": lambda: initialize(model, rules, on_unmatched="keep"), "peer": loop}, rounds=1 if quick else 5
    )
    untied = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8))
    torch.manual_seed(0)
    initialize(untied, rules, on_unmatched="keep")
    ours = untied[1].weight.detach().clone()
    torch.manual_seed(0)
    for module in untied:
        nn.init.normal_(module.weight, std=0.02)
    assert torch.equal(untied[1].weight, ours)
    what = "initialise BERT-base, with rollback and report"
    return Row(
        what,
        seconds["ours"],
        "bare loop (fills the tied weight twice)",
        seconds["peer"],
        "s",
        "same bits where not tied",
        "<= 1.2x",
    )
