"""Small models of many architectures, built from configurations, each with an input; no weights are fetched."""

import copy

import torch
import transformers as hf
from torch import nn

IDS = torch.arange(12).reshape(2, 6)
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 64}


def _bert():
    return hf.BertForMaskedLM(hf.BertConfig(**TINY, max_position_embeddings=16)), ({"input_ids": IDS},)


def _gpt2():
    return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=64, n_positions=16)), (IDS,)


def _llama():
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TINY, max_position_embeddings=16)), (IDS,)


def _mixtral():
    config = hf.MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=2, max_position_embeddings=16)
    return hf.MixtralForCausalLM(config), (IDS,)


def _t5():
    config = hf.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return hf.T5ForConditionalGeneration(config), ({"input_ids": IDS, "decoder_input_ids": IDS},)


def _vit():
    config = hf.ViTConfig(**{k: v for k, v in TINY.items() if k != "vocab_size"}, image_size=16, patch_size=8)
    return hf.ViTForImageClassification(config), (torch.zeros(2, 3, 16, 16),)


def _resnet():
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return hf.ResNetForImageClassification(config), (torch.zeros(2, 3, 32, 32),)


def _mamba():
    config = hf.MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=64, state_size=4)
    return hf.MambaForCausalLM(config), (IDS,)


def _distilbert():
    config = hf.DistilBertConfig(
        dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=64, max_position_embeddings=16
    )
    return hf.DistilBertForSequenceClassification(config), (IDS,)


def _whisper():
    config = hf.WhisperConfig(
        vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, pad_token_id=0,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8, max_source_positions=20,
        max_target_positions=16, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return hf.WhisperForConditionalGeneration(config), (
        {"input_features": torch.zeros(2, 8, 40), "decoder_input_ids": IDS},
    )


class _Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(64, 8, padding_idx=0), nn.LSTM(8, 8, 2, dropout=0.5)
        self.head = nn.Linear(8, 64)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.lstm(self.embed(ids))[0])


def _transformer():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.zeros(2, 6, 16),)


def _convolutions():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.ConvTranspose2d(8, 4, 2, stride=2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4 * 12 * 12, 5),
    )  # fmt: skip
    return model, (torch.zeros(4, 3, 8, 8),)


def _parametrized():
    first = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    second = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
    return nn.Sequential(first, second, nn.utils.parametrizations.orthogonal(nn.Linear(8, 8))), (torch.zeros(3, 8),)


ARCHITECTURES = {
    "bert": _bert, "gpt2": _gpt2, "llama": _llama, "mixtral": _mixtral, "t5": _t5, "vit": _vit, "resnet": _resnet,
    "mamba": _mamba, "distilbert": _distilbert, "whisper": _whisper, "lstm": lambda: (_Recurrent(), (IDS,)),
    "transformer": _transformer, "convolutions": _convolutions, "parametrized": _parametrized,
}  # fmt: skip


def fingerprint(model):
    """Everything that a read-only call must leave as it is, tensors as copies."""
    modules = dict(model.named_modules(remove_duplicate=False))
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    tables = {
        name: {k: list(v.items()) for k, v in module.__dict__.items() if k.startswith("_") and isinstance(v, dict)}
        for name, module in modules.items()
    }
    for table in tables.values():
        for key in ("_parameters", "_buffers", "_modules"):
            table[key] = [(name, id(item)) for name, item in table.get(key, [])]
    return {
        "training": [(name, module.training, type(module)) for name, module in modules.items()],
        "attributes": [(name, sorted(module.__dict__)) for name, module in modules.items()],
        "tables": tables,
        "identity": [(name, id(t), t.requires_grad, t._version, str(t.device)) for name, t in tensors],
        "bytes": [(name, _bits(t), None if t.grad is None else _bits(t.grad)) for name, t in tensors],
        "random": torch.get_rng_state().tolist(),
    }


def _bits(tensor):
    return copy.copy(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
