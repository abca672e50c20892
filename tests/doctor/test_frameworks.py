"""Scripts whose loop, folder or processes are run by somebody else: no finding, and the output of a run without a watch."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import linkboy as lb
from linkboy._watch._places import line_text

pytestmark = pytest.mark.filterwarnings("ignore")
HEAD = """import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(160, 8)
y = x[:, :4].argmax(1)
net = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 4))
opt = torch.optim.AdamW(net.parameters(), lr=5e-3)
"""
CHANGES_FOLDER = """import functools, os, sys
def main(function):
    @functools.wraps(function)
    def run():
        here = os.getcwd()
        os.makedirs("outputs/first")
        os.chdir("outputs/first")
        try:
            return function(dict(pair.split("=") for pair in sys.argv[1:]))
        finally:
            os.chdir(here)
    return run

@main
def train(settings):
    for group in opt.param_groups:
        group["lr"] = float(settings["lr"])
    best = 100.0
    for epoch in range(5):
        for rows in torch.randperm(128).split(16):
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
        net.eval()
        with torch.no_grad():
            value = nn.functional.cross_entropy(net(x[128:]), y[128:]).item()
        net.train()
        if value < best:
            best = value
            torch.save(net.state_dict(), "best.pt")
        print(epoch, value, os.path.basename(os.getcwd()))
    net.load_state_dict(torch.load("best.pt"))

if __name__ == "__main__":
    train()
"""
ACCELERATE = """from accelerate import Accelerator
accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 5e-3, total_steps=40)
train = DataLoader(TensorDataset(x[:128], y[:128]), 16, shuffle=True)
val = DataLoader(TensorDataset(x[128:], y[128:]), 16)
net, opt, train, val, schedule = accelerator.prepare(net, opt, train, val, schedule)
for epoch in range(4):
    net.train()
    for xb, yb in train:
        with accelerator.accumulate(net):
            loss = nn.functional.cross_entropy(net(xb), yb)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), 1.0)
            opt.step()
            schedule.step()
            opt.zero_grad()
    net.eval()
    good = 0
    with torch.no_grad():
        for xb, yb in val:
            guess, truth = accelerator.gather_for_metrics((net(xb).argmax(1), yb))
            good += (guess == truth).sum().item()
    print(epoch, loss.item(), good)
"""
TRAINER = """from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
class Texts(torch.utils.data.Dataset):
    def __init__(self, n):
        stream = torch.Generator().manual_seed(n)
        self.ids = torch.randint(5, 60, (n, 12), generator=stream)
        self.lengths = torch.randint(6, 12, (n,), generator=stream)
        self.y = (self.ids[:, 1] > 30).long()
    def __len__(self):
        return len(self.y)
    def __getitem__(self, i):
        mask = (torch.arange(12) < self.lengths[i]).long()
        return {"input_ids": self.ids[i] * mask, "attention_mask": mask, "labels": self.y[i]}
config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
given = TrainingArguments(
    output_dir="out", per_device_train_batch_size=8, num_train_epochs=2, learning_rate=1e-3, eval_strategy="epoch",
    save_strategy="epoch", report_to=[], use_cpu=True, gradient_accumulation_steps=2, disable_tqdm=True,
    load_best_model_at_end=True,
)
trainer = Trainer(
    model=BertForSequenceClassification(config), args=given, train_dataset=Texts(64), eval_dataset=Texts(32),
    compute_metrics=lambda p: {"good": float((p.predictions.argmax(-1) == p.label_ids).mean())},
)
trainer.train()
found = trainer.evaluate()
print(found["eval_loss"], found["eval_good"])
"""
PROCESSES = """import torch.distributed as dist
from torch.utils.data.distributed import DistributedSampler
dist.init_process_group("gloo")
net = nn.parallel.DistributedDataParallel(net)
opt = torch.optim.AdamW(net.parameters(), lr=5e-3)
sampler = DistributedSampler(TensorDataset(x, y))
for epoch in range(3):
    sampler.set_epoch(epoch)
    for xb, yb in DataLoader(sampler.dataset, 16, sampler=sampler):
        loss = nn.functional.cross_entropy(net(xb){softmax}, yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
print(f"end of {{dist.get_rank()}}\\n", end="", flush=True)
dist.destroy_process_group()
"""


def write(folder: Path, text: str) -> str:
    path = folder / "train.py"
    path.write_text(text, "utf8")
    return str(path)


@pytest.mark.parametrize(
    ("body", "arguments", "package"),
    [
        pytest.param(CHANGES_FOLDER, ["lr=0.01"], None, id="changes folder"),
        pytest.param(ACCELERATE, [], "accelerate", id="accelerate"),
        pytest.param(TRAINER, [], "transformers", id="trainer", marks=pytest.mark.slow),
    ],
)
def test_a_right_script_prints_the_same_and_nothing_is_found(body, arguments, package, tmp_path, monkeypatch, capsys):
    if package is not None:
        pytest.importorskip(package)
    path = write(tmp_path, HEAD + body)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    printed = []
    for name in ("plain", "watched"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if name == "plain":
            runpy.run_path(path, run_name="__main__")
        else:
            check = lb.check_script(path, arguments, steps=1000, batches=0)
        printed.append([line for line in capsys.readouterr().out.splitlines() if "runtime" not in line])
        assert Path.cwd() == tmp_path / name
    assert len(printed[0]) > 0
    assert printed[0] == printed[1]
    assert check.findings == ()
    assert check.exit_code == 0
    assert not check.failed
    assert check.steps >= 8


@pytest.mark.slow
@pytest.mark.parametrize(("softmax", "words"), [("", []), (".softmax(1)", ["double-softmax"])])
def test_two_processes_train_to_their_end_and_the_first_writes_the_page(softmax, words, tmp_path):
    path = write(tmp_path, HEAD + PROCESSES.format(softmax=softmax))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "linkboy"]
    command += ["doctor", "--report", str(tmp_path / "page.json"), path]
    source = str(Path(lb.__file__).parents[1])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )
    page = json.loads((tmp_path / "page.json").read_text("utf8"))
    assert [found["word"] for found in page["findings"]] == words, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "end of 0", "end of 1"]
    assert done.stderr.count("questions") == 1  # one page
    assert (done.returncode == 0) == (not words)


def test_a_place_in_a_notebook_is_called_as_ipython_calls_the_cell(monkeypatch):
    names = {"/tmp/ipykernel_7/12345.py": ("Cell", "In[4]"), "<ipython-input-2-abc>": ("Cell", "In[2]")}
    shell = SimpleNamespace(compile=SimpleNamespace(format_code_name=names.get))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert [line_text(name, 3) for name in names] == ["In[4]:3", "In[2]:3"]
    assert line_text("/tmp/ipykernel_7/own.py", 3) == "own.py:3"
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert line_text("/tmp/ipykernel_7/12345.py", 3) == "12345.py:3"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_shows_the_page_and_names_the_cell(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    loop = """with lb.watch_training() as watch:
    for rows in torch.randperm(160).split(10):
        loss = nn.functional.cross_entropy(net(x[rows]){softmax}, y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print("done")
watch.report()"""
    cells = [HEAD + "import linkboy as lb", loop.format(softmax=""), loop.format(softmax=".softmax(1)")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300).execute()
    (right, faulty) = [
        [output.get("text") or output["data"]["text/html"] for output in cell.outputs] for cell in notebook.cells[1:]
    ]
    assert right[0] == faulty[0] == "done\n"
    assert "no finding" in right[1]
    assert "double-softmax" in faulty[1]
    assert "In[3]:3" in faulty[1]
