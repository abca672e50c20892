"""What follows a resized table, a new head or a shorter stack; and what is refused because it could not follow."""

from collections import UserDict

import accelerate
import pytest
import torch
import transformers as hf
from tests.editing import models
from tests.editing.models import IDS
from torch import nn

from linkboy.editing import keep_layers, remove_layer, replace_layer, surgery


def resized(model, count, example=None):
    with surgery(model, example=example) as s:
        s.resize_embeddings(count)
    return s.report


def test_a_buffer_over_the_words_follows_the_config():
    config = hf.BartConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=64, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    model = hf.BartForConditionalGeneration(config).eval()
    model.final_logits_bias += torch.arange(64.0)
    report = resized(model, 70, {"input_ids": IDS, "decoder_input_ids": IDS})
    assert model.final_logits_bias.shape == (1, 70)
    assert torch.equal(model.final_logits_bias[0, :64], torch.arange(64.0))
    assert "final_logits_bias follows: (1, 64) -> (1, 70)" in report.repairs


def test_numbers_of_words_follow_wherever_a_fresh_model_would_have_the_new_one(tmp_path):
    model = hf.XLMWithLMHeadModel(hf.XLMConfig(vocab_size=64, emb_dim=16, n_layers=1, n_heads=2, pad_index=0)).eval()
    report = resized(model, 70, {"input_ids": IDS})
    assert (model.pred_layer.n_words, model.transformer.n_words) == (70, 70)
    assert "n_words of pred_layer: 64 -> 70" in report.repairs
    assert not [note for note in report.notes if "optimizer" not in note]
    model(input_ids=IDS, labels=IDS).loss.backward()  # it reshapes to n_words


def test_the_width_of_a_weight_over_the_words_follows():
    sizes = {
        "hidden_size": 16,
        "embedding_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
    }
    config = hf.MobileBertConfig(vocab_size=64, intra_bottleneck_size=8, true_hidden_size=8, **sizes)
    model = hf.MobileBertForMaskedLM(config).eval()
    report = resized(model, 70, {"input_ids": IDS})
    dense = model.cls.predictions.dense
    assert (dense.in_features, dense.weight.shape) == (70, (8, 70))
    assert not [note for note in report.notes if "optimizer" not in note]


def test_the_bias_of_an_untied_output_follows_and_can_be_loaded(tmp_path):
    model, example = models.bert(hf.BertForMaskedLM, tie_word_embeddings=False)
    resized(model, 70, example)
    model.save_pretrained(tmp_path)
    again = hf.BertForMaskedLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**example).logits, model(**example).logits)


@pytest.mark.parametrize("example", [True, False])
def test_a_head_of_several_layers_sets_the_number_of_labels(example):
    model, given = models.bert(hf.BertForSequenceClassification, num_labels=3)
    head = nn.Sequential(nn.Dropout(), nn.Linear(16, 5), nn.Identity())
    replace_layer(model, "classifier", head, example=given if example else None)
    assert model.config.num_labels == model.num_labels == 5


class Squashed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 5)

    def forward(self, x):
        return self.inner(x).tanh()


def test_the_run_shows_the_number_of_labels_of_any_other_head():
    model, example = models.bert(hf.BertForSequenceClassification, num_labels=3)
    replace_layer(model, "classifier", Squashed(), example=example)
    assert model.config.num_labels == 5


class Classes(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_classes, self.body, self.head = 10, nn.Linear(8, 8), nn.Linear(8, 10)
        self.other = nn.Identity()
        self.other.num_classes = 10

    def forward(self, x):
        return self.head(self.other(self.body(x)))


def test_the_number_of_classes_beside_a_head_follows_and_others_do_not():
    model = Classes()
    with surgery(model, example=torch.ones(1, 8)) as s:
        s.resize_head("head", 5)
    assert (model.num_classes, model.other.num_classes) == (5, 10)
    assert "num_classes of the model: 10 -> 5" in s.report.repairs


def mixture(**options):
    sizes = {
        "num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
        "moe_intermediate_size": 8, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
        "qk_nope_head_dim": 4, "first_k_dense_replace": 2,
    }  # fmt: skip
    return hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(**models.TINY | sizes | options)).eval(), {"input_ids": IDS}


def test_a_number_of_leading_layers_follows_the_layers_kept():
    model, example = mixture()
    report = keep_layers(model, "model.layers", [1, 2, 3], example=example)
    assert model.config.first_k_dense_replace == 1
    assert not [note for note in report.notes if "random" in note]


