"""Tables of which only some rows are trained, alone and tied to an output layer."""

import copy
import pickle

import pytest
import torch
import transformers as hf
from tests.editing import models
from tests.editing.models import IDS, fingerprint
from torch import nn

import linkboy as lb
from linkboy.editing import replace_layer, surgery

FROZEN = torch.tensor([True, True, False, False, True])


def table(**options):
    return lb.PretrainedEmbedding(torch.arange(1.0, 16.0).view(5, 3), **{"freeze": FROZEN} | options)


@pytest.mark.parametrize("count", [8, 5, 3])
@pytest.mark.parametrize("freeze", [FROZEN, True, False])
def test_a_partly_frozen_table_is_resized_whole(count, freeze):
    model = nn.Sequential(table(freeze=freeze, padding_idx=0), nn.Linear(3, 2))
    before = model[0].weight.detach().clone()
    frozen = model[0].is_frozen.clone()
    with surgery(model, example=torch.tensor([[1, 2]])) as s:
        s.resize_embeddings(count)
    kept = min(count, 5)
    assert model[0].state_dict()["weight"].shape == (count, 3)
    assert torch.equal(model[0].weight[:kept], before[:kept])
    assert torch.equal(model[0].is_frozen[:kept], frozen[:kept])
    assert not model[0].is_frozen[5:].any()
    assert model[0].padding_idx == 0
    assert s.report.removed_keys == ()
    assert model(torch.tensor([[count - 1]])).shape == (1, 1, 2)


def test_its_optimizer_trains_the_new_rows_and_no_frozen_one():
    model = nn.Sequential(table(), nn.Linear(3, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.07, weight_decay=0.3)
    with surgery(model, example=torch.tensor([[1, 2]]), optimizer=optimizer) as s:
        s.resize_embeddings(8)
    before = model[0].weight.detach().clone()
    model(torch.arange(8)).sum().backward()
    optimizer.step()
    moved = (model[0].weight != before).all(dim=1)
    assert moved.tolist() == [False, False, True, True, False, True, True, True]


def test_a_part_of_such_a_table_is_not_resized_alone():
    model = nn.Sequential(table(), nn.Linear(3, 2))
    state = fingerprint(model)
    with pytest.raises(TypeError) as caught, surgery(model) as s:
        s.resize_embeddings(8, "0.trainable")
    assert str(caught.value) == ("'0.trainable' is a part of the PretrainedEmbedding '0', which is resized as a whole")
    assert fingerprint(model) == state


def only_new_words(model, name, example):
    """Add six words to a tied model and let these alone be trained."""
    with surgery(model, example=example) as s:
        s.resize_embeddings(70)
        s.replace(name, lambda old: lb.PretrainedEmbedding(old.weight, freeze=torch.arange(70) < 64))
    return s.report


TIED = {
    "gpt2": (models.gpt2, "transformer.wte"),
    "bert": (lambda: models.bert(hf.BertForMaskedLM), "bert.embeddings.word_embeddings"),
    "llama": (lambda: models.llama(tie_word_embeddings=True), "model.embed_tokens"),
    "t5": (models.t5, "shared"),
}


@pytest.mark.parametrize("family", TIED)
def test_new_words_are_trained_alone_in_a_tied_model_and_the_tie_is_kept(family, tmp_path):
    build, name = TIED[family]
    model, example = build()
    report = only_new_words(model, name, example)
    assert not [note for note in report.notes if "lost" in note or "shape" in note or "random" in note]
    assert [note for note in report.notes if "PretrainedEmbedding, and a model built from the config" in note]
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert torch.equal(head.weight, words.weight)
    before = words.weight.detach().clone()
    model.requires_grad_(False)
    words.trainable.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    ids = IDS.clone()
    ids[:, -1] = torch.tensor([66, 69])
    model(**dict.fromkeys(example, ids), labels=ids).loss.backward()
    optimizer.step()
    assert torch.equal(words.weight[:64], before[:64])
    assert not (words.weight[64:] == before[64:]).any()
    assert torch.equal(head.weight, words.weight)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    model.eval()
    with torch.no_grad():
        assert torch.equal(again(**example).logits, model(**example).logits)
        assert torch.equal(copy.deepcopy(model)(**example).logits, model(**example).logits)
        assert torch.equal(pickle.loads(pickle.dumps(model))(**example).logits, model(**example).logits)


def test_a_layer_that_reads_the_table_follows_when_it_is_resized_again():
    model, example = models.gpt2()
    only_new_words(model, "transformer.wte", example)
    with surgery(model, example=example) as s:
        s.resize_embeddings(72)
    assert model.lm_head.weight.shape == (72, 16)
    assert model.lm_head.out_features == model.config.vocab_size == 72
    assert (model.lm_head.in_features, model.lm_head.table[0]) == (16, model.transformer.wte)


def test_a_bias_of_the_output_stays_its_own():
    model = models.tagger()[0]
    bias = model.head.bias
    report = replace_layer(
        model, "embed", lambda old: lb.PretrainedEmbedding(old.weight, freeze=torch.arange(64) < 60), example=IDS
    )
    assert model.head.bias is bias
    assert report.outputs[0].difference == 0
    assert "tied again: embed.weight = head.weight, which head reads from embed.weight" in report.repairs
    assert model.everything[1] is model.head


def test_a_tie_ends_on_request_and_with_another_size():
    model, example = models.gpt2()
    old = model.lm_head
    replace_layer(model, "transformer.wte", lambda old: lb.PretrainedEmbedding(old.weight), example=example, tie=False)
    assert model.lm_head is old
