"""Explanations: exact shares that add up, honest changes where they cannot, and the places of n-grams in texts."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linkboy as lb
from linkboy.classify.encoding._features import END, START, NgramEncoder
from linkboy.classify.saved.explain import _words

TEXTS = st.lists(st.text("abAB 中国İΣ，é\u0301😀", max_size=12), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def ngram(tmp_path_factory, make_rows):
    out = tmp_path_factory.mktemp("explain") / "model"
    lb.train_classifier(make_rows(240), out, options=lb.TrainingOptions(epochs=4, batch_size=32))
    return lb.load_classifier(out)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory, make_rows):
    out = tmp_path_factory.mktemp("explain") / "cnn"
    lb.train_classifier(make_rows(120), out, options=lb.TrainingOptions(model="cnn", epochs=3, batch_size=16))
    return lb.load_classifier(out)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 4), st.booleans())
def test_the_ngrams_of_a_text_are_those_that_are_encoded_and_stand_where_they_say(texts, longest, words):
    encoder = NgramEncoder.fit(texts, longest=longest, words=words, min_df=1)
    for text in map(encoder.normalized, texts):
        found = encoder.ngrams_of(text)
        assert sorted({ngram.number for ngram in found}) == encoder.encode([text]).ids.tolist()
        for ngram in found:  # which sigma a lower-case one is depends on what stands behind it
            inside = ngram.text.strip(START + END).replace("ς", "σ")
            assert inside in text[slice(*ngram.span)].lower().replace("ς", "σ")


def test_shares_of_the_linear_model_add_up_and_equal_weight_times_weight(ngram):
    text = "球队 夺冠 球队 goal 77"
    explanation = ngram.explain([text], label="体育", against="财经").explanations[0]
    assert explanation.exact
    logits = ngram.logits([text])[0].double()
    numbers = [ngram.class_names.index(name) for name in ("体育", "财经")]
    assert explanation.log_odds == pytest.approx(float(logits[numbers[0]] - logits[numbers[1]]), abs=1e-9)
    assert explanation.base + sum(piece.log_odds for piece in explanation.pieces) == pytest.approx(explanation.log_odds)
    bias = ngram.model.bias.detach().double()
    assert explanation.base == pytest.approx(float(bias[numbers[0]] - bias[numbers[1]]), abs=1e-5)
    # One n-gram by hand: its weight over the norm of the text, times the difference of the two classes' weights.
    piece = next(piece for piece in explanation.pieces if piece.piece == "球队" and piece.kind == "characters")
    assert len(piece.spans) == 2
    assert [text[start:end] for start, end in piece.spans] == ["球队", "球队"]
    found = ngram.encoder.ngrams_of(text)
    counts = Counter(n.number for n in found)
    weights = {
        number: 1.0 if ngram.encoder.binary else (1 + math.log(count)) * float(ngram.encoder.idf[number])
        for number, count in counts.items()
    }
    number = next(n.number for n in found if n.text == "球队")
    row = ngram.model.bag.weight[number].detach().double()
    norm = math.sqrt(sum(weight * weight for weight in weights.values()))
    assert piece.log_odds == pytest.approx(weights[number] / norm * float(row[numbers[0]] - row[numbers[1]]), rel=1e-5)


def test_a_share_by_character_keeps_the_sum(ngram):
    explanation = ngram.explain(["  İstanbul goal 球队 "]).explanations[0]
    assert len(explanation.by_character()) == len(explanation.text)
    assert sum(explanation.by_character()) == pytest.approx(sum(piece.log_odds for piece in explanation.pieces))


def test_leaving_out_tells_the_change_of_the_log_odds(cnn):
    explanation = cnn.explain(["球队 goal 77"], label="体育", against="财经").explanations[0]
    assert not explanation.exact
    assert explanation.base is None
    assert {piece.piece for piece in explanation.pieces} == {"球", "队", "goal", "77"}

    def log_odds(text):
        logits = cnn.logits([text])[0].double()
        return float(logits[cnn.class_names.index("体育")] - logits[cnn.class_names.index("财经")])

    for piece in explanation.pieces:
        ((start, end),) = piece.spans
        without = explanation.text[:start] + explanation.text[end:]
        assert piece.log_odds == pytest.approx(log_odds(explanation.text) - log_odds(without), abs=1e-5)
    sizes = [abs(piece.log_odds) for piece in explanation.pieces]
    assert sizes == sorted(sizes, reverse=True)


def test_a_long_text_is_left_out_in_at_most_256_groups_that_cover_it(cnn):
    text = "球队 goal " * 300
    pieces = cnn.explain([text]).explanations[0].pieces
    assert len(pieces) <= 256
    covered = sorted(span for piece in pieces for span in piece.spans)
    assert covered[0][0] == 0
    assert covered[-1][1] == len(text.strip())


def test_words_are_cut_by_script():
    text = "Deep learning很好, 2nd हिन्दी!"
    assert [text[start:end] for start, end in _words(text)] == [
        "Deep",
        "learning",
        "很",
        "好",
        ",",
        "2nd",
        "हिन्दी",
        "!",
    ]


def test_a_text_without_pieces_is_explained_by_the_bias(ngram, cnn):
    explanation = ngram.explain([""]).explanations[0]
    assert list(explanation.pieces) == []
    assert explanation.base == pytest.approx(explanation.log_odds)
    assert list(cnn.explain([" "]).explanations[0].pieces) == []


def test_by_default_the_likeliest_is_held_against_the_runner_up(ngram):
    explanation = ngram.explain(["球队 夺冠"]).explanations[0]
    (label, probability), (against, other) = ngram.predict(["球队 夺冠"], top=2).top[0]
    assert (explanation.label, explanation.against) == (label, against)
    assert (explanation.probability, explanation.against_probability) == pytest.approx((probability, other))
    turned = ngram.explain(["球队 夺冠"], against=label).explanations[0]
    assert (turned.label, turned.against) == (against, label)
    assert turned.log_odds == pytest.approx(-explanation.log_odds)


def test_it_prints_the_pieces_and_the_rest(ngram, cnn):
    text = str(ngram.explain(["球队 夺冠 股市 大涨"]))
    for part in ("球队 夺冠 股市 大涨", "against", "log-odds", "others", "no piece (bias)", "add up to the log-odds"):
        assert part in text
    assert "such figures do not add up" in str(cnn.explain(["球队 夺冠"]))
    assert ngram.explain([]).to_dict() == {"explanations": []}


def test_what_cannot_be_explained_is_said(ngram):
    for keywords, message in (
        ({"label": "体毓"}, "label must be one of the 3 classes, got '体毓'"),
        ({"against": "sports"}, "against must be one of the 3 classes, got 'sports'; did you mean 'sport'?"),
        ({"label": "sport", "against": "sport"}, "against must be another class than label, got 'sport' for both"),
    ):
        with pytest.raises(ValueError) as caught:
            ngram.explain(["x"], **keywords)
        assert str(caught.value) == message
    with pytest.raises(TypeError) as caught:
        ngram.explain("x")
    assert str(caught.value) == "texts must be a list of strings, got one str; put it in brackets: explain([text])"
