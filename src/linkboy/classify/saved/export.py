"""A trained model as one file that runs where linkboy does not: ONNX, TorchScript, or a program of torch.export."""

import copy
import dataclasses
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linkboy._checks import check_choice
from linkboy._files import atomic_write
from linkboy._report import Block, Report, Table, format_bytes
from linkboy.classify.encoding._dataset import Encoder
from linkboy.classify.encoding._features import FlatFeatures
from linkboy.classify.models._centroids import CentroidClassifier
from linkboy.classify.models._models import NgramAndVectorClassifier, NgramClassifier

Form = Literal["onnx", "torchscript", "torch-export"]
RunExported = Callable[[Mapping[str, Tensor]], Tensor]
Logits = Callable[[Sequence[str]], Tensor]

TOLERANCE = 1e-5
_EXAMPLES = ("linkboy", "两个例子 of different length")
_COMPARED = (_EXAMPLES, _EXAMPLES[:1], ("",), ("x 中 y",) * 3)


@dataclasses.dataclass(frozen=True)
class ExportReport(Report):
    """What was exported.

    Attributes:
        path: the file.
        form: `"onnx"`, `"torchscript"` or `"torch-export"`.
        inputs: names and shapes of what the model takes; B texts and the T features of the longest one.
        output: name and shape of what it returns.
        nbytes: size of the file in bytes.
        largest_difference: the largest difference between its probabilities and those of the classifier.
    """

    path: Path
    form: Form
    inputs: Mapping[str, str]
    output: str
    nbytes: int
    largest_difference: float

    def _blocks(self) -> Iterator[Block]:
        yield Table(
            ("", ""),
            [*self.inputs.items(), ("returns", self.output)],
            f"{self.path} ({self.form}, {format_bytes(self.nbytes)})",
        )
        yield f"compared with the classifier: its probabilities differ by at most {self.largest_difference:.1e}"
        yield "classifier.export_inputs(texts) makes its inputs"

    @property
    def summary(self) -> str:
        """The file, its form and its size in one line."""
        return f"{self.path}: {self.form}, {format_bytes(self.nbytes)}"


