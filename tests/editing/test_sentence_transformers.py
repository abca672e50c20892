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
from linkboy.editing import insert_layer, keep_layers, remove_layer, replace_layer

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


def test_no_file_of_the_room_imports_transformers():
    for path in Path(linkboy.__file__).parent.joinpath("surgery").glob("*.py"):
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
