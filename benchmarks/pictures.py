"""Draw the report of a ResNet, of BERT and of an LSTM for the documentation, as a terminal shows it: `make pictures`."""

import io
import re
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from linkboy import summarize
from linkboy.parameters import ModelSummary

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


def reports() -> dict[str, ModelSummary]:
    """Return the reports by the name of their picture."""
    import transformers as hf

    with torch.device("meta"):
        resnet, bert = hf.ResNetForImageClassification(hf.ResNetConfig()), hf.BertModel(hf.BertConfig())
    return {
        "resnet": summarize(resnet.eval(), torch.zeros(1, 3, 224, 224), depth=3),
        "bert": summarize(bert.eval(), torch.zeros(1, 128, dtype=torch.long), depth=3),
        "lstm": summarize(Tagger(), torch.ones(8, 40, dtype=torch.long), torch.tensor([40, 36, 31, 22, 18, 9, 5, 2])),
    }


def svg(report: ModelSummary, name: str) -> str:
    """Return a report as SVG that loads nothing and is the same on every run."""
    with io.StringIO() as nowhere:
        console = Console(record=True, width=100, file=nowhere)
        console.print(report)
        text = console.export_svg(title=f"summarize: {name}", unique_id=name)
    return re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)  # the fonts of rich are on a server


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, report in reports().items():
        (FOLDER / f"{name}.svg").write_text(svg(report, name), "utf-8")


if __name__ == "__main__":
    main()
