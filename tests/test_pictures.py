"""The pictures of the documentation: drawn from reports, the same on every run, and loading nothing."""

import re

import torch
from benchmarks.pictures import FOLDER, Tagger, doctor, svg

from linkboy import summarize


def test_a_picture_loads_nothing_and_is_the_same_again():
    report = summarize(Tagger(), torch.ones(2, 4, dtype=torch.long), torch.tensor([4, 3]))
    text = svg(report, "lstm")
    assert text == svg(report, "lstm")
    assert "@font-face" not in text
    assert f"{report.flops:,}" in text


def test_every_picture_is_small_shown_with_words_and_has_no_path_of_a_machine():
    pages = [*FOLDER.parent.rglob("*.md"), *FOLDER.parents[1].glob("README*.md")]
    shown = {
        (page.parent / target).resolve(): text
        for page in pages
        for text, target in re.findall(r"!?\[([^\]]*)\]\(([^)]*pictures/[^)]*)\)", page.read_text("utf-8"))
    }
    assert {path.name for path in shown} == {path.name for path in FOLDER.iterdir()}
    assert all(shown.values())
    for path in shown:
        assert path.stat().st_size < 200_000, path
        if path.suffix == ".svg":
            content = path.read_text("utf-8")
            assert "@font-face" not in content
            assert not re.search(r"(?<![\w:/])/(home|root|work|Users|tmp)/", content)


def test_the_readme_shows_what_the_doctor_says_of_its_script():
    shown = re.sub(r"<[^>]+>|&#160;|&quot;|\s", "", (FOLDER / "doctor.svg").read_text("utf-8"))
    for line in doctor().plain.split("\n"):
        assert re.sub(r'[\s"]', "", line).replace("&", "&amp;").replace("'", "&#x27;")[:60] in shown


def test_the_picture_of_bert_has_its_flops():
    tokens, width, inner = 128, 768, 3072
    layer = 2 * tokens * (4 * width * width + 2 * width * inner) + 2 * 2 * tokens * tokens * width
    assert f"{12 * layer + 2 * width * width:,}" in (FOLDER / "bert.svg").read_text("utf-8")
