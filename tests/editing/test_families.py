"""Twenty-five architectures of transformers and three of monai: edited, saved, loaded by their own library, compared."""

import pytest
import torch
import transformers as hf
from tests.editing.models import IDS
from torch import nn

from linkboy.editing import surgery

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
IS_OLD = int(hf.__version__.partition(".")[0]) < 5
T = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 64,
    "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
V = {key: T[key] for key in list(T)[:4]} | {"initializer_range": 0.2, "num_labels": 3}
IMAGE = V | {"image_size": 16, "patch_size": 8}
GPT = {
    "vocab_size": 64,
    "n_embd": 16,
    "n_layer": 4,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PAIR = {
    "d_model": 16, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 64, "max_position_embeddings": 64, "init_std": 0.2,
    "decoder_start_token_id": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_heads": 2}
SOUND = V | {
    "conv_dim": (8, 8), "conv_stride": (4, 2), "conv_kernel": (8, 2), "num_feat_extract_layers": 2, "mask_time_prob": 0.0,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8,
}  # fmt: skip
TEXT = {"input_ids": IDS}
BOTH = {"input_ids": IDS, "decoder_input_ids": IDS}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 1536).reshape(2, 3, 16, 16)}
WAVES = {"input_values": torch.linspace(-9, 9, 800).reshape(2, 400).sin()}
TWO = ["encoder.layers", "decoder.layers"]

FAMILIES = {  # name -> class of the model, sizes, example, stacks of layers, output layer whose size is a number of labels
    "bert": ("BertForMaskedLM", T, TEXT, ["encoder.layer"], None),
    "bert, untied": ("BertForMaskedLM", T | {"tie_word_embeddings": False}, TEXT, ["encoder.layer"], None),
    "roberta": ("RobertaForSequenceClassification", T, TEXT, ["encoder.layer"], "classifier.out_proj"),
    "xlm-roberta": ("XLMRobertaForTokenClassification", T, TEXT, ["encoder.layer"], "classifier"),
    "electra": ("ElectraForMaskedLM", T | {"embedding_size": 8}, TEXT, ["encoder.layer"], None),
    "deberta": ("DebertaForSequenceClassification", T, TEXT, ["encoder.layer"], "classifier"),
    "deberta-v2": ("DebertaV2ForMaskedLM", T, TEXT, ["encoder.layer"], None),
    "mpnet": ("MPNetForMaskedLM", T, TEXT, ["encoder.layer"], None),
    "longformer": ("LongformerForMaskedLM", T | {"attention_window": [4] * 4}, TEXT, ["encoder.layer"], None),
    "gpt2": ("GPT2LMHeadModel", GPT, TEXT, ["transformer.h"], None),
    "gpt-neox": ("GPTNeoXForCausalLM", T, TEXT, ["gpt_neox.layers"], None),
    "gptj": ("GPTJForCausalLM", GPT | {"rotary_dim": 4}, TEXT, ["transformer.h"], None),
    "bloom": ("BloomForCausalLM", {"vocab_size": 64, "hidden_size": 16, "n_layer": 4, "n_head": 2}, TEXT, ["h"], None),
    "falcon": ("FalconForCausalLM", {k: T[k] for k in T if k != "intermediate_size"}, TEXT, ["transformer.h"], None),
    "llama": ("LlamaForSequenceClassification", T, TEXT, ["layers"], "score"),
    "mistral": ("MistralForCausalLM", T | {"num_key_value_heads": 2}, TEXT, ["layers"], None),
    "qwen2": ("Qwen2ForCausalLM", T | {"num_key_value_heads": 2}, TEXT, ["layers"], None),
    "gemma2": ("Gemma2ForCausalLM", T | {"num_key_value_heads": 2, "head_dim": 8}, TEXT, ["layers"], None),
    "mixtral": ("MixtralForCausalLM", T | {"num_key_value_heads": 2, "num_local_experts": 4}, TEXT, ["layers"], None),
    "t5": ("T5ForConditionalGeneration", T5, BOTH, ["encoder.block", "decoder.block"], None),
    "bart": ("BartForConditionalGeneration", PAIR, BOTH, TWO, None),
    "pegasus": ("PegasusForConditionalGeneration", PAIR, BOTH, TWO, None),
    "marian": ("MarianMTModel", PAIR, BOTH, TWO, None),
    "vit": ("ViTForImageClassification", IMAGE, PIXELS, ["layer"], "classifier"),
    "dinov2": ("Dinov2ForImageClassification", IMAGE, PIXELS, ["layer"], "classifier"),
    "deit": ("DeiTForImageClassificationWithTeacher", IMAGE, PIXELS, ["layer"], "cls_classifier"),
    "wav2vec2": ("Wav2Vec2ForSequenceClassification", SOUND, WAVES, ["encoder.layers"], "classifier"),
}


