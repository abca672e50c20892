"""The page of a run: well-formed, self-contained, complete, and deaf to what texts and labels try to say as markup."""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import polars as pl
import pytest

import linkboy as lb
from linkboy.classify.judging._reliability import reliability
from linkboy.classify.results import _charts as charts
from linkboy.classify.results import _page as page

VOID = {"meta", "link", "br", "img", "rect", "line", "circle", "polyline"}
QUICK = lb.TrainingOptions(epochs=3, batch_size=32)


class Outline(HTMLParser):
    """Collects elements with their attributes, and complains about tags that are not closed in their order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.stack: list[str] = []
        self.feed(content)
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def count(self, tag, **attributes):
        return sum(t == tag and all(a.get(k.rstrip("_")) == v for k, v in attributes.items()) for t, a in self.elements)


def written(directory):
    return (directory / "report.html").read_text("utf-8")


@pytest.fixture(scope="module", params=["ngram", "cnn"])
def report(request, tmp_path_factory, make_rows):
    rows = make_rows(240)
    labels = list(rows.labels)
    for n in range(0, 240, 7):
        labels[n] = labels[(n + 1) % 240]
    data = lb.LabelledTexts("reviews.csv", rows.texts, labels, rows.lines)
    options = lb.TrainingOptions(model=request.param, epochs=2, batch_size=32, metric="macro-f1")
    return lb.train_classifier(data, tmp_path_factory.mktemp("page") / "model", test=data, options=options)


def test_the_page_is_well_formed_and_holds_every_part(report):
    content = written(report.directory)
    outline = Outline(content)
    assert content.startswith("<!DOCTYPE html>")
    assert outline.count("section") == 8
    assert outline.count("svg") == (3 if report.history is None else 5)
    ids = [attributes["id"] for _, attributes in outline.elements if attributes.get("id")]
    assert sorted(ids) == sorted({a["href"][1:] for t, a in outline.elements if t == "a"})
    text = " ".join(" ".join(outline.text).split())
    metrics = report.metrics["test"]
    for said in (
        f"{metrics.accuracy:.2%}",
        f"{metrics.macro_f1:.2%}",
        "体育",
        "财经",
        "sport",
        "reviews.csv",
        lb.__version__,
    ):
        assert said in text
    assert ("the shares add up" if "ngram model" in text else "such figures do not add up") in text


def test_the_page_shows_what_training_by_gradients_takes_for_models_that_were_trained_so(report):
    shown = written(report.directory)
    assert ("AdamW states" in shown) == ("training memory" in shown) == (report.history is not None)


def test_a_model_that_was_solved_needs_no_memory_for_an_optimizer_in_any_language(tmp_path, make_rows):
    for lang in ("en", "zh"):
        made = lb.train_classifier(make_rows(120), tmp_path / lang, lang=lang)
        assert made.history is None
        assert "AdamW" not in written(made.directory)


def test_the_page_needs_nothing_but_itself(report):
    outline = Outline(written(report.directory))
    for tag, attributes in outline.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in written(report.directory)
    assert "url(" not in written(report.directory)


def test_the_only_script_that_may_run_is_the_one_that_sorts(report):
    content = written(report.directory)
    (script,) = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for _, a in Outline(content).elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == (f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'")


def test_the_surest_mistakes_are_the_rows_of_the_file_in_the_order_of_their_probability(report):
    import polars as pl

    rows = pl.read_csv(report.directory / "predictions.csv")
    wrong = rows.filter(pl.col("label") != pl.col("predicted")).sort("probability", descending=True)
    found = re.findall(r'class="taken">.*?([\d.]+)%.*?</p>', written(report.directory), re.DOTALL)
    expected = [f"{100 * p:.2f}" for p in wrong["probability"].to_list()][:20]
    assert [float(share) for share in found] == pytest.approx([float(share) for share in expected], abs=0.011)


def test_texts_labels_and_file_names_stay_text(tmp_path, make_rows):
    rows = make_rows(120)
    attack = "</style></script><script>alert(1)</script>{{ 7 * 7 }}\u202e\x00\x1b[31m"
    labels = [f"{label}'\"><img src=x>" for label in rows.labels]
    labels[0] = labels[1]
    data = lb.LabelledTexts(f"a/{attack}.tsv", [f"{text} {attack}" for text in rows.texts], labels, rows.lines)
    lb.train_classifier(data, tmp_path / "model", test=data, options=QUICK)
    content = written(tmp_path / "model")
    outline = Outline(content)
    assert outline.count("script") == 1
    assert outline.count("img") == 0
    assert "{{ 7 * 7 }}" in content
    assert "\x00" not in content
    assert "\x1b" not in content
    assert "␀␛[31m" in content


def test_a_run_without_mistakes_says_so(tmp_path, rows):
    options = dataclasses.replace(QUICK, epochs=10)
    assert lb.train_classifier(rows, tmp_path / "model", test=rows, options=options).metrics["test"].accuracy == 1
    text = " ".join(Outline(written(tmp_path / "model")).text)
    assert "There are none: every text of the test part is right." in text
    assert "Nothing: every text of the test part is right." in text


def test_of_more_classes_than_a_page_can_hold_the_weakest_are_on_it(tmp_path, make_rows, monkeypatch):
    report = lb.train_classifier(make_rows(120), tmp_path / "whole", options=QUICK)
    text = " ".join(Outline(written(tmp_path / "whole")).text)
    assert "weakest; metrics.json holds all" not in text
    monkeypatch.setattr("linkboy.classify.results._page.MOST_IN_TABLE", 1)
    monkeypatch.setattr("linkboy.classify.results._charts.MOST_CLASSES_DRAWN", 1)
    lb.train_classifier(make_rows(120), tmp_path / "cut", options=QUICK)
    page = written(tmp_path / "cut")
    assert "These are the 1 weakest; metrics.json holds all." in " ".join(Outline(page).text)
    assert f"{len(report.metrics['test'].per_class)} classes are too many for a matrix." in page
    first = page[page.index('id="classes"') :]
    assert first[: first.index("</table>")].count('<th scope="row">') == 1


def test_the_command_can_be_typed_again(monkeypatch, tmp_path):
    program = tmp_path / "linkboy"
    program.write_text("")
    program.chmod(0o755)
    for arguments, typed in (
        ([str(program), "train", "my file.csv"], "linkboy train 'my file.csv'"),
        (["/site/linkboy/__main__.py", "train", "--demo"], "python -m linkboy train --demo"),
        (["run.py"], "python run.py"),
    ):
        monkeypatch.setattr("sys.argv", arguments)
        assert page.command_line() == typed


@pytest.mark.parametrize("classes", [2, 20, 120])
def test_a_confusion_chart_has_a_cell_for_each_count_and_every_name(classes):
    confusion = [[(3 * row + column) % 4 for column in range(classes)] for row in range(classes)]
    names = [f"<类别 {number}>" for number in range(classes)]
    chart = str(charts.confusion_chart(confusion, names))
    outline = Outline(chart)
    cells = outline.count("rect", class_="hit") + outline.count("rect", class_="miss")
    assert cells == sum(count > 0 for row in confusion for count in row)
    assert chart.count("&lt;类别 1&gt;") >= 2
    assert "<类" not in chart


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.0, 0.0], [1e-9, 3e-9], [float("nan"), 0.3], [0.2, 1234.5]])
def test_a_line_stays_inside_its_chart(values):
    chart = charts.line_chart("Loss", list(range(1, len(values) + 1)), {"validation": values}, mark=1)
    outline = Outline(str(chart))
    dots = [a for t, a in outline.elements if t == "circle"]
    assert len(dots) == sum(value == value for value in values)
    for dot in dots:
        assert charts.LEFT <= float(dot["cx"]) <= charts.WIDTH - charts.RIGHT
        assert charts.TOP - 0.1 <= float(dot["cy"]) <= charts.HEIGHT - charts.BOTTOM + 0.1


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.871, 0.902), (3, 3), (-2.5, 17), (1e-7, 2e-7)])
def test_ticks_are_round_and_enclose_the_values(low, high):
    ticks = charts._ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 8


def test_the_reliability_chart_names_its_figures():
    import numpy as np

    chart = str(charts.reliability_chart(reliability(np.full(10, 0.75), np.arange(10) % 4 != 0)))
    assert "mean confidence 75.00%, accuracy 70.00%" in chart
    assert Outline(chart).count("circle") == 1


# --- the page in Chinese ---

NAMES = re.compile(  # what is neither Chinese nor a sentence: names, data and figures
    r"linkboy|reviews\.csv.*|sport|F1|Ngram\w+|TextCNN|Embedding\w*|Conv1d|Linear\w*|Dropout|SoftCap|Module\w*|[a-z_.-]*\d*"
    r"|squared-hinge|cross-entropy|idf x log-odds|log-odds|Python|(Linux|Darwin|Windows).*|\d.*|AdamW"
)


@pytest.mark.parametrize("kind", ["ngram", "cnn", "several labels"])
def test_the_page_is_chinese_where_the_language_is(kind, tmp_path, make_rows):
    rows = make_rows(150)
    if kind == "several labels":
        labels = [f"{label}|odd" if n % 3 else "" for n, label in enumerate(rows.labels)]
        path = tmp_path / "reviews.csv"
        pl.DataFrame({"text": rows.texts, "label": labels}).write_csv(path)
        data = dataclasses.replace(lb.read_labelled(path, label_separator="|"), source="reviews.csv")
    else:
        skipped = [
            lb.classify.SkippedRow(3, "the text is empty"),
            lb.classify.SkippedRow(9, "4 fields where the header has 2"),
        ]
        data = lb.LabelledTexts("reviews.csv", rows.texts, rows.labels, rows.lines, skipped=skipped)
    options = lb.TrainingOptions(model="cnn", epochs=2, batch_size=32) if kind == "cnn" else lb.TrainingOptions()
    report = lb.train_classifier(data, tmp_path / "model", options=options, lang="zh")
    content = written(report.directory)
    assert '<html lang="zh">' in content
    body = re.sub(
        r"<style>.*?</style>|<script>.*?</script>|<pre>.*?</pre>|<li>\n<p class=\"verdict\".*?</li>",
        "",
        content,
        flags=re.DOTALL,
    )
    lines = {line.strip() for line in Outline(body).text if line.strip()}
    english = {line for line in lines if not re.search(r"[\u3000-\u9fff]", line) and not NAMES.fullmatch(line)}
    assert english == set()


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("1 step watched", "观察了 1 步"),
        ("a loader of 1 batch, 1 pass", "loader 每遍 1 个批次，共 1 遍"),
        ("mean over 1 class", "1 个类别的平均"),
        ("1 test text (50.00%) also occurs in training", "测试集有 1 条文本（50.00%）也在训练集里出现"),
        ("1 training row (4.76%) repeats a text", "训练集有 1 行（4.76%）与别的行文本相同"),
        ("1 training text occurs with other labels", "训练集有 1 条文本在别处带有不同的标签"),
        ("2 training texts occur with other labels", "训练集有 2 条文本在别处带有不同的标签"),
    ],
)
def test_one_thing_has_the_sentence_of_many_in_chinese(english, chinese):
    from linkboy._language import translate_filled

    assert translate_filled(english, "zh") == chinese


@pytest.mark.parametrize(
    ("quoting", "chinese"),
    [("spaces before quotes", "引号前有空格"), ("single quotes", "单引号"), ("quotes escaped by \\", "引号用 \\ 转义")],
)
def test_how_quotes_are_written_is_said_in_chinese(quoting, chinese):
    from linkboy._language import translate_filled

    said = translate_filled(f"comma, with header, {quoting}, UTF-8", "zh")
    assert said == f"逗号分隔，有表头，{chinese}，UTF-8"


def test_every_finding_about_data_has_its_sentence_in_chinese():
    from linkboy._language import translate_filled
    from linkboy.classify.reading._sentences import SENTENCES

    counted = {  # the value that begins these sentences is a count with its noun and verb
        "small classes": "3 classes have", "placeholders": "3 texts hold", "duplicates": "3 rows repeat",
        "mojibake": "1 text holds", "controls": "3 texts hold", "two labels": "3 texts occur", "replacement": "3 texts hold",
        "no label": "3 rows have", "loose separator": "1 row has", "doubled label": "3 rows name",
        "header again": "3 rows repeat", "other encoding": "3 skipped rows are",
    }  # fmt: skip
    for key, sentence in SENTENCES.items():
        if key in (
            "took",
            "took several",
            "took folders",
            "took text",
        ):  # said after the name of the file, and about predictions
            continue
        sentence = sentence.replace("{are}", "are")
        values = {name: f"<{name}>" for name in re.findall(r"\{(\w+)", sentence)}
        filled = (
            re.sub(r"^<\w+>", counted[key], sentence.format(**values)) if key in counted else sentence.format(**values)
        )
        said = translate_filled(filled, "zh")
        assert re.search(r"[\u4e00-\u9fff]", said), filled
        assert all(value in said for value in list(values.values())[key in counted :]), said
