"""Configs of models in parts: stages, backbones, and an encoder and a decoder of one class."""

import pytest
import torch

import linkboy as lb

hf = pytest.importorskip("transformers")
IDS = torch.arange(6)[None] + 3
PICTURE = torch.ones(1, 3, 32, 32)
SMALL = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}

STAGES = {
    "ResNet": (
        lambda: hf.ResNetModel(
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[2, 3], layer_type="basic")
        ),
        "encoder.stages.1.layers", [0, 2], {"pixel_values": PICTURE}, "depths", [2, 2],
    ),
    "Swin": (
        lambda: hf.SwinModel(
            hf.SwinConfig(
                image_size=32, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4, drop_path_rate=0.0
            )
        ),
        "encoder.layers.0.blocks", [0], {"pixel_values": PICTURE}, "depths", [1, 2],
    ),
    "Funnel": (
        lambda: hf.FunnelModel(
            hf.FunnelConfig(
                vocab_size=32, block_sizes=[2, 2], num_decoder_layers=1, d_model=8, n_head=2, d_head=4, d_inner=16
            )
        ),
        "encoder.blocks.0", [1], {"input_ids": IDS}, "block_sizes", [1, 2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", STAGES)
def test_the_depth_of_one_stage_follows(family, tmp_path):
    make, stack, kept, example, field, depths = STAGES[family]
    model = make().eval()
    report = lb.keep_layers(model, stack, kept, example=example)
    assert list(getattr(model.config, field)) == depths
    assert not [note for note in report.notes if "optimizer" not in note]
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(**example).last_hidden_state, model(**example).last_hidden_state)


@pytest.mark.parametrize(
    ("kept", "features"),
    [([0, 1, 3], ["stage2", "stage3"]), ([0, 1, 2], ["stage2"]), ([0, 2], ["stage2"]), ([1, 3], ["stage1", "stage2"])],
)
def test_a_backbone_returns_the_layers_that_it_returned(kept, features):
    small = SMALL | {"image_size": 32, "patch_size": 8}
    model = hf.Dinov2Backbone(hf.Dinov2Config(**small, out_features=["stage2", "stage4"])).eval()
    lb.keep_layers(model, "encoder.layer", kept, example={"pixel_values": PICTURE})
    assert model.config.out_features == features
    assert len(model(PICTURE).feature_maps) == len(features)


def encoder_decoder():
    sides = hf.BertConfig(**SMALL, vocab_size=32), hf.BertConfig(**SMALL, vocab_size=32)
    return hf.EncoderDecoderModel(config=hf.EncoderDecoderConfig.from_encoder_decoder_configs(*sides)).eval()


@pytest.mark.parametrize(
    ("stack", "depths"), [("encoder.encoder.layer", (2, 4)), ("decoder.bert.encoder.layer", (4, 2))]
)
def test_only_the_config_of_the_side_that_was_cut_follows(stack, depths, tmp_path):
    model, example = encoder_decoder(), {"input_ids": IDS, "decoder_input_ids": IDS}
    lb.keep_layers(model, stack, [1, 3], example=example)
    assert (model.config.encoder.num_hidden_layers, model.config.decoder.num_hidden_layers) == depths
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(**example).logits, model(**example).logits)


def test_the_vocabulary_of_one_side_leaves_the_other_alone(tmp_path):
    model, example = encoder_decoder(), {"input_ids": IDS, "decoder_input_ids": IDS}
    with lb.surgery(model, example=example) as edit:
        edit.resize_embeddings(40)
    assert (model.config.encoder.vocab_size, model.config.decoder.vocab_size) == (40, 32)
    assert model(**example).logits.shape == (1, 6, 32)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(**example).logits, model(**example).logits)