def build(family):
    name, sizes, example, stacks, head = FAMILIES[family]
    kind = getattr(hf, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**sizes)).eval()
    lists = [known for known, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == 4]
    named = [next(known for known in lists if known.rstrip("s").endswith(stack.rstrip("s"))) for stack in stacks]
    return model, example, named, head


def tensors(model, example):
    with torch.no_grad():
        return [value for value in model(**example).values() if isinstance(value, torch.Tensor)]


def check_reloaded(model, example, folder):
    model.save_pretrained(folder)
    again = type(model).from_pretrained(folder).eval()
    for ours, theirs in zip(tensors(model, example), tensors(again, example), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.skipif(IS_OLD, reason="the names of some stacks and sizes are those of transformers 5")
def test_what_is_edited_is_what_is_loaded(family, tmp_path):
    model, example, stacks, head = build(family)
    with surgery(model, example=example) as s:
        for stack in stacks:
            s.keep_layers(stack, [0, 2, 3])
        if head is not None:
            s.resize_head(head, 5)
        if "vocab_size" in vars(model.config) and example is not WAVES and example is not PIXELS:
            s.resize_embeddings(70)
    assert not [note for note in s.report.notes if "random" in note or "shape" in note or "not be loaded" in note]
    check_reloaded(model, example, tmp_path)


@pytest.mark.parametrize("family", ["bert", "gpt2", "electra", "mpnet", "bloom", "vit", "wav2vec2"])
@pytest.mark.skipif(IS_OLD, reason="the names of some stacks and sizes are those of transformers 5")
def test_what_is_left_without_dropout_trains_and_is_loaded(family, tmp_path):
    model, example, stacks, _ = build(family)
    with surgery(model, example=example) as s:
        s.remove("*", kind="Dropout")
        for stack in stacks:
            s.keep_layers(stack, [3, 1, 1])
    model.train()
    model(**example)
    model.eval()
    check_reloaded(model, example, tmp_path)


def nets():
    monai = pytest.importorskip("monai.networks.nets")
    volume = torch.linspace(-1, 1, 2 * 32 * 32).reshape(2, 1, 32, 32)
    return {
        "UNet": (
            lambda: monai.UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2), norm="batch", dropout=0.1),
            volume,
        ),
        "DenseNet": (
            lambda: monai.DenseNet(2, 1, 3, init_features=8, growth_rate=4, block_config=(2, 2), dropout_prob=0.1),
            volume,
        ),
        "SegResNet": (
            lambda: monai.SegResNet(2, 4, 1, 2, blocks_down=(1, 1), blocks_up=(1,), norm="batch", dropout_prob=0.1),
            volume,
        ),
    }


@pytest.mark.parametrize("name", ["UNet", "DenseNet", "SegResNet"])
def test_nets_of_monai_get_other_norms_and_lose_their_dropouts(name, tmp_path):
    make, x = nets()[name]

    def edited():
        torch.manual_seed(0)
        model = make().eval()
        optimizer = torch.optim.AdamW(model.parameters())
        with surgery(model, example=x, optimizer=optimizer) as s:
            s.replace("*", lambda old: nn.GroupNorm(2, old.num_features), kind="BatchNorm")
            s.remove("*", kind="Dropout")
        return model, s.report, optimizer

    model, report, optimizer = edited()
    kinds = {type(part).__name__ for part in model.modules()}
    assert "GroupNorm" in kinds
    assert not kinds & {"BatchNorm2d", "Dropout", "Dropout2d"}
    assert not [note for note in report.notes if "new, and the forward" in note]
    model.train()
    model(x).float().square().mean().backward()
    optimizer.step()
    model.eval()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    again = edited()[0]
    again.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
