"""Draw what the documentation shows, all of it from real runs: `make pictures`.

Reports are drawn as a terminal shows them, the audit as its own plot, and the page of a training run as a browser shows it,
if there is a headless Chromium.
"""

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import nn

import linkboy as lb
from linkboy.doctor.script import check_script

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"


class Tagger(nn.Module):
    """A label for each word of texts of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(30_000, 128), nn.Linear(512, 17)
        self.lstm = nn.LSTM(128, 256, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.lstm(rows)[0], batch_first=True)[0])


class Score(nn.Module):
    """The net with a bug that the page on shapes looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv, self.head = nn.Embedding(50, 8), nn.Conv1d(8, 16, 9), nn.Linear(16, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embed(ids).transpose(1, 2)
        h = self.conv(h).squeeze()
        return self.head(h)


def reports() -> dict[str, Any]:
    """Return the reports by the name of their picture."""
    import transformers as hf

    with torch.device("meta"):
        resnet, bert = hf.ResNetForImageClassification(hf.ResNetConfig()), hf.BertModel(hf.BertConfig())
    return {
        "batch-check": lb.check_batch(Score().eval(), lambda n: torch.randint(50, (n, 9))),
        "resnet": lb.summarize(resnet.eval(), torch.zeros(1, 3, 224, 224), depth=3),
        "bert": lb.summarize(bert.eval(), torch.zeros(1, 128, dtype=torch.long), depth=3),
        "lstm": lb.summarize(
            Tagger(), torch.ones(8, 40, dtype=torch.long), torch.tensor([40, 36, 31, 22, 18, 9, 5, 2])
        ),
    }


def script() -> str:
    """Return the faulty script that the README shows."""
    fences = re.findall(r"```python\n(.*?)```", (FOLDER.parent.parent / "README.md").read_text("utf-8"), re.DOTALL)
    return next(fence for fence in fences if "DataLoader" in fence)


def doctor() -> Text:
    """Return what the doctor says of that script, in colours."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, "train.py")
        path.write_text(script(), "utf-8")
        findings = check_script(str(path)).findings
    text = Text("$ linkboy doctor train.py\n")
    for found in findings:
        text.append(f"\n{found.severity}", "bold red").append(f"  {found.word}", "bold").append(f"  {found.sentence}\n")
        for place in found.places:
            text.append(f"       {place}\n", "cyan")
        text.append(f"       fix: {found.fix}\n", "green")
    return text


def svg(report: Any, name: str) -> str:
    """Return a report as SVG that loads nothing and is the same on every run."""
    with io.StringIO() as nowhere:
        console = Console(record=True, width=100, file=nowhere)
        console.print(report)
        text = console.export_svg(title=name, unique_id=name)
    text = text.replace(f"{Path(__file__).parent}/", "")  # where the clone lies says nothing
    return re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)  # the fonts of rich are on a server


def audit(folder: Path) -> None:
    """Draw the audit of a deep network as torch initialises it, and as `initialize` does."""
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(128, 128), nn.ReLU())]
    model, batch = nn.Sequential(*layers, nn.Linear(128, 1)), torch.randn(64, 128)
    for name in ("audit-before", "audit-after"):
        figure = lb.audit_activations(model, batch, loss=lambda out: out.square().mean()).plot()
        figure.set_layout_engine("tight")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        lb.initialize(model, lb.init.kaiming(), generator=torch.Generator().manual_seed(0))


def pages(folder: Path, browser: str) -> None:
    """Take pictures of the page of `linkboy train --demo`: light, dark, and in Chinese."""
    for lang, shots in (("en", {"report-light": 1, "report-dark": 0}), ("zh", {"report-zh": 1})):
        with tempfile.TemporaryDirectory() as made:
            command = [sys.executable, "-m", "linkboy", "train", "--demo", "--lang", lang, "--out", f"{made}/model"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for name, scheme in shots.items():
                look = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,860"]
                look += [f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={folder / name}.png"]
                subprocess.run(
                    [browser, *look, f"file://{made}/model/report.html"], check=True, stderr=subprocess.DEVNULL
                )


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, report in reports().items():
        (FOLDER / f"{name}.svg").write_text(svg(report, name), "utf-8")
    (FOLDER / "doctor.svg").write_text(svg(doctor(), "doctor"), "utf-8")
    audit(FOLDER)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no Chromium was found: the pictures of pages are left as they are")
    else:
        pages(FOLDER, browser)


if __name__ == "__main__":
    main()