class _PaddedNgrams(nn.Module):
    """The n-gram model over rows padded to one length, of operations that every runtime has; the padding weighs 0."""

    def __init__(self, model: NgramClassifier, *, alone: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.soft_cap, self.alone = model.bag.weight, model.bias, model.soft_cap, alone

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        rows = F.embedding(ids, self.weight)  # (B, T, C)
        logits = (rows * weights[:, :, None]).sum(1) + self.bias
        if self.soft_cap is not None:
            logits = self.soft_cap(logits)
        return logits.sigmoid() if self.alone else logits.softmax(1)


class _Probabilities(nn.Module):
    def __init__(self, model: nn.Module, *, alone: bool) -> None:
        super().__init__()
        self.model, self.alone = model, alone

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.model(ids)
        return logits.sigmoid() if self.alone else logits.softmax(1)


def padded_inputs(encoder: Encoder, features: FlatFeatures) -> dict[str, Tensor]:
    """Return encoded texts as an exported model takes them: rows of one length."""
    if features.weights is None:
        (ids,) = encoder.collate(features)
        return {"ids": ids}
    lengths = np.diff(features.offsets)
    inside = np.arange(max(int(lengths.max(initial=0)), 1)) < lengths[:, None]
    padded, weights = np.zeros(inside.shape, np.int64), np.zeros(inside.shape, np.float32)
    padded[inside], weights[inside] = features.ids, features.weights
    return {"ids": torch.from_numpy(padded), "weights": torch.from_numpy(weights)}


def export_model(
    path: str | os.PathLike[str],
    *,
    form: Form,
    kind: str,
    model: nn.Module,
    encoder: Encoder,
    class_count: int,
    logits_of: Logits,
    alone: bool = False,
) -> ExportReport:
    """Write a model as one file, and check that it gives the probabilities of the classifier.

    Args:
        path: the file.
        form: what to write.
        kind: the kind of model, for messages.
        model: the model.
        encoder: turns texts into what the model takes.
        class_count: the number of classes.
        logits_of: gives the logits `(B, C)` that the classifier gives for texts.
        alone: whether each label is decided by itself, so that a text may have several.

    Raises:
        ModuleNotFoundError: ONNX needs a package that is not installed; the message says how to install it.
        ValueError: `form` is unknown, or does not have the operations of the model.
        ArithmeticError: the exported model gives other probabilities; nothing is written.
    """
    check_choice("form", form, get_args(Form))
    if isinstance(model, CentroidClassifier):
        raise ValueError(
            f"a model of {class_count} classes is a sparse matrix, for which {form} has no operations; load it with "
            "load_classifier"
        )
    if isinstance(model, NgramAndVectorClassifier):
        raise ValueError(
            f"a model with a pretrained encoder cannot be exported as {form}, since its encoder stays in a directory of its own; "
            "load it with load_classifier"
        )
    path = Path(path)
    model = copy.deepcopy(model).cpu().float().eval()
    kind_of = _PaddedNgrams if isinstance(model, NgramClassifier) else _Probabilities
    wrapped = kind_of(model, alone=alone)  # type: ignore[arg-type]
    # Padded to more than one feature: an exporter takes a size of 1 for one that never changes.
    inputs = {name: F.pad(x, (0, 4)) for name, x in padded_inputs(encoder, encoder.encode(_EXAMPLES)).items()}
    make = {"onnx": _onnx, "torchscript": _torchscript, "torch-export": _torch_export}[form]
    try:
        with torch.no_grad(), _quiet():
            content, run = make(wrapped.eval(), inputs)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"a model of kind {kind!r} cannot be exported as {form} ({reason}); export another kind of model"
        ) from error
    difference = max(_difference(encoder, logits_of, run, texts, alone=alone) for texts in _COMPARED)
    if not difference <= TOLERANCE:
        raise ArithmeticError(
            f"the exported model differs from the classifier by {difference:.1e} in a probability; export it in another form"
        )
    with atomic_write(path) as file:
        file.write(content)
    shapes = dict.fromkeys(inputs, "(B, T) int64") | ({"weights": "(B, T) float32"} if "weights" in inputs else {})
    output = f"probabilities (B, {class_count}) float32"
    return ExportReport(path, form, shapes, output, len(content), difference)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what exporters tell those who wrote the model: deprecations and missing packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _difference(encoder: Encoder, logits_of: Logits, run: RunExported, texts: Sequence[str], *, alone: bool) -> float:
    logits = logits_of(texts)
    expected = logits.sigmoid() if alone else logits.softmax(1)
    with torch.no_grad():
        got = run(padded_inputs(encoder, encoder.encode(texts)))
    return float((got - expected).abs().max())


def _torchscript(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[bytes, RunExported]:
    traced = torch.jit.trace(model, tuple(inputs.values()))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    return buffer.getvalue(), lambda values: loaded(*values.values())


def _torch_export(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[bytes, RunExported]:
    buffer = io.BytesIO()
    torch.export.save(_program(model, inputs), buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    return buffer.getvalue(), lambda values: loaded(**values)


def _onnx(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[bytes, RunExported]:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"an export to ONNX needs {' and '.join(missing)}, not installed here; run: pip install 'linkboy[onnx]'"
        )
    import onnxruntime

    program, names = _program(model, inputs), list(inputs)
    exported = torch.onnx.export(program, input_names=names, output_names=["probabilities"], verbose=False)
    content = exported.model_proto.SerializeToString()  # pyright: ignore[reportOptionalMemberAccess]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(values: Mapping[str, Tensor]) -> Tensor:
        return torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in values.items()})[0])

    return content, run


def _program(model: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    # The exporter of torch 2.6 takes neither a size without an upper bound nor the fused layers of attention.
    batch, features = (torch.export.Dim(name, max=2**31 - 1) for name in ("batch", "features"))
    shapes = {name: {0: batch, 1: features} for name in inputs}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return torch.export.export(model, (), kwargs=dict(inputs), dynamic_shapes=shapes)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
