"""Models of transformers, built from configs: depth, numbering, ties, caches, saving and loading again."""

import copy
import inspect
import sys
import tempfile

import pytest
import torch
import transformers as hf
from tests.editing import models
from tests.editing.models import IDS, outputs
from torch import nn

from linkboy.editing import insert_layer, keep_layers, remove_layer, replace_layer, surgery

SESSION = sys.modules["linkboy.editing.surgery"]  # the file; the package has the class under this name


def reloaded(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder).eval()


def largest_difference(one, other, example):
    pairs = zip(outputs(one, example), outputs(other, example), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def stepwise(model, ids):
    """Logits of prefill and single tokens through the cache: written for the test, apart from the one in the source."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    cache, parts = None, []
    with torch.no_grad():
        for chunk in (ids[:, :4], *ids[:, 4:].split(1, dim=1)):
            out = model(chunk, **{name: cache}, use_cache=True)
            cache = out[name]
            parts.append(out.logits)
    return torch.cat(parts, dim=1)


LLAMA_EDITS = {"last": [0, 1], "first": [2, 3], "middle": [0, 3], "duplicate": [0, 1, 1, 2, 3], "swap": [0, 2, 1, 3]}


OTHER_DECODERS = [pytest.param(build, marks=pytest.mark.slow) for build in (models.gpt2, models.qwen3, models.gemma3)]


@pytest.mark.parametrize("build", [models.llama, *OTHER_DECODERS], ids=lambda build: build.__name__)
@pytest.mark.parametrize("edit", LLAMA_EDITS)
def test_cached_and_full_logits_agree_after_every_edit_of_the_stack(build, edit):
    torch.manual_seed(0)
    model, example = build()
    stack = "transformer.h" if build is models.gpt2 else "model.layers"
    report = keep_layers(model, stack, LLAMA_EDITS[edit], example=example)
    with torch.no_grad():
        full = model(IDS).logits
    assert full.abs().max() > 0.2  # large enough to matter
    assert (stepwise(model, IDS) - full).abs().max() < 1e-4
    assert report.cache_difference < 1e-4
    assert largest_difference(model, reloaded(model), example) == 0


def test_the_same_edit_by_hand_leaves_a_cache_that_disagrees():
    """The trap: without renumbering, dropping the first two layers of a Llama is silently wrong."""
    torch.manual_seed(0)
    model, _ = models.llama()
    del model.model.layers[:2]
    with torch.no_grad():
        assert (stepwise(model, IDS) - model(IDS).logits).abs().max() > 0.5


def test_a_layer_object_in_two_positions_is_copied_or_reported():
    torch.manual_seed(0)
    model, example = models.llama()
    report = keep_layers(model, "model.layers", [0, 1, 1, 2], copy=False, example=example)
    assert model.model.layers[1] is model.model.layers[2]
    assert any("one LlamaDecoderLayer object is in two positions" in warning for warning in report.notes)
    assert any("token by token, with its cache" in warning for warning in report.notes)
    assert report.cache_difference > 0.01
    model, example = models.llama()
    keep_layers(model, "model.layers", [0, 1, 1, 2], example=example)
    assert len({id(layer) for layer in model.model.layers}) == 4
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, model.model.layers[2].mlp.up_proj.weight)


def test_dropped_layers_of_a_decoder_without_mended_numbers_are_refused(monkeypatch):
    """A planted fault in the repair is found by the proof, and the model is as it was."""
    torch.manual_seed(0)
    model, example = models.llama()
    monkeypatch.setattr(SESSION, "renumber", lambda *_: None)
    with pytest.raises(RuntimeError) as caught:
        keep_layers(model, "model.layers", [2, 3], example=example)
    assert str(caught.value).endswith("IndexError: list index out of range")
    monkeypatch.setattr(SESSION, "set_depth", lambda *_: None)  # now it would run, and be wrong
    with pytest.raises(RuntimeError) as caught:
        keep_layers(model, "model.layers", [2, 3], example=example)
    assert str(caught.value).startswith("token by token, with its cache, the edited model's outputs differ by ")
    assert len(model.model.layers) == model.config.num_hidden_layers == 4


OF_TRANSFORMERS = [
    name if name in ("bert", "t5", "gemma3") else pytest.param(name, marks=pytest.mark.slow)
    for name in models.STACKS
    if name not in ("transformer", "residual", "tagger")
]


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_a_dropped_layer_is_gone_from_every_config_and_saving_keeps_the_model(name):
    torch.manual_seed(0)
    build, stacks = models.STACKS[name]
    model, example = build()
    for stack in stacks:
        report = remove_layer(model, f"{stack}.1", example=example)
        others = [warning for warning in report.notes if "stale" not in warning]
        assert not others
        lists = getattr(model.config, "layer_types", None)
        assert lists is None or len(lists) == 3
    assert largest_difference(model, reloaded(model), example) == 0
    for stack in stacks:
        for position, layer in enumerate(model.get_submodule(stack)):
            for part in layer.modules():
                assert getattr(part, "layer_idx", position) in (position, None)
                assert getattr(part, "layer_id", position) == position


def test_bert_cut_to_three_layers_equals_the_hidden_state_it_ended_in():
    torch.manual_seed(0)
    model, example = models.bert()
    with torch.no_grad():
        expected = model(**example, output_hidden_states=True).hidden_states[3]
    with surgery(model, example=example) as s:
        s.truncate("encoder.layer.2")
    assert torch.equal(outputs(model, example)[0], expected)
    assert model.config.num_hidden_layers == 3
    assert s.report.edits == ("truncated after encoder.layer.2: 1 module dropped",)


def test_a_number_that_equals_the_depth_by_chance_is_left_alone():
    model, example = models.smollm3()
    assert model.config.no_rope_layer_interval == 4
    remove_layer(model, "model.layers.3", example=example)
    assert model.config.no_rope_layer_interval == 4
    assert model.config.no_rope_layers == [1, 1, 1]


def test_bert_numbers_are_mended_after_a_middle_layer_went():
    model, example = models.bert()
    remove_layer(model, "encoder.layer.1", example=example)
    assert [layer.attention.self.layer_idx for layer in model.encoder.layer] == [0, 1, 2]


def test_t5_keeps_its_word_order_when_the_first_block_goes():
    torch.manual_seed(0)
    model, example = models.t5()
    flipped = IDS.flip(1)

    def order_matters():
        with torch.no_grad():
            encoder = model.encoder
            return (encoder(IDS).last_hidden_state.flip(1) - encoder(flipped).last_hidden_state).abs().max()

    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    assert order_matters() > 1e-2
    report = remove_layer(model, "encoder.block.0", example=example)
    assert order_matters() > 1e-2
    assert model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias is bias
    assert [block.layer[0].SelfAttention.has_relative_attention_bias for block in model.encoder.block] == [
        True,
        False,
        False,
    ]
    assert "layer.0.SelfAttention.relative_attention_bias of the first layer" in report.repairs[0]
    assert largest_difference(model, reloaded(model), example) == 0


def test_t5_by_hand_loses_its_word_order():
    torch.manual_seed(0)
    model, _ = models.t5()
    del model.encoder.block[0]
    with torch.no_grad():
        difference = model.encoder(IDS).last_hidden_state.flip(1) - model.encoder(IDS.flip(1)).last_hidden_state
    assert difference.abs().max() < 1e-5


def test_t5_reordered_and_duplicated_has_one_bias_and_it_is_first():
    torch.manual_seed(0)
    model, example = models.t5()
    keep_layers(model, "encoder.block", [1, 0, 0, 2], example=example)
    attention = [block.layer[0].SelfAttention for block in model.encoder.block]
    assert [hasattr(part, "relative_attention_bias") for part in attention] == [True, False, False, False]
    assert largest_difference(model, reloaded(model), example) == 0


def test_t5_has_three_configs_and_each_stack_its_own_fields():
    model, example = models.t5()
    remove_layer(model, "encoder.block.2", example=example)
    sizes = (model.config.num_layers, model.config.num_decoder_layers, model.encoder.config.num_layers)
    assert sizes == (3, 4, 3)
    assert model.decoder.config.num_layers == 4
    remove_layer(model, "decoder.block.0", example=example)
    assert (model.config.num_layers, model.config.num_decoder_layers) == (3, 3)
    assert model.decoder.config.num_layers == 3


def test_whisper_layers_of_one_side_do_not_change_the_other():
    model, example = models.whisper()
    keep_layers(model, "model.decoder.layers", [0, 3], example=example)
    assert (model.config.encoder_layers, model.config.decoder_layers) == (4, 2)
    keep_layers(model, "model.encoder.layers", [1], example=example)
    assert (model.config.encoder_layers, model.config.decoder_layers) == (1, 2)


def test_gpt2_arithmetic_on_the_layer_number_is_reported():
    torch.manual_seed(0)
    model, example = models.gpt2(scale_attn_by_inverse_layer_idx=True)
    report = remove_layer(model, "transformer.h.1", example=example)
    assert any(
        warning.startswith("transformer.h.1.attn.scaling is ")
        and "and a model built from the config has 0.1767766952966369 (1 more like it)" in warning
        for warning in report.notes
    )


def test_the_pooler_of_bert_becomes_none_and_the_encoder_cannot_go():
    model, example = models.bert()
    report = remove_layer(model, "pooler", example=example)
    assert model.pooler is None
    assert "pooler is gone: the forward runs without it" in report.repairs
    assert (
        "pooler.dense.weight, pooler.dense.bias would be filled at random when the model is saved and loaded again"
        in report.notes
    )
    with pytest.raises(RuntimeError) as caught:
        remove_layer(model, "encoder", example=example)
    assert str(caught.value) == (
        "the edited model does not run: encoder (Identity) got f32[2, 10, 16] from embeddings.dropout: "
        "TypeError: Identity.forward() got an unexpected keyword argument 'attention_mask'"
    )
    assert isinstance(model.encoder, hf.models.bert.modeling_bert.BertEncoder)


def test_a_new_embedding_of_gpt2_takes_its_tied_head_along():
    model, example = models.gpt2()
    report = replace_layer(model, "transformer.wte", nn.Embedding(300, 16), example=example)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.out_features == model.config.vocab_size == 300
    assert report.outputs[0].after == "f32[2, 10, 300]"
    labels = torch.full_like(IDS, 299)
    assert model(IDS, labels=labels).loss.isfinite()
    assert largest_difference(model, reloaded(model), example) == 0


def test_a_new_head_of_gpt2_stays_tied_or_is_untied_on_request():
    model, example = models.gpt2()
    report = replace_layer(model, "lm_head", nn.Linear(16, 64, bias=False), example=example)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert report.repairs[0] == (
        "tied again: transformer.wte.weight = lm_head.weight (the new module's own values were dropped)"
    )
    own = nn.Linear(16, 64, bias=False)
    report = replace_layer(model, "lm_head", own, tie=False, example=example)
    assert model.lm_head is own
    assert model.lm_head.weight is not model.transformer.wte.weight
    assert model.config.tie_word_embeddings is False
    assert "the tie transformer.wte.weight = lm_head.weight has ended, as asked" in report.notes
    assert largest_difference(model, reloaded(model), example) == 0


def test_a_head_with_other_outputs_ends_the_tie_and_says_so():
    model, example = models.gpt2()
    report = replace_layer(model, "lm_head", nn.Linear(16, 7, bias=False), example=example)
    assert model.lm_head.out_features == 7
    assert model.config.tie_word_embeddings is False
    assert (
        "the tie transformer.wte.weight = lm_head.weight has ended, as the new lm_head.weight has the shape (7, 16)"
        in report.notes
    )


def test_a_tied_head_with_a_bias_does_not_follow_by_half():
    model, example = models.bert(hf.BertForMaskedLM)
    with pytest.raises(ValueError) as caught:
        replace_layer(model, "bert.embeddings.word_embeddings", nn.Embedding(70, 16), example=example)
    assert str(caught.value) == (
        "cls.predictions.decoder.weight (64, 16) is tied to a tensor that now has the shape (70, 16) and cannot follow; "
        "resize_embeddings changes both together, replace(..., tie=False) ends the tie"
    )
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


@pytest.mark.parametrize("count", [70, 40])
def test_resized_embeddings_keep_old_rows_ties_bias_and_config(count):
    torch.manual_seed(0)
    model, example = models.bert(hf.BertForMaskedLM, pad_token_id=0)
    table, head = model.bert.embeddings.word_embeddings, model.cls.predictions
    nn.init.normal_(head.decoder.bias)
    old, bias = table.weight.detach().clone(), head.bias.detach().clone()
    with surgery(model, example=example) as s:
        s.resize_embeddings(count, generator=torch.Generator().manual_seed(0))
    kept = min(64, count)
    assert table.weight.shape == (count, 16)
    assert torch.equal(table.weight[:kept], old[:kept])
    assert head.decoder.weight is table.weight
    assert head.bias is head.decoder.bias
    assert torch.equal(head.bias[:kept], bias[:kept])
    assert not table.weight[0].any()
    assert (table.num_embeddings, head.decoder.out_features, model.config.vocab_size) == (count, count, count)
    assert outputs(model, example)[0].shape[-1] == count
    assert largest_difference(model, reloaded(model), example) == 0


def test_new_rows_have_the_mean_and_spread_of_the_old_without_the_padding_row():
    torch.manual_seed(0)
    table = nn.Embedding(2000, 3, padding_idx=1)
    with torch.no_grad():
        table.weight[:] = torch.randn(2000, 3) * torch.tensor([0.1, 1.0, 3.0]) + torch.tensor([5.0, 0.0, -2.0])
        table.weight[1] = 0
    with surgery(nn.Sequential(table)) as s:
        s.resize_embeddings(22000)
    new = table.weight[2000:].detach()
    torch.testing.assert_close(new.mean(0), torch.tensor([5.0, 0.0, -2.0]), rtol=0, atol=0.15)
    torch.testing.assert_close(new.std(0), torch.tensor([0.1, 1.0, 3.0]), rtol=0.05, atol=0)


def test_an_untied_head_over_the_same_words_is_resized_too():
    model, example = models.llama(tie_word_embeddings=False)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    with surgery(model, example=example) as s:
        s.resize_embeddings(80, fill=nn.init.zeros_)
    assert model.lm_head.weight.shape == model.model.embed_tokens.weight.shape == (80, 16)
    assert not model.lm_head.weight[64:].any()
    assert model.vocab_size == model.model.vocab_size == model.config.vocab_size == 80
    assert largest_difference(model, reloaded(model), example) == 0


def test_a_resized_classifier_keeps_its_labels_and_says_so_in_the_config():
    torch.manual_seed(0)
    model, example = models.distilbert()
    model.config.id2label = {0: "bad", 1: "good", 2: "odd"}
    model.config.label2id = {"bad": 0, "good": 1, "odd": 2}
    old = model.classifier.weight.detach().clone()
    with surgery(model, example=example) as s:
        s.resize_head("classifier", 5)
    assert model.config.id2label == {0: "bad", 1: "good", 2: "odd", 3: "LABEL_3", 4: "LABEL_4"}
    assert model.config.label2id == {"bad": 0, "good": 1, "odd": 2, "LABEL_3": 3, "LABEL_4": 4}
    assert model.config.num_labels == model.num_labels == 5
    assert torch.equal(model.classifier.weight[:3], old)
    assert model(**example, labels=torch.tensor([4, 0])).loss.isfinite()
    assert largest_difference(model, reloaded(model), example) == 0


def test_a_config_in_the_callers_hands_is_left_alone_or_set_as_given():
    model, example = models.bert()
    remove_layer(model, "encoder.layer.0", example=example, config=None)
    assert model.config.num_hidden_layers == 4
    report = remove_layer(model, "encoder.layer.0", example=example, config={"num_hidden_layers": 2})
    assert model.config.num_hidden_layers == 2
    assert "BertConfig.num_hidden_layers: 4 -> 2, as given" in report.repairs


def test_a_depth_that_no_field_holds_is_a_warning():
    model, example = models.bert()
    model.config.num_hidden_layers = 9  # it was wrong before
    report = remove_layer(model, "encoder.layer.0", example=example)
    assert (
        "no field of BertConfig holds the old depth 4 of encoder.layer: saving and reloading may not rebuild the 3 layers "
        "there are now" in report.notes
    )
    assert any("would be filled at random when the model is saved and loaded again" in text for text in report.notes)


BACKBONE = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}


def test_the_stages_that_a_vision_backbone_names_follow_its_depth(tmp_path):
    model, example = hf.Dinov2Model(hf.Dinov2Config(**BACKBONE)).eval(), {"pixel_values": torch.ones(1, 3, 16, 16)}
    keep_layers(model, next(name for name, part in model.named_modules() if len(list(part.children())) == 4), [1, 3])
    assert model.config.stage_names == ["stem", "stage1", "stage2"]
    assert model.config.out_features == ["stage2"]
    model.save_pretrained(tmp_path)
    again = hf.Dinov2Model.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**example)[0], model(**example)[0])


def test_a_config_that_could_not_be_loaded_again_is_a_warning():
    model = hf.Dinov2Model(hf.Dinov2Config(**BACKBONE, out_features=["stage3", "stage4"])).eval()
    layers = next(name for name, part in model.named_modules() if len(list(part.children())) == 4)
    example = {"pixel_values": torch.ones(1, 3, 16, 16)}
    given = {"num_hidden_layers": 2, "stage_names": ["stem", "stage1", "stage2"]}
    report = keep_layers(model, layers, [1, 3], example=example, config=given)
    assert any(
        note.startswith("Dinov2Model could not be built again from its config: out_features must be a subset")
        for note in report.notes
    )


def test_a_stale_depth_rebuilds_random_layers_which_is_what_the_repair_prevents():
    torch.manual_seed(0)
    model, example = models.bert()
    del model.encoder.layer[3]
    assert largest_difference(model, reloaded(model), example) > 1e-3


def test_an_inserted_decoder_layer_gets_its_number_and_the_stack_its_depth():
    torch.manual_seed(0)
    model, example = models.llama()
    new = type(model.model.layers[0])(copy.deepcopy(model.config), layer_idx=0)
    report = insert_layer(model, "model.layers.1", new, example=example)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3, 4]
    assert model.model.layers[2] is new
    assert model.config.num_hidden_layers == 5
    assert report.cache_difference < 1e-4
    assert largest_difference(model, reloaded(model), example) == 0


def test_fake_runs_of_a_decoder_with_its_cache_work_on_the_meta_device():
    with torch.device("meta"):
        model, _ = models.llama()
    example = {"input_ids": IDS.to("meta")}
    report = remove_layer(model, "model.layers.0", example=example)
    assert report.checked == "run on shapes (with dtypes, devices and ids), not on values"
    assert report.outputs[0].after == "f32[2, 10, 64]"
    assert model.config.num_hidden_layers == 3


def test_what_a_config_did_not_rebuild_before_the_edit_is_no_news_after_it():
    """An adapter around a layer is in no config; that saving loses it is not the edit's doing."""
    model, example = models.bert()

    class Adapted(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.extra = base, nn.Linear(base.in_features, base.out_features)

        def forward(self, x):
            return self.base(x) + self.extra(x)

    for layer in model.encoder.layer:
        layer.attention.self.query = Adapted(layer.attention.self.query)
    report = keep_layers(model, "encoder.layer", [0, 2], example=example)
    assert not [note for note in report.notes if "random" in note or "loaded" in note]
    report = keep_layers(model, "encoder.layer", [0], example=example, config=None)
    assert report.notes[1:] == ()
    report = replace_layer(model, "encoder.layer.0.output.dense", nn.Sequential(nn.Linear(32, 16)))
    assert any("encoder.layer.0.output.dense.0.weight" in note for note in report.notes)


class Layer(nn.Module):
    """The first layer computes a bias that all others are handed, and has no flag that says so."""

    def __init__(self, number):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        if number == 0:
            self.bias_of_all = nn.Linear(8, 8)

    def forward(self, x, bias=None):
        bias = self.bias_of_all(x) if bias is None else bias
        return self.inner(x).tanh() + bias, bias


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Layer(number) for number in range(4)])

    def forward(self, x):
        bias = None
        for layer in self.layers:
            x, bias = layer(x, bias)
        return x