def test_an_order_that_the_config_cannot_describe_is_noted():
    model, example = mixture()
    report = keep_layers(model, "model.layers", [2, 0, 3], example=example)
    assert model.config.first_k_dense_replace == 2
    assert (
        "DeepseekV3Config.first_k_dense_replace cannot describe the new order of model.layers: saving and reloading may fail"
        in report.notes
    )


class Words(nn.Module):
    """A table under another name."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, ids):
        return self.rows[ids]


def test_a_tie_whose_owner_has_nothing_to_share_is_refused_or_ended_on_request():
    model, example = models.gpt2()
    words = Words(model.transformer.wte.weight.detach().clone())
    with pytest.raises(ValueError) as caught:
        replace_layer(model, "transformer.wte", words, example=example)
    assert str(caught.value) == (
        "transformer.wte.weight = lm_head.weight are tied, and the new transformer.wte (Words) has no "
        "'weight' to share; replace(..., tie=False) ends the tie"
    )
    assert model.lm_head.weight is model.transformer.wte.weight
    report = replace_layer(model, "transformer.wte", words, example=example, tie=False)
    assert report.outputs[0].difference == 0


def test_a_model_whose_weights_are_elsewhere_is_refused_for_that_reason():
    model, example = models.llama()
    accelerate.cpu_offload(model, torch.device("cpu"))
    with pytest.raises(
        TypeError, match="offloaded by accelerate, whose hooks keep its weights elsewhere; edit the model"
    ):
        keep_layers(model, "model.layers", [2, 3], example=example)
    accelerate.hooks.remove_hook_from_submodules(model)
    keep_layers(model, "model.layers", [2, 3], example=example)


def test_hooks_that_move_inputs_stay_with_the_layers_and_go_to_their_successors():
    model, example = models.llama()
    accelerate.hooks.attach_align_device_hook(model, execution_device="cpu")
    hooked = model.model.layers[3].mlp.up_proj._hf_hook
    with surgery(model, example=example) as s:
        s.keep_layers("model.layers", [1, 3, 3])
        s.replace("model.layers.1.mlp.up_proj", nn.Linear(16, 32, bias=False))
    assert model.model.layers[1].mlp.up_proj._hf_hook is hooked
    assert "AlignDevicesHook of accelerate carried over to the new model.layers.1.mlp.up_proj" in s.report.repairs
    before = model(**example).logits
    accelerate.hooks.remove_hook_from_submodules(model)
    assert torch.equal(model(**example).logits, before)


@pytest.mark.filterwarnings("ignore")  # torch warns, in several ways, that its quantisation will move
def test_a_cache_that_differs_before_the_edit_refuses_no_edit():
    """Dynamic quantisation scales by batch, so that steps and a full pass differ without any edit."""
    model, example = models.llama()
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    report = keep_layers(model, "model.layers", [0, 3], example=example)
    assert report.cache_difference > 1e-4
    assert report.cache_difference_before > 1e-4
    assert "before the edit)" in str(report)


class Writes(nn.Sequential):
    """Writes its results into the batch, as a SentenceTransformer does."""

    def forward(self, batch):
        for layer in self:
            batch["x"] = layer(batch["x"])
        return batch


@pytest.mark.parametrize("kind", [dict, UserDict, hf.BatchEncoding])
@pytest.mark.parametrize("alone", [True, False])
def test_a_batch_is_copied_with_its_container_and_compared(kind, alone):
    x = torch.ones(1, 4)
    batch = kind({"x": x})
    report = remove_layer(Writes(nn.Linear(4, 4), nn.Softmax(-1)), "1", example=batch if alone else (batch,))
    assert list(batch) == ["x"]
    assert batch["x"] is x
    assert report.outputs[0].name == "x"
    assert report.outputs[0].difference > 0


def test_arguments_kept_by_name_follow_the_modules_of_a_stack():
    model = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.GELU())
    model.module_kwargs = {"0": [], "2": ["task"]}
    remove_layer(model, "1")
    assert model.module_kwargs == {"0": [], "1": ["task"]}


def test_a_transaction_that_was_dropped_refuses_no_later_one():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    surgery(model).__enter__()
    assert len(remove_layer(model, "1").edits) == 1


def test_a_part_that_was_replaced_is_compared_with_its_own_config():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = models.bert()[0]

    model, other = Outer(), models.bert()[0]
    other.config.num_hidden_layers = 5
    report = replace_layer(model, "encoder", other)
    assert [note for note in report.notes if "encoder.layer.4" in note and "random" in note]
