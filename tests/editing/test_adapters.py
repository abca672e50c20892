"""Models below adapters of peft: the base is edited, and the adapter is kept, saved, loaded and merged."""

import copy

import pytest
import torch
import transformers as hf
from tests.editing import models
from tests.editing.models import IDS, fingerprint
from torch import nn

from linkboy.editing import keep_layers, replace_layer, surgery

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # what peft says of saving is not the subject
EXAMPLE = {"input_ids": IDS}
LAYERS = {"llama": "base_model.model.model.layers", "bert": "base_model.model.bert.encoder.layer"}


def trained(model):
    """Give every tensor of an adapter values, as training would; new ones are zero and show nothing."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_", "ia3_", "modules_to_save")):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


def lora(**options):
    sizes = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], "r": 2}
    return trained(peft.get_peft_model(models.llama()[0], peft.LoraConfig(**sizes | options)))


def classifier(**options):
    base = models.bert(hf.BertForSequenceClassification, num_labels=3)[0]
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=2, **options)
    return trained(peft.get_peft_model(base, config))


def ia3():
    config = peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    return trained(peft.get_peft_model(models.llama()[0], config))


def logits(model):
    with torch.no_grad():
        return model(**EXAMPLE).logits


def check_saved_and_merged(model, folder):
    """The adapter is loaded onto the edited base, saved by itself, and merged into it."""
    model.save_pretrained(folder / "adapter")
    base = copy.deepcopy(model).unload()
    base.save_pretrained(folder / "base")
    again = type(base).from_pretrained(folder / "base").eval()
    loaded = peft.PeftModel.from_pretrained(again, folder / "adapter").eval()
    assert torch.equal(logits(loaded), logits(model))
    merged = copy.deepcopy(model).merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)


def about_saving(report):
    return [note for note in report.notes if "optimizer" not in note]


@pytest.mark.parametrize(
    ("options", "field", "now"),
    [
        ({"layers_to_transform": [1, 3], "layers_pattern": "layers"}, "layers_to_transform", [0, 1]),
        ({"rank_pattern": {"layers.3.self_attn.q_proj": 4}}, "rank_pattern", {"layers.1.self_attn.q_proj": 4}),
        (
            {"target_modules": ["model.layers.1.self_attn.q_proj", "model.layers.2.mlp.up_proj", "v_proj"]},
            "target_modules",
            {"model.layers.0.self_attn.q_proj", "v_proj"},
        ),
    ],
    ids=["layers", "ranks", "names"],
)
def test_numbers_of_layers_in_the_config_of_an_adapter_follow(options, field, now, tmp_path):
    model = lora(**options)
    report = keep_layers(model, LAYERS["llama"], [1, 3], example=EXAMPLE)
    assert getattr(model.peft_config["default"], field) == now
    assert not about_saving(report)
    check_saved_and_merged(model, tmp_path)


@pytest.mark.slow
def test_a_layer_that_is_repeated_keeps_a_copy_of_its_adapter(tmp_path):
    model = lora()
    report = keep_layers(model, LAYERS["llama"], [0, 1, 1, 3], example=EXAMPLE)
    assert not about_saving(report)
    check_saved_and_merged(model, tmp_path)


@pytest.mark.parametrize("edit", ["replace", pytest.param("resize", marks=pytest.mark.slow)])
def test_a_new_head_is_where_the_adapter_saves_it(edit, tmp_path):
    model = classifier()
    with surgery(model, example=EXAMPLE) as s:
        if edit == "replace":
            s.replace("base_model.model.classifier", nn.Linear(16, 5))
        else:
            s.resize_head("base_model.model.classifier", 5)
    assert "base_model.model.classifier.modules_to_save.default" in s.report.edits[0]
    assert type(model.base_model.model.classifier).__name__ == "ModulesToSaveWrapper"
    assert model.config.num_labels == 5
    assert logits(model).shape == (2, 5)
    check_saved_and_merged(model, tmp_path)


@pytest.mark.slow
def test_tables_that_an_adapter_saves_are_resized_with_the_original(tmp_path):
    model = lora(modules_to_save=["embed_tokens", "lm_head"])
    with surgery(model, example=EXAMPLE) as s:
        s.resize_embeddings(70)
    assert model.config.vocab_size == 70
    assert {p.shape[0] for n, p in model.named_parameters() if "embed" in n or "lm_head" in n} == {70}
    check_saved_and_merged(model, tmp_path)


def test_a_table_or_head_with_an_adapter_of_its_own_is_refused():
    model = lora(target_modules=["embed_tokens", "lm_head"])
    state = fingerprint(model)
    with pytest.raises(TypeError) as caught, surgery(model) as s:
        s.resize_embeddings(70)
    assert str(caught.value) == (
        "'base_model.model.model.embed_tokens' (Embedding) carries an adapter of peft, whose matrices have the old size; resize "
        "the model before the adapter is added, or after it is merged or unloaded"
    )
    with (
        pytest.raises(TypeError, match=r"'base_model.model.lm_head' \(Linear\) carries an adapter of peft"),
        surgery(model) as s,
    ):
        s.resize_head("base_model.model.lm_head", 70)
    assert fingerprint(model) == state


def test_prefixes_of_layers_in_one_tensor_are_refused():
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = peft.get_peft_model(models.llama()[0], config).eval()
    with pytest.raises(TypeError) as caught:
        keep_layers(model, "base_model.model.layers", [1, 3])
    assert str(caught.value) == (
        "'prompt_encoder.default' is a PrefixEncoder of peft, which keeps a prefix for each layer of base_model.model.layers in "
        "one tensor; edit the base model and make the prefixes again"
    )
    assert len(model.base_model.model.layers) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("build", "layers"), [(lora, "llama"), (classifier, "bert"), (ia3, "llama")])
@pytest.mark.parametrize("kept", [[1, 3], [0, 1], [3, 2, 0], [2]])
def test_layers_below_an_adapter_are_dropped_saved_loaded_and_merged(build, layers, kept, tmp_path):
    model = build()
    report = keep_layers(model, LAYERS[layers], kept, example=EXAMPLE)
    assert not about_saving(report)
    check_saved_and_merged(model, tmp_path)


@pytest.mark.slow
def test_the_base_of_an_adapted_layer_is_replaced_and_the_adapter_stays(tmp_path):
    model = lora()
    name = f"{LAYERS['llama']}.0.self_attn.q_proj.base_layer"
    report = replace_layer(model, name, nn.Linear(16, 16, bias=False), example=EXAMPLE)
    assert not about_saving(report)
    check_saved_and_merged(model, tmp_path)
