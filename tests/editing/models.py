"""Small models of many architectures with an example each, and a fingerprint of everything that an edit could touch."""

from collections import OrderedDict

import torch
import transformers as hf
from torch import nn

IDS = torch.arange(3, 23).reshape(2, 10)
# A large initializer range: with small weights a wrong cache or a lost layer hardly shows in the logits.
TINY = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 64,
    "max_position_embeddings": 32, "initializer_range": 0.2,
}  # fmt: skip
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def bert(kind=hf.BertModel, **options):
    return kind(hf.BertConfig(**TINY | options)).eval(), {"input_ids": IDS}


def llama(**options):
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TINY | options)).eval(), {"input_ids": IDS}


def gpt2(**options):
    sizes = {"n_embd": 16, "n_layer": 4, "n_head": 2, "vocab_size": 64, "n_positions": 32, "initializer_range": 0.2}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes | TOKENS | options)).eval(), {"input_ids": IDS}


def t5(**options):
    config = hf.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=4, num_heads=2, **options)
    return hf.T5ForConditionalGeneration(config).eval(), {"input_ids": IDS, "decoder_input_ids": IDS}


def whisper():
    config = hf.WhisperConfig(
        vocab_size=64, d_model=16, encoder_layers=4, decoder_layers=4, encoder_attention_heads=2, init_std=0.2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8, max_source_positions=20,
        max_target_positions=16, decoder_start_token_id=1, begin_suppress_tokens=None, **TOKENS,
    )  # fmt: skip
    example = {"input_features": torch.linspace(0, 1, 640).reshape(2, 8, 40), "decoder_input_ids": IDS}
    return hf.WhisperForConditionalGeneration(config).eval(), example


def vit():
    sizes = {key: value for key, value in TINY.items() if key not in ("vocab_size", "max_position_embeddings")}
    config = hf.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3)
    return hf.ViTForImageClassification(config).eval(), {
        "pixel_values": torch.linspace(0, 1, 1536).reshape(2, 3, 16, 16)
    }


def distilbert():
    config = hf.DistilBertConfig(
        dim=16, n_layers=4, n_heads=2, hidden_dim=32, vocab_size=64, max_position_embeddings=32, num_labels=3
    )
    return hf.DistilBertForSequenceClassification(config).eval(), {"input_ids": IDS}


def qwen3():
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**TINY, num_key_value_heads=2, head_dim=8)).eval(), {"input_ids": IDS}


def smollm3():
    config = hf.SmolLM3Config(**TINY, num_key_value_heads=2, no_rope_layers=[1, 1, 1, 0], **TOKENS)
    return hf.SmolLM3ForCausalLM(config).eval(), {"input_ids": IDS}


def gemma3():
    types = ["sliding_attention", "full_attention"] * 2
    config = hf.Gemma3TextConfig(**TINY, num_key_value_heads=1, head_dim=8, layer_types=types, **TOKENS)
    return hf.Gemma3ForCausalLM(config).eval(), {"input_ids": IDS}


def modernbert():
    config = hf.ModernBertConfig(**TINY | TOKENS, cls_token_id=1, sep_token_id=2)
    return hf.ModernBertModel(config).eval(), {"input_ids": IDS}


def mlp():
    layers = [nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4)]
    return nn.Sequential(*layers), (torch.linspace(-1, 1, 24).reshape(3, 8),)


def named():
    layers = {"fc1": nn.Linear(8, 8), "norm": nn.BatchNorm1d(8), "act": nn.ReLU(), "fc2": nn.Linear(8, 4)}
    return nn.Sequential(OrderedDict(layers)), (torch.linspace(-1, 1, 24).reshape(3, 8),)


class Residual(nn.Module):
    """A small residual net whose forward does more than call its children one after the other."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.blocks(x)
        return self.fc(self.drop(self.pool(x).flatten(1)))


def residual():
    return Residual(), (torch.linspace(0, 1, 384).reshape(2, 3, 8, 8),)


def transformer():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    return model, (torch.linspace(-1, 1, 192).reshape(2, 6, 16),)


class Tagger(nn.Module):
    """Recurrent, with a tied head, a frozen table and an alias in a list."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(64, 8, padding_idx=0), nn.LSTM(8, 8, 2, dropout=0.5, batch_first=True)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        self.head = nn.Linear(8, 64)
        self.head.weight = self.embed.weight
        self.everything = [self.layers[0], self.head]

    def forward(self, ids):
        hidden = self.lstm(self.embed(ids))[0]
        for layer in self.layers:
            hidden = layer(hidden).tanh()
        return self.head(hidden)


def tagger():
    return Tagger(), (IDS,)


STACKS = {  # architecture -> builder, qualified names of its stacks of layers
    "bert": (bert, ["encoder.layer"]),
    "gpt2": (gpt2, ["transformer.h"]),
    "llama": (llama, ["model.layers"]),
    "t5": (t5, ["encoder.block", "decoder.block"]),
    "whisper": (whisper, ["model.encoder.layers", "model.decoder.layers"]),
    "vit": (vit, ["vit.layers"]),
    "distilbert": (distilbert, ["distilbert.transformer.layer"]),
    "qwen3": (qwen3, ["model.layers"]),
    "smollm3": (smollm3, ["model.layers"]),
    "gemma3": (gemma3, ["model.layers"]),
    "modernbert": (modernbert, ["layers"]),
    "transformer": (transformer, ["layers"]),
    "residual": (residual, ["blocks"]),
    "tagger": (tagger, ["layers"]),
}


def outputs(model, example):
    """All tensors of an evaluation-mode forward pass, as a list."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        out = model(**example) if isinstance(example, dict) else model(*example)
    for module, flag in flags.items():
        module.training = flag
    values = list(out.values()) if isinstance(out, dict) else [out]
    return [value for value in values if isinstance(value, torch.Tensor)]


def fingerprint(model, optimizer=None):
    """Everything that a rolled-back edit must leave as it was: identities, order, bits, flags, hooks, attributes, configs."""
    state = {}
    for name, module in model.named_modules(remove_duplicate=False):
        state[name] = (id(module), type(module), [(key, _value(value)) for key, value in module.__dict__.items()])
    configs = {id(m.__dict__["config"]): m.__dict__["config"] for m in model.modules() if "config" in m.__dict__}
    described = [(key, sorted((k, repr(v)) for k, v in vars(config).items())) for key, config in configs.items()]
    return state, described, None if optimizer is None else _optimizer(optimizer)


def _value(value):
    if isinstance(value, torch.Tensor):
        bits = "meta" if value.is_meta else value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return id(value), value.dtype, tuple(value.shape), value.requires_grad, value._version, bits
    if isinstance(value, dict):
        return id(value), [(repr(key), _value(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return id(value), [_value(item) for item in value]
    if isinstance(value, (bool, int, float, str)):
        return value
    return id(value)


def _optimizer(optimizer):
    groups = [(id(group), [(key, _value(value)) for key, value in group.items()]) for group in optimizer.param_groups]
    state = [
        (id(tensor), [(key, _value(value)) for key, value in entry.items()])
        for tensor, entry in optimizer.state.items()
    ]
    return groups, state
