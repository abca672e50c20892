"""The pages in Chinese: one table that lacks no sentence, and pages that use it."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from linkboy._language import LANGUAGES, chosen_language, sentences, translate, translate_filled
from linkboy._page import environment, marked_code

ROOT = Path(__file__).parents[1]
SLOT = re.compile(r"%\((\w+)\)s")
TEMPLATES = sorted((ROOT / "src/linkboy").rglob("templates/*.html")) + sorted(
    (ROOT / "src/linkboy/_templates").glob("*.html")
)


def _constant(messages):
    """The keys of one call; `None` stands for one that is computed."""
    return [message for message in ((messages,) if isinstance(messages, str) else messages or ()) if message]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: f"{path.parents[1].name}/{path.name}")
def test_the_table_holds_every_sentence_of_a_template(template):
    found = environment("linkboy.doctor").extract_translations(template.read_text("utf-8"))
    asked = {message for _, _, messages in found for message in _constant(messages)}
    assert asked - set(sentences()) == set()


def test_the_table_is_chinese_and_keeps_every_slot():
    assert len(sentences()) > 80
    for english, chinese in sentences().items():
        assert set(SLOT.findall(english)) == set(SLOT.findall(chinese)), english
        assert re.search(r"[\u3000-\u9fff\uff00-\uffef]", chinese), english
        assert chinese % dict.fromkeys(SLOT.findall(chinese), "x")  # a bare % would raise


def test_no_key_stands_twice():
    text = files("linkboy").joinpath("_templates/zh.json").read_text("utf-8")
    pairs = json.loads(text, object_pairs_hook=list)
    assert len(pairs) == len(dict(pairs))


@pytest.mark.parametrize(("lang", "path"), [("en", "docs/doctor.md"), ("zh", "docs/zh/doctor.md")])
def test_every_word_of_the_doctor_has_the_paragraph_of_its_page(lang, path):
    from linkboy.doctor._finish import WORDS

    page = (ROOT / path).read_text("utf-8")
    found = re.findall(r"^#### (\S+)\n\n(.+?)\n(?=\n|\Z)", page, re.MULTILINE | re.DOTALL)
    paragraphs = {word: " ".join(text.split("\n")) for word, text in found}
    assert set(WORDS) == set(paragraphs)
    assert {word: sentences(lang).get(f"#{word}") for word in paragraphs} == paragraphs
    assert lang == "zh" or sentences("en").keys() == {f"#{word}" for word in WORDS}


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_environment_chooses_the_language(monkeypatch, variables, language):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert chosen_language() == language
    assert [chosen_language(lang) for lang in LANGUAGES] == list(LANGUAGES)


def test_another_language_is_refused():
    with pytest.raises(ValueError, match="lang"):
        chosen_language("fr")


def test_a_sentence_is_translated_with_its_values_and_data_stays():
    assert translate("Fix:", "en") == "Fix:"
    assert translate("Fix:", "zh") == "改法："
    assert translate_filled("7 steps watched", "en") == "7 steps watched"
    assert translate_filled("Adam 0.1, 3 steps", "zh") == "Adam 0.1，3 步"
    gain = "macro-F1 of the judged rows 50.00% -> 60.00%, standard error of the gain 1.00%"
    prior = f"class priors: 0.5 * log(prior) is subtracted from each logit, chosen by {gain}"
    assert translate_filled(prior, "zh") == (
        "类别先验：每个 logit 减去 0.5 * log(先验)，依据是评估行上的 macro-F1 50.00% -> 60.00%，增益的标准误 1.00%"
    )
    capped = "Net: 1,234 parameters, all trainable, 4.8 KiB; buffers 4, 16 B"
    assert translate_filled(capped, "zh") == "Net：1,234 个参数，全部可训练，4.8 KiB；缓冲区 4 个元素，16 B"
    assert translate_filled("a (file), with 100% of it", "zh") == "a (file), with 100% of it"
    with pytest.raises(KeyError):
        translate("a sentence of nobody", "zh")


def test_names_in_a_list_stay_and_phrases_and_counts_do_not():
    note = "not written, because write=True was not given: {}"
    said = {
        "decay, training": "decay, training",
        "a, a tensor and 1,000 more": "a, 未命名的张量（另有 1,000 个）",
        "argument 1": "参数 1",
        "'one, argument y', \"it's, a tensor\"": "'one, argument y', \"it's, a tensor\"",
        "'a' of 7 rows, 'b, c' of 1 row; did you mean 'd'?": "'a'（7 行）, 'b, c'（1 行；是不是 'd'？）",
    }
    assert {names: translate_filled(note.format(names), "zh").partition("：")[2] for names in said} == said


def test_code_in_a_paragraph_is_marked_and_escaped():
    assert str(marked_code("`a<b` & c")) == "<code>a&lt;b</code> &amp; c"


def test_the_doctors_page_is_chinese_where_the_language_is():
    import torch

    import linkboy as lb

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 3), torch.nn.Softmax(dim=1))
    batch = torch.randn(16, 8), torch.randint(3, (16,))
    check = lb.check_training(model, torch.nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1), batch)
    page = check.to_html("zh")
    assert '<html lang="zh">' in page
    assert marked_code(sentences()["#double-softmax"]) in page
    headings = re.findall(r"<(?:h2|h3|dt)>(.+?)</", re.sub(r"<span.*?</span>", "", page))
    words = {found.word for found in check.findings}
    assert [line for line in headings if not re.search(r"[\u4e00-\u9fff]", line) and line.strip() not in words] == []
    english = check.to_html("en")
    assert '<html lang="en">' in english
    assert marked_code(sentences("en")["#double-softmax"]) in english


def test_what_a_word_means_is_printed_in_both_languages(capsys):
    from linkboy.cli.app import run

    for lang in LANGUAGES:
        assert run(["doctor", "--explain", "lr-low", "--lang", lang]) == 0
        assert capsys.readouterr().out == sentences(lang)["#lr-low"] + "\n"
    assert run(["doctor", "--explain", "lr-lov"]) == 2
    assert "--explain must hold words of the doctor, got 'lr-lov'; did you mean 'lr-low'?" in capsys.readouterr().err


# One thing has one word in Chinese; what stands first is another word for it.
ONE_WORD = {
    "测试部分": "测试集", "验证部分": "验证集", "训练部分": "训练集", "瞎猜": "随机猜测", "焦点损失": "focal loss",
    "逐比特": "逐位", "概览": "摘要", "分类头": "输出层", "接着跑": "续训", "标记器": "分词器", "医生": "训练诊断", "您": "你",
}  # fmt: skip


@pytest.mark.parametrize(
    "page", [ROOT / "README.zh-CN.md", *sorted((ROOT / "docs/zh").glob("*.md"))], ids=lambda p: p.name
)
def test_a_chinese_page_has_one_word_for_one_thing(page):
    text = page.read_text("utf-8")
    assert {other: word for other, word in ONE_WORD.items() if other in text} == {}


def test_the_table_of_sentences_has_one_word_for_one_thing():
    text = "".join(sentences().values())
    assert {other: word for other, word in ONE_WORD.items() if other in text} == {}
