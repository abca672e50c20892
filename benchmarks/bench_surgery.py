"""Surgery: the cost of a transaction and of its check, and what the usual ways leave broken."""

import copy
import tempfile
from typing import Literal

import torch
import transformers as hf
from torch import nn

from benchmarks.harness import Row, median_seconds
from linkboy import keep_layers, remove_layer, replace_layer, surgery
from linkboy._calls import arguments_of
from linkboy.editing._recorder import record

IDS = torch.arange(3, 23).reshape(2, 10)
TINY = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 64,
    "max_position_embeddings": 32, "initializer_range": 0.2,
}  # fmt: skip


def run(*, quick: bool) -> list[Row]:
    torch.manual_seed(0)
    return [
        *timed(quick=quick),
        *broken_caches(),
        broken_reload(),
        broken_optimizer(),
        broken_alias(),
        broken_children(),
    ]


def timed(*, quick: bool) -> list[Row]:
    layers = 2 if quick else 12
    model = hf.BertModel(hf.BertConfig(num_hidden_layers=layers)).eval()
    ids = torch.zeros(1, 128, dtype=torch.long)
    example = arguments_of((ids,))

    def forward() -> None:
        with torch.no_grad():
            model(ids)

    blocks = list(model.encoder.layer)

    def transaction(config: Literal["auto"] | None = "auto") -> None:
        remove_layer(model, "encoder.layer.0", config=config)
        model.encoder.layer = nn.ModuleList(blocks)  # as deep again, for the next round
        model.config.num_hidden_layers = layers

    assert record(model, example, "fake").failure is None
    check = {"fake": lambda: record(model, example, "fake"), "forward": forward}
    candidates = {
        "proven": transaction,
        "transaction": lambda: transaction(None),
        "copy": lambda: copy.deepcopy(model),
    }
    measured = median_seconds(check, rounds=3 if quick else 21) | median_seconds(candidates, rounds=3 if quick else 11)
    seconds = {name: value * 1e3 for name, value in measured.items()}
    return [
        Row("check of BERT-base on shapes, 128 tokens", seconds["fake"], "one real forward", seconds["forward"],
            "ms", "same shapes", "<= 0.5x"),
        Row("transaction on BERT-base without any check", seconds["transaction"], "deepcopy, to roll back from",
            seconds["copy"], "ms", "not comparable", "<= 20 ms"),
        Row("the same, with the config checked by building the model again on meta", seconds["proven"],
            "deepcopy, to roll back from", seconds["copy"], "ms", "not comparable"),
    ]  # fmt: skip


def llama() -> nn.Module:
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TINY)).eval()


def disagreement(model: nn.Module) -> float:
    """Largest difference between logits token by token, through the cache, and those of one pass."""
    cache, parts = None, []
    with torch.no_grad():
        for chunk in (IDS[:, :4], *IDS[:, 4:].split(1, dim=1)):
            out = model(chunk, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
        return (torch.cat(parts, dim=1) - model(IDS).logits).abs().max().item()


def broken_caches() -> list[Row]:
    rows = []
    for what, indices in {"first two": [2, 3], "middle two": [0, 3], "last two": [0, 1]}.items():
        ours, peer = llama(), llama()
        keep_layers(ours, "model.layers", indices, example={"input_ids": IDS})
        peer.model.layers = nn.ModuleList(peer.model.layers[index] for index in indices)
        rows.append(Row(f"Llama without its {what} layers: cached and full logits", disagreement(ours),
                        "nn.ModuleList of the rest", disagreement(peer), "largest difference", "same weights",
                        "<= 1e-4"))  # fmt: skip
    ours, peer = llama(), llama()
    keep_layers(ours, "model.layers", [0, 1, 1, 2, 3], example={"input_ids": IDS})
    peer.model.layers = nn.ModuleList(peer.model.layers[index] for index in [0, 1, 1, 2, 3])
    peer.config.num_hidden_layers = 5
    return [
        *rows,
        Row("Llama with a layer twice: cached and full logits", disagreement(ours),
            "the same object twice, config repaired", disagreement(peer), "largest difference", "same weights", "<= 1e-4"),
    ]  # fmt: skip


def broken_reload() -> Row:
    def lost(model: nn.Module) -> float:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            model.save_pretrained(folder)  # type: ignore[operator]
            again = type(model).from_pretrained(folder).eval()  # type: ignore[attr-defined]
            return (again(IDS)[0] - model(IDS)[0]).abs().max().item()

    torch.manual_seed(0)
    ours = hf.BertModel(hf.BertConfig(**TINY)).eval()
    peer = copy.deepcopy(ours)
    remove_layer(ours, "encoder.layer.1", example={"input_ids": IDS})
    del peer.encoder.layer[1]
    return Row("BERT without a layer, saved and loaded again", lost(ours), "del model.encoder.layer[1]", lost(peer),
               "largest difference", "same weights", "0")  # fmt: skip


def broken_optimizer() -> Row:
    """How far a new head moves in one step: not at all where the optimizer holds the old one."""

    def moved(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> float:
        before = model[2].weight.detach().clone()  # type: ignore[operator]
        model(torch.ones(4, 8)).square().sum().backward()
        optimizer.step()
        return (model[2].weight.detach() - before).abs().max().item()  # type: ignore[operator]

    def fresh() -> tuple[nn.Sequential, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        return model, torch.optim.AdamW(model.parameters(), lr=0.01)

    model, optimizer = fresh()
    replace_layer(model, "2", nn.Linear(8, 2), example=torch.ones(4, 8), optimizer=optimizer)
    peer, stale = fresh()
    peer.set_submodule("2", nn.Linear(8, 2), strict=True)
    return Row("new head, moved by one step of the optimizer", moved(model, optimizer), "set_submodule",
               moved(peer, stale), "largest change", "same seed", "> 0", higher_is_better=True)  # fmt: skip


class Listed(nn.Module):
    """Calls its layer through a list, as detection heads and U-Nets do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.order = [self.layer]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.order[0](x)


def broken_alias() -> Row:
    def reached(model: nn.Module, new: nn.Linear) -> float:
        x = torch.ones(1, 4)
        return float(torch.equal(model(x), new(x)))

    ours, peer, new = Listed(), Listed(), nn.Linear(4, 4)
    replace_layer(ours, "layer", new, example=torch.ones(1, 4))
    peer.set_submodule("layer", new, strict=True)
    return Row("a replaced layer that a list refers to is the one that runs", reached(ours, new), "set_submodule",
               reached(peer, new), "1 is yes", "same layer", "1", higher_is_better=True)  # fmt: skip


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.fc = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(x + self.body(x).relu()))


def broken_children() -> Row:
    """Features of a residual net without its last layer, against those that its own forward computes."""
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(4, 8)
    with torch.no_grad():
        expected = model.norm(x + model.body(x).relu())
        snippet = nn.Sequential(*list(model.children())[:-1])(x)
        with surgery(model, example=x) as s:
            s.remove("fc")
        ours = model(x)
    return Row("features without the last layer", (ours - expected).abs().max().item(), "nn.Sequential(*children()[:-1])",
               (snippet - expected).abs().max().item(), "largest difference", "same weights", "0")  # fmt: skip
