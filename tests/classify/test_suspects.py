"""Rows whose label looks wrong."""

import csv
import dataclasses
import io

import numpy as np
import torch

import linkboy as lb
from linkboy.classify.judging._scored import Scored
from linkboy.classify.judging.suspects import suspected_labels, suspected_rows
from linkboy.classify.reading._parts import make_parts


def scored(probabilities, target):
    return Scored.of(torch.from_numpy(probabilities).clamp_min(1e-300).log(), target)


def test_a_row_is_suspected_if_another_class_has_at_least_its_usual_probability():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.85, 0.15], [0.75, 0.25], [0.2, 0.8]])
    target = np.array([0, 0, 1, 1, 1])
    # Class 0 is usually given 0.8: row 2 has more, row 3 less.
    assert suspected_rows(scored(probabilities, target), target, 2).tolist() == [2]


def test_the_surest_come_first_and_right_rows_never():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), 500)
    target = generator.integers(0, 4, 500)
    found = suspected_rows(scored(probabilities, target), target, 4)
    likeliest = probabilities.argmax(1)
    assert (likeliest[found] != target[found]).all()
    margins = probabilities.max(1)[found] - probabilities[found, target[found]]
    assert (np.diff(margins) <= 0).all()


def test_planted_wrong_labels_are_found(tmp_path, make_rows):
    rows = make_rows(600)
    labels = list(rows.labels)
    wrong = set(range(7, 600, 29))
    names = sorted(set(labels))
    for row in wrong:
        labels[row] = names[(names.index(labels[row]) + 1) % 3]
    report = lb.train_classifier(dataclasses.replace(rows, labels=labels), tmp_path / "model")
    with (tmp_path / "model" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        held_out = {row["text"] for row in csv.DictReader(file)}
    planted = {rows.texts[row] for row in wrong} & held_out
    suspected = {suspect.text for suspect in report.suspects.suspects if suspect.part == "test"}
    assert len(planted) > 1
    assert suspected <= planted
    assert len(suspected) > len(planted) / 2
    assert "may be mislabelled, or the classifier is wrong" in str(report)


def test_suspects_name_their_line_and_are_written_as_a_table(make_rows):
    parts = make_parts(make_rows(240))
    classes = len(parts.class_names)
    probabilities = np.eye(classes)[parts.targets["test"]] * 0.8 + 0.1
    probabilities[3] = np.eye(classes)[(parts.targets["test"][3] + 1) % classes]
    found = suspected_labels(parts, {"test": scored(probabilities, parts.targets["test"])})
    assert (found.suspect_count, found.row_count) == (1, len(parts.texts["test"]))
    (suspect,) = found.suspects
    assert (suspect.line, suspect.text) == (parts.texts["test"].lines[3], parts.texts["test"].texts[3])
    (row,) = csv.DictReader(io.StringIO(found.as_csv().decode()))
    assert (row["text"], row["label"], row["suggested_label"]) == (suspect.text, suspect.label, suspect.suggested_label)


def test_nothing_suspected_is_said(make_rows):
    parts = make_parts(make_rows(240))
    found = suspected_labels(parts, {"test": scored(np.eye(3)[parts.targets["test"]], parts.targets["test"])})
    assert str(found) == f"labels: none of {len(parts.texts['test'])} held-out rows looks mislabelled"
    assert found.as_csv().decode().strip() == "part,line,label,suggested_label,probability,text"