@pytest.mark.parametrize("kept", [[1, 2, 3], [2, 0, 1], [3], [1, 0]])
def test_what_the_first_layer_alone_has_moves_where_the_run_misses_it(kept):
    torch.manual_seed(0)
    model, x = Stack(), torch.randn(2, 8)
    owned, layers = model.layers[0].bias_of_all, list(model.layers)
    optimizer = torch.optim.AdamW(model.parameters())
    report = keep_layers(model, "layers", kept, example=x, optimizer=optimizer)
    assert [hasattr(layer, "bias_of_all") for layer in model.layers] == [True, *[False] * (len(kept) - 1)]
    assert model.layers[0].bias_of_all is owned
    assert "bias_of_all of the first layer of layers moved to the new first layer" in report.repairs
    expected, bias = x, owned(x)
    for number in kept:
        expected = layers[number].inner(expected).tanh() + bias
    assert torch.equal(model(x), expected)
    held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    assert held == {id(tensor) for tensor in model.parameters()}


def test_a_layer_that_misses_what_no_first_layer_had_is_refused():
    model = Stack()
    del model.layers[0].bias_of_all
    with pytest.raises(RuntimeError, match="'Layer' object has no attribute 'bias_of_all'"):
        keep_layers(model, "layers", [1, 2], example=torch.ones(1, 8))
    model = Stack()
    with pytest.raises(RuntimeError):
        replace_layer(model, "layers.0", nn.Linear(8, 8), example=torch.ones(1, 8))
    assert [hasattr(layer, "bias_of_all") for layer in model.layers] == [True, False, False, False]


@pytest.mark.skipif(not hasattr(hf, "WavLMModel"), reason="WavLM")
def test_wavlm_keeps_its_position_bias_when_the_first_layer_goes(tmp_path):
    sizes = {key: value for key, value in models.TINY.items() if key not in ("vocab_size", "max_position_embeddings")}
    convolutions = {"conv_dim": (8, 8), "conv_stride": (4, 2), "conv_kernel": (8, 2), "num_feat_extract_layers": 2}
    places = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0}
    model = hf.WavLMModel(hf.WavLMConfig(**sizes, **convolutions, **places)).eval()
    example = {"input_values": torch.linspace(-9, 9, 800).reshape(2, 400).sin()}
    keep_layers(model, "encoder.layers", [2, 3], example=example)
    model.save_pretrained(tmp_path)
    again = hf.WavLMModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**example).last_hidden_state, model(**example).last_hidden_state)
