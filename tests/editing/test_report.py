"""The report: what it prints, its fields, and the picture of it on the docs pages."""

import json
import re
from pathlib import Path

import pytest
import torch
from tests.editing import models

from linkboy.editing import keep_layers, surgery

PAGES = [Path(__file__).resolve().parents[2] / "docs" / path for path in ("surgery.md", "zh/surgery.md")]


@pytest.mark.parametrize("page", PAGES, ids=["en", "zh"])
def test_the_report_on_the_page_is_the_one_that_is_printed(page, capsys):
    text = page.read_text("utf-8")
    first, second = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[:2]
    (shown,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    namespace = {"__name__": "__page__"}
    exec(first, namespace)
    capsys.readouterr()
    exec(second, namespace)
    assert capsys.readouterr().out == shown


def test_a_report_names_what_moved_and_counts_what_changed():
    torch.manual_seed(0)
    model, example = models.bert()
    before = sum(p.numel() for p in model.parameters())
    report = keep_layers(model, "encoder.layer", [2, 0], example=example)
    assert report.parameter_count_before == before
    assert report.parameter_count_after == sum(p.numel() for p in model.parameters())
    assert [(row.what, row.before, row.after) for row in report.modules] == [
        ("removed", "encoder.layer.1", "-"),
        ("removed", "encoder.layer.3", "-"),
        ("moved", "encoder.layer.2", "encoder.layer.0"),
        ("moved", "encoder.layer.0", "encoder.layer.1"),
    ]
    assert len(report.removed_keys) == 32
    assert "encoder.layer.1.attention.self.query.weight" in report.removed_keys
    assert report.keys["encoder.layer.0.attention.self.query.weight"] == "encoder.layer.2.attention.self.query.weight"


def test_a_report_is_plain_values_for_json_and_html():
    model, example = models.mlp()
    with surgery(model, example=example) as s:
        s.remove("3")
    values = json.loads(s.report.to_json())
    assert values["edits"] == ["removed 3 (Dropout)"]
    assert values["outputs"] == [{"name": "output", "before": "f32[3, 4]", "after": "f32[3, 4]", "difference": 0.0}]
    assert "removed 3 (Dropout)" in s.report._repr_html_()


def test_long_tables_are_shortened_in_print_and_whole_in_the_fields():
    model = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(40)])
    report = keep_layers(model, "", range(1, 40))
    assert len(report.modules) == 40
    assert "and 28 more" in str(report)
