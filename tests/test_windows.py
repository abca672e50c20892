"""The main job, training and vectors, where files behave as on Windows.

It replaces what Windows does otherwise: there is no fcntl, a directory cannot be opened, only what is open for writing can be
flushed, and a file that is open or mapped cannot be removed, renamed or replaced.
"""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to know what is open")

WINDOWS = """
import errno, os, pathlib, sys
from pathlib import Path

handles = os.O_ACCMODE, __import__("fcntl").fcntl, __import__("fcntl").F_GETFL
sys.modules["fcntl"] = None
plain = {name: getattr(os, name) for name in ("open", "fsync", "unlink", "remove", "rename", "replace", "rmdir")}

def used():
    paths = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    with open("/proc/self/maps") as maps:
        return paths | {line.split(maxsplit=5)[5].rstrip() for line in maps if line.count("/")}

def refuse(path):
    path = os.path.realpath(path)
    held = [name for name in used() if name == path or name.startswith(path + os.sep)]
    if held:
        raise PermissionError(errno.EACCES, f"The process cannot access the file because it is being used: {held}", path)

def windows_open(path, flags, *arguments, **options):
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
    return plain["open"](path, flags, *arguments, **options)

def windows_fsync(handle):
    mask, fcntl, getfl = handles
    if fcntl(handle, getfl) & mask == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    return plain["fsync"](handle)

def guarded(name):
    def call(path, *others, **options):
        if options.get("dir_fd") is None:
            refuse(path)
            for other in others[:1]:
                if os.path.lexists(other):
                    refuse(other)
        return plain[name](path, *others, **options)
    return call

os.open, os.fsync = windows_open, windows_fsync
for name in ("unlink", "remove", "rename", "replace", "rmdir"):
    setattr(os, name, guarded(name))
import shutil
shutil._use_fd_functions = False  # as there, so that a tree is removed by paths
import warnings
warnings.filterwarnings("ignore", message="only soft file lock is available")  # filelock's, where neither system's lock is
import torch, linkboy as lb
"""


def run(folder, code):
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS + code], cwd=folder, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_simulation_refuses_what_windows_refuses(tmp_path):
    run(
        tmp_path,
        """
Path("folder").mkdir()
file = open("folder/a", "w")
for call in (lambda: os.open("folder", os.O_RDONLY), lambda: Path("folder/a").unlink(), lambda: Path("folder").rename("b"),
             lambda: Path("other").touch() or os.replace("other", "folder/a")):
    try:
        call()
    except PermissionError:
        pass
    else:
        raise SystemExit("not refused")
with open("folder/a", "rb") as reading:
    try:
        os.fsync(reading.fileno())
    except OSError as error:
        assert error.errno == errno.EBADF
file.close()
Path("folder/a").unlink()
""",
    )


ROWS = """
rows = lb.LabelledTexts("made up", [f"{w} {i}" for w in ("up", "down") for i in range(40)], ["up"] * 40 + ["down"] * 40,
                        list(range(1, 81)))
options = lb.TrainingOptions()
in_epochs = lb.TrainingOptions(model="cnn", epochs=10, checkpoint_every=5)
"""


def test_a_classifier_is_trained_resumed_saved_and_loaded(tmp_path):
    run(
        tmp_path,
        ROWS
        + """
from linkboy._files import LOCK, locked_directory
lb.train_classifier(rows, "model", options=options)
classifier = lb.load_classifier("model")
classifier.save("model")
lb.train_classifier(rows, "model", options=options, overwrite=True)
assert list(classifier.predict(["up 3"]).labels) == ["up"]
assert not list(Path("model").glob(".*")), list(Path("model").glob(".*"))
with locked_directory("model", "another run"):
    try:
        lb.train_classifier(rows, "model", options=options, overwrite=True)
    except BlockingIOError:
        pass
    else:
        raise SystemExit("two runs in one directory")
from linkboy import training
plain_save = training.Checkpointer.save
def save(self, state, step, **options):
    path = plain_save(self, state, step, **options)
    raise KeyboardInterrupt
training.Checkpointer.save = save
try:
    lb.train_classifier(rows, "stopped", options=in_epochs)
except KeyboardInterrupt:
    pass
training.Checkpointer.save = plain_save
assert list(Path("stopped/checkpoints").rglob("step-*"))
lb.train_classifier(rows, "stopped", options=in_epochs, resume=True)
assert list(lb.load_classifier("stopped").predict(["down 3"]).labels) == ["down"]
""",
    )


def test_training_is_resumed_and_vectors_are_converted(tmp_path):
    run(
        tmp_path,
        """
def fit(epochs):
    torch.manual_seed(0)
    model, rows = torch.nn.Linear(4, 3), torch.utils.data.TensorDataset(torch.randn(8, 4), torch.zeros(8).long())
    lb.fit(model, torch.nn.CrossEntropyLoss(reduction="none"), torch.optim.SGD(model.parameters(), lr=0.1),
           torch.utils.data.DataLoader(rows, batch_size=2), epochs=epochs, progress=False,
           checkpoint=lb.Checkpointer("run", every_steps=1, keep=2))
    return model
fit(1)
resumed = fit(3)
assert sorted(path.name for path in Path("run").glob("step-*")) == ["step-11", "step-12"]
assert not list(Path("run").glob(".*"))
Path("vectors.txt").write_text("2 3\\nup 1 2 3\\ndown 4 5 6\\n", "utf-8")
for _ in range(2):
    lb.convert_embeddings("vectors.txt", "vectors.safetensors")
    weight, report = lb.load_embeddings("vectors.safetensors", ["up", "none"])
assert weight[0].tolist() == [1, 2, 3]
""",
    )
