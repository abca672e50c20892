"""Small models of many architectures, built from configurations of transformers, with a function that makes their batch."""

import torch
import transformers as hf

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = {**TINY, "vocab_size": 64, "max_position_embeddings": 32}
PICTURE = {"image_size": 32, "patch_size": 8}


def ids(batch):
    return {"input_ids": torch.randint(1, 64, (batch, 11))}


def pair(batch):
    return {"input_ids": torch.randint(1, 64, (batch, 11)), "decoder_input_ids": torch.randint(1, 64, (batch, 9))}


def picture(batch):
    return {"pixel_values": torch.randn(batch, 3, 32, 32)}


def sound(batch):
    return {"input_values": torch.randn(batch, 800)}


def words(model, config, inputs=ids, **changes):
    return lambda: (getattr(hf, model)(getattr(hf, config)(**{**WORDS, **changes})), inputs)


def pictures(model, config, **changes):
    return lambda: (getattr(hf, model)(getattr(hf, config)(**{**TINY, **PICTURE, **changes})), picture)


def plain(model, config, inputs, **changes):
    return lambda: (getattr(hf, model)(getattr(hf, config)(**changes)), inputs)


STACK = {
    "vocab_size": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
STAGES = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32, "patch_size": 4}

# The twelve on which the rules were tuned.
TUNED = {
    "bert": words("BertForSequenceClassification", "BertConfig"),
    "gpt2": plain("GPT2LMHeadModel", "GPT2Config", ids, n_embd=16, n_layer=2, n_head=2, vocab_size=64, n_positions=32),
    "distilbert": plain(
        "DistilBertForSequenceClassification", "DistilBertConfig", ids,
        dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=64, max_position_embeddings=32,
    ),
    "llama": words("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=1),
    "vit": pictures("ViTForImageClassification", "ViTConfig"),
    "resnet": plain(
        "ResNetForImageClassification", "ResNetConfig", picture,
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
    ),
    "swin": plain("SwinForImageClassification", "SwinConfig", picture, **STAGES),
    "convnext": plain(
        "ConvNextForImageClassification", "ConvNextConfig", picture, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2
    ),
    "wav2vec2": plain(
        "Wav2Vec2ForCTC", "Wav2Vec2Config", sound, **TINY, vocab_size=32, conv_dim=[8, 8], conv_stride=[5, 4],
        conv_kernel=[10, 8], num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    ),
    "deberta-v2": words("DebertaV2ForSequenceClassification", "DebertaV2Config", relative_attention=True,
                        pos_att_type=["p2c", "c2p"]),
    "longformer": words("LongformerModel", "LongformerConfig", attention_window=4, pad_token_id=0),
    "xlnet": plain("XLNetLMHeadModel", "XLNetConfig", ids, vocab_size=64, d_model=16, n_layer=2, n_head=2, d_inner=32),
}  # fmt: skip

# Met for the first time by the finished rules.
UNSEEN = {
    "roberta": words("RobertaForTokenClassification", "RobertaConfig", pad_token_id=0),
    "albert": words("AlbertModel", "AlbertConfig", embedding_size=8),
    "electra": words("ElectraForPreTraining", "ElectraConfig", embedding_size=8),
    "mobilebert": words("MobileBertModel", "MobileBertConfig", embedding_size=16, intra_bottleneck_size=16,
                        true_hidden_size=16),
    "squeezebert": words("SqueezeBertModel", "SqueezeBertConfig", q_groups=2, k_groups=2, v_groups=2,
                         post_attention_groups=1, intermediate_groups=2, output_groups=2, embedding_size=16),
    "funnel": plain("FunnelModel", "FunnelConfig", ids, vocab_size=64, d_model=16, n_head=2, d_head=8, d_inner=32,
                    block_sizes=[1, 1], num_decoder_layers=1),
    "fnet": words("FNetModel", "FNetConfig"),
    "big_bird": words("BigBirdModel", "BigBirdConfig", attention_type="original_full"),
    "t5": plain("T5ForConditionalGeneration", "T5Config", pair, vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2,
                num_heads=2),
    "bart": plain("BartForConditionalGeneration", "BartConfig", pair, **STACK),
    "opt": words("OPTForCausalLM", "OPTConfig", ffn_dim=32, word_embed_proj_dim=16),
    "gpt_neo": words("GPTNeoForCausalLM", "GPTNeoConfig", num_layers=2, num_heads=2, window_size=4,
                     attention_types=[[["global", "local"], 1]]),
    "gpt_neox": words("GPTNeoXForCausalLM", "GPTNeoXConfig"),
    "bloom": plain("BloomForCausalLM", "BloomConfig", ids, vocab_size=64, hidden_size=16, n_layer=2, n_head=2),
    "falcon": words("FalconForCausalLM", "FalconConfig"),
    "mistral": words("MistralForCausalLM", "MistralConfig", num_key_value_heads=1, sliding_window=4),
    "qwen2": words("Qwen2ForCausalLM", "Qwen2Config", num_key_value_heads=1),
    "gemma": words("GemmaForCausalLM", "GemmaConfig", num_key_value_heads=1, head_dim=8),
    "phi": words("PhiForCausalLM", "PhiConfig"),
    "mixtral": words("MixtralForCausalLM", "MixtralConfig", num_key_value_heads=1, num_local_experts=2),
    "mamba": plain("MambaForCausalLM", "MambaConfig", ids, hidden_size=16, num_hidden_layers=2, vocab_size=64,
                   state_size=4),
    "rwkv": plain("RwkvForCausalLM", "RwkvConfig", ids, vocab_size=64, hidden_size=16, num_hidden_layers=2,
                  attention_hidden_size=16, intermediate_size=32, context_length=32),
    "deit": pictures("DeiTForImageClassification", "DeiTConfig"),
    "beit": pictures("BeitForImageClassification", "BeitConfig", use_relative_position_bias=True),
    "dinov2": pictures("Dinov2ForImageClassification", "Dinov2Config"),
    "swinv2": plain("Swinv2ForImageClassification", "Swinv2Config", picture, **STAGES),
    "mobilenet_v2": plain("MobileNetV2ForImageClassification", "MobileNetV2Config", picture, image_size=32,
                          depth_multiplier=0.35),
    "poolformer": plain("PoolFormerForImageClassification", "PoolFormerConfig", picture, hidden_sizes=[8, 16], depths=[1, 1],
                        num_encoder_blocks=2, patch_sizes=[7, 3], strides=[4, 2], padding=[2, 1]),
    "segformer": plain("SegformerForSemanticSegmentation", "SegformerConfig", picture, hidden_sizes=[8, 16], depths=[1, 1],
                       num_encoder_blocks=2, num_attention_heads=[1, 2], sr_ratios=[2, 1], patch_sizes=[7, 3], strides=[4, 2],
                       mlp_ratios=[2, 2], decoder_hidden_size=8),
    "mobilevit": plain("MobileViTForImageClassification", "MobileViTConfig", picture, image_size=32, patch_size=2,
                       hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32]),
    "hubert": plain("HubertModel", "HubertConfig", sound, **TINY, vocab_size=32, conv_dim=[8, 8], conv_stride=[5, 4],
                    conv_kernel=[10, 8], num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2),
    "whisper": plain(
        "WhisperForConditionalGeneration", "WhisperConfig",
        lambda b: {"input_features": torch.randn(b, 8, 40), "decoder_input_ids": torch.randint(1, 64, (b, 9))},
        **{k: v for k, v in STACK.items() if k != "max_position_embeddings"}, num_mel_bins=8, max_source_positions=20,
        max_target_positions=16,
    ),
}  # fmt: skip
