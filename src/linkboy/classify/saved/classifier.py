"""A trained classifier: predicts, is saved into a directory, and is loaded from it."""

import dataclasses
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linkboy._checks import check_number, did_you_mean
from linkboy._files import local_path
from linkboy._report import listed, plural
from linkboy._version import __version__
from linkboy.classify.encoding._dataset import Encoder
from linkboy.classify.encoding._features import FlatFeatures, NgramEncoder
from linkboy.classify.encoding._with_vectors import SETTINGS, NgramsAndVectors, restore_encoder
from linkboy.classify.judging.decisions import DecisionCurve, OperatingPoint
from linkboy.classify.judging.metrics import ClassificationMetrics, classification_metrics
from linkboy.classify.judging.multilabel import MultilabelMetrics, multilabel_metrics
from linkboy.classify.models._kinds import ENCODERS, restored_model
from linkboy.classify.models._models import NgramAndVectorClassifier, TextModel
from linkboy.classify.reading._arriving import batches_of
from linkboy.classify.reading._columns import FIELD
from linkboy.classify.reading._parts import memberships_of, targets_of, unknown_labels
from linkboy.classify.reading.labelled import LabelledTexts, labelled_of
from linkboy.classify.recipe import Model
from linkboy.classify.saved._classifier_files import (
    CAPPED_VERSION,
    CONFIG,
    ENCODER_PREFIX,
    FORMAT,
    FORMAT_VERSION,
    SEVERAL_VERSION,
    WEIGHTS,
    read_config,
    read_weights,
    write_files,
)
from linkboy.classify.saved._thresholds import Threshold, check_threshold, chosen_classes, label_thresholds
from linkboy.classify.saved.explain import Explanation, Explanations, explain_text
from linkboy.classify.saved.export import ExportReport, Form, export_model, padded_inputs
from linkboy.classify.saved.predictions import Predictions, predicted_classes, predicted_labels


class Classifier:
    """A model with its encoder and the names of its classes.

    Args:
        kind: the kind of model.
        model: takes what the encoder collates and gives logits `(B, C)`.
        encoder: turns texts into features.
        class_names: the C class names.
        numbered: whether a label to evaluate on may be the number of its class.
        about: further entries of the configuration file.
        thresholds: from which probability on each label is given, where a text may have several; `None` where it has one class.
        decisions: how right confident predictions were in training, for `abstain`; `None` where that is not known.

    Examples:
        >>> import tempfile, linkboy as lb
        >>> texts = [f"{word} {n}" for n in range(20) for word in ("好吃", "难吃")]
        >>> data = lb.LabelledTexts("by hand", texts, ["good", "bad"] * 20, range(1, 41))
        >>> report = lb.train_classifier(data, tempfile.mkdtemp())
        >>> classifier = lb.load_classifier(report.directory)
        >>> classifier.predict(["真难吃"]).labels
        ['bad']
    """

    def __init__(
        self,
        kind: Model,
        model: nn.Module,
        encoder: Encoder,
        class_names: Sequence[str],
        *,
        numbered: bool = False,
        about: Mapping[str, Any] | None = None,
        thresholds: Sequence[float] | None = None,
        decisions: DecisionCurve | None = None,
    ) -> None:
        self.thresholds, self.decisions = None if thresholds is None else tuple(thresholds), decisions
        self.kind, self.model, self.encoder = kind, model, encoder
        self.class_names, self.numbered, self.about = list(class_names), numbered, dict(about or {})

    def __repr__(self) -> str:
        kind = "several labels" if self.several else "classes"
        return f"<Classifier: {self.kind} model, {len(self.class_names)} {kind}: {listed(self.class_names)}>"

    @property
    def text_columns(self) -> list[str]:
        """The columns that the texts it was trained on were read from; none where they had no names."""
        return self._names("text_columns")

    @property
    def label_columns(self) -> list[str]:
        """The columns that the labels it was trained on were read from; none where they had no names."""
        return self._names("label_columns")

    def _names(self, key: str) -> list[str]:
        names = self.about.get(key)
        return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []

    def _check_columns(self, texts: Sequence[str]) -> None:
        """Raise if a text is not made of the columns that the classifier reads: alone it would be taken for the first one."""
        columns = self.text_columns
        if len(columns) < 2:
            return
        for number, text in enumerate(texts):
            if text and text.count(FIELD) != len(columns) - 1:
                raise ValueError(
                    f"the classifier reads the columns {' and '.join(map(repr, columns))}, and text {number} has "
                    f"{plural(text.count(FIELD) + 1, 'part')}: pass a table or JSON objects with these columns, or join the "
                    f"parts with ' \\x01 '"
                )

    @property
    def several(self) -> bool:
        """Whether a text may have any number of labels."""
        return self.thresholds is not None

    def logits(self, texts: Sequence[str], *, batch_size: int = 1024) -> Tensor:
        """Return `(len(texts), C)` float32 logits on the CPU."""
        return self._logits_of(self._encode(texts), batch_size)

    def _encode(self, texts: Sequence[str]) -> FlatFeatures:
        return self.encoder.encode([text.strip() for text in texts])  # as files are read

    @torch.no_grad()
    def _logits_of(self, features: FlatFeatures, batch_size: int = 1024) -> Tensor:
        device = next(self.model.parameters()).device
        was_training = self.model.training
        self.model.eval()
        try:
            parts = [torch.zeros(0, len(self.class_names))]
            for start in range(0, len(features), batch_size):
                inputs = self.encoder.collate(features.part(start, start + batch_size))
                parts.append(self.model(*(x.to(device) for x in inputs)).float().cpu())
            return torch.cat(parts)
        finally:
            self.model.train(was_training)

    def predict(
        self, texts: Sequence[str], *, top: int = 1, threshold: Threshold | None = None, abstain: float | None = None
    ) -> Predictions:
        """Predict the class of each text, or its labels where it may have several.

        Args:
            texts: a list of strings; an empty list gives empty predictions.
            top: how many classes to return for each text, at most as many as there are.
            threshold: the least probability of a class, below which a text gets none; or those of some classes, such as
                `{"fraud": 0.2}`, each of which a text is given from there on, even where another is likelier, and below it
                the likeliest of the others. Where a text may have several labels, the probability from which on each is
                given, or those of some labels, instead of those chosen in training.
            abstain: the precision that the classes given shall have; the threshold is chosen for it by rows that the model has
                not learned from, as `decision_for` does.

        Returns:
            The likeliest classes of each text, with their probabilities.

        Raises:
            TypeError: `texts` is a single string, or holds something that is not a string.
            ValueError: `top` is less than 1, `threshold` is not a probability or names a class that there is not, `abstain`
                cannot be reached, or the classifier reads several columns and a text is not made of as many.
        """
        check_texts("predict", texts)
        self._check_columns(texts)
        check_number("top", top, minimum=1, integer=True)
        return self._predictions(texts, self._encode(texts), top, self._least(threshold, abstain))

    def decision_for(self, precision: float) -> OperatingPoint:
        """Return the threshold that covers most texts with a precision, by rows that the model has not learned from.

        Args:
            precision: above 0 and at most 1.

        Returns:
            The threshold, with the precision and the coverage it had on those rows.

        Raises:
            ValueError: the precision cannot be reached, a text may have several labels, or the classifier was saved by an
                earlier version, which kept no such rows.
        """
        if self.several:
            raise ValueError(
                "abstain is for texts of one class, and these may have several labels, none too; leave abstain out, or pass "
                "threshold"
            )
        if self.decisions is None:
            raise ValueError(
                "abstain needs what later versions save with a classifier, and this one was saved without; pass threshold, or "
                "train it again"
            )
        return self.decisions.for_precision(precision)

    def _least(self, threshold: Threshold | None, abstain: float | None) -> Threshold | None:
        """Return the least probability that was asked for, directly or by a precision."""
        if abstain is not None:
            if threshold is not None:
                raise ValueError("threshold and abstain cannot go together: abstain chooses a threshold; leave one out")
            return self.decision_for(abstain).threshold
        check_threshold(threshold, self.class_names, several=self.several)
        return threshold

    def _predictions(
        self, texts: Sequence[str], features: FlatFeatures, top: int, least: Threshold | None
    ) -> Predictions:
        logits, known = self._logits_of(features), self._known(texts, features)
        if self.thresholds is None:
            return predicted_classes(texts, known, logits, self.class_names, top, least)
        thresholds = label_thresholds(self.thresholds, self.class_names, least)
        return predicted_labels(texts, known, logits, self.class_names, top, thresholds)

    def _known(self, texts: Sequence[str], features: FlatFeatures) -> list[bool]:
        """Return whether there is anything in each text that the model answers to."""
        known = (np.diff(features.offsets) > 0).tolist()
        if isinstance(self.encoder, NgramsAndVectors):  # the vectors of a pretrained encoder say something of any text
            return [has or bool(text.strip()) for has, text in zip(known, texts, strict=True)]
        return known

    def predict_stream(
        self,
        texts: Iterable[str],
        *,
        top: int = 1,
        threshold: Threshold | None = None,
        abstain: float | None = None,
        batch_size: int = 4096,
    ) -> Iterator[Predictions]:
        """Predict batch after batch, so that any number of texts takes the memory of a few batches.

        The next batch is read and encoded while the one before it is in the caller's hands; batches of one text, which
        may be typed, are answered before the next one is asked for.

        Args:
            texts: any number of strings, for instance the lines of a file.
            top: how many classes to return for each text.
            threshold: as for `predict`.
            abstain: as for `predict`.
            batch_size: texts per batch.

        Yields:
            The predictions of one batch.

        Raises:
            TypeError: `texts` is a single string, or holds something that is not a string.
            ValueError: `top` or `batch_size` is less than 1.
        """
        check_number("top", top, minimum=1, integer=True)
        check_number("batch_size", batch_size, minimum=1, integer=True)
        check_texts("predict_stream", [] if not isinstance(texts, str) else texts)
        least = self._least(threshold, abstain)
        batches = batches_of(texts, batch_size)
        return self.predict_batches(batches, top=top, threshold=least, more=lambda: batch_size > 1)

    def predict_batches(
        self,
        batches: Iterable[Sequence[str]],
        *,
        top: int = 1,
        threshold: Threshold | None = None,
        more: Callable[[], bool],
    ) -> Iterator[Predictions]:
        """Predict batches as they come, and encode the next one meanwhile where there is one.

        Args:
            batches: lists of strings. Where asking for the next one raises, those before it are answered first.
            top: how many classes to return for each text.
            threshold: as for `predict`.
            more: whether the next batch can be asked for before the last one is answered, since it is there.

        Yields:
            The predictions of one batch.

        Raises:
            TypeError: a batch holds something that is not a string.
        """
        least = self._least(threshold, None)
        remaining, waiting = iter(batches), deque[tuple[Sequence[str], Future[FlatFeatures]]]()
        failed: Exception | None = None
        with ThreadPoolExecutor(1) as encoding:
            while True:
                try:
                    batch = next(remaining, None)
                    if batch is not None:
                        check_texts("predict_stream", batch)
                        self._check_columns(batch)
                        waiting.append((batch, encoding.submit(self._encode, batch)))
                except Exception as error:  # noqa: BLE001 (raised again, behind the answers)
                    batch, failed = None, error
                while len(waiting) > (1 if batch is not None and more() else 0):
                    texts, features = waiting.popleft()
                    yield self._predictions(texts, features.result(), top, least)
                if batch is None:
                    break
        if failed is not None:
            raise failed

    def explain(self, texts: Sequence[str], *, label: str | None = None, against: str | None = None) -> Explanations:
        """Show which pieces of each text decided.

        For `ngram`, which is linear, each n-gram's share of the log-odds is exact and the shares add up. For the other
        models each word (a character where words are not spaced) is left out in turn, and the change of the log-odds is
        shown; such changes do not add up.

        Args:
            texts: a list of strings.
            label: the class to explain; by default the likeliest one of each text.
            against: the class to compare it with; by default the likeliest other one.

        Returns:
            One explanation for each text.

        Raises:
            TypeError: `texts` is a single string, or holds something that is not a string.
            ValueError: `label` or `against` is not among the classes, or both are the same.
        """
        check_texts("explain", texts)
        self._check_columns(texts)
        for argument, name in (("label", label), ("against", against)):
            if name is not None and name not in self.class_names:
                near = did_you_mean(name, self.class_names)
                raise ValueError(f"{argument} must be one of the {len(self.class_names)} classes, got {name!r}{near}")
        if self.several and against is not None:
            raise ValueError(
                "against is for texts of one class; where they may have several labels, each is explained against not having "
                "it: leave against out"
            )
        if label is not None and label == against:
            raise ValueError(f"against must be another class than label, got {label!r} for both")
        return Explanations([self._explained(text, label, against) for text in texts])

    def _explained(self, text: str, label: str | None, against: str | None) -> Explanation:
        return explain_text(
            text,
            model=self.model,
            encoder=self.encoder,
            names=self.class_names,
            logits_of=self.logits,
            label=label,
            against=against,
            alone=self.several,
        )

    def export(self, path: str | os.PathLike[str], *, form: Form) -> ExportReport:
        """Write the model as one file that runs without linkboy, and check that it gives the same probabilities.

        The file takes what `export_inputs` makes of texts, and gives probabilities `(B, C)`.

        Args:
            path: the file.
            form: what to write.

        Returns:
            What was written, and how far its probabilities differ.

        Raises:
            ModuleNotFoundError: a package that ONNX needs is not installed; the message says how to install it.
            ValueError: `form` is unknown, or it does not have the operations of the model.
            ArithmeticError: the exported model gives other probabilities; nothing is written.
        """
        return export_model(
            path,
            form=form,
            kind=self.kind,
            model=self.model,
            encoder=self.encoder,
            class_count=len(self.class_names),
            logits_of=self.logits,
            alone=self.several,
        )

    def export_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return what an exported model takes for the texts, by the names of its inputs.

        `ids` `(B, T)` int64, and for `ngram` `weights` `(B, T)` float32: rows are padded to the longest one, n-grams by
        weight 0, tokens by id 0.

        Args:
            texts: a list of at least one string.

        Raises:
            TypeError: `texts` is a single string, or holds something that is not a string.
        """
        check_texts("export_inputs", texts)
        return padded_inputs(self.encoder, self._encode(texts))

    def evaluate(self, data: Any, *, threshold: Threshold | None = None) -> ClassificationMetrics | MultilabelMetrics:
        """Measure the classifier on labelled texts.

        Args:
            data: labelled texts: `LabelledTexts`, or what `read_labelled` takes, such as a path or a frame.
            threshold: as for `predict`; where a text has one class, only those of named classes, since a text without a class
                is neither right nor wrong.

        Returns:
            Accuracy, macro-F1, and precision, recall and F1 of each class; or the figures of several labels, where a text may
            have them.

        Raises:
            TypeError: `data` is none of these.
            ValueError: a label is not among the classes, and the message names its line; or `threshold` is refused.
        """
        check_threshold(threshold, self.class_names, several=self.several)
        if not self.several and threshold is not None and not isinstance(threshold, Mapping):
            raise ValueError(
                f"threshold={threshold:g} leaves texts without a class, which cannot be measured; name the class that it is of, "
                "or leave it out"
            )
        data = labelled_of("data", data, known=self.text_columns, known_label=self.label_columns)
        if self.several:
            return self._evaluate_labels(data, threshold)
        target = targets_of(data, self.class_names, "evaluation", numbered=self.numbered)
        logits = self.logits(data.texts)
        predicted = logits.numpy().argmax(1)
        if isinstance(threshold, Mapping):
            predicted = chosen_classes(logits.softmax(1).numpy(), self.class_names, threshold)
        return classification_metrics(target, predicted, self.class_names)

    def _evaluate_labels(self, data: LabelledTexts, threshold: Threshold | None) -> MultilabelMetrics:
        if not data.several:
            raise ValueError(
                f"{data.source}: the classifier gives any number of labels, and a text of this file has one; say how several are "
                "written with label_separator=..., or as lists or columns of 0 and 1"
            )
        target, unknown = memberships_of(data, self.class_names, numbered=self.numbered)
        shares = self.logits(data.texts).double().sigmoid().numpy()
        thresholds = label_thresholds(self.thresholds or (), self.class_names, threshold)
        metrics = multilabel_metrics(
            target, shares >= np.array(thresholds), shares, self.class_names, thresholds=thresholds
        )
        return dataclasses.replace(metrics, notes=tuple(unknown_labels("evaluation", unknown, self.class_names)))

    def files(self) -> dict[str, bytes]:
        """Return the files that hold the classifier; the configuration names the hash of the weights."""
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        tensors |= {ENCODER_PREFIX + name: tensor for name, tensor in self.encoder.arrays().items()}
        weights = save(tensors)
        config = {
            "format": FORMAT,
            "format_version": self._format_version,
            "linkboy": __version__,
            "model": self.kind,
            "class_names": self.class_names,
            "numbered_labels": self.numbered,
            "encoder": self.encoder.settings(),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "about": self.about,
        }
        if self.thresholds is not None:
            config["thresholds"] = list(self.thresholds)
        if self.decisions is not None:
            config["decisions"] = self.decisions.to_dict()
        own = self.encoder.files() if isinstance(self.encoder, NgramsAndVectors) else {}
        return {**own, WEIGHTS: weights, CONFIG: json.dumps(config, ensure_ascii=False, indent=1).encode()}

    @property
    def _format_version(self) -> int:
        if self.several:
            return SEVERAL_VERSION
        return FORMAT_VERSION if getattr(self.model, "soft_cap", None) is None else CAPPED_VERSION

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the classifier into a directory, which is made where it is missing."""
        write_files(directory, self.files())


def load_classifier(
    directory: str | os.PathLike[str], *, device: str = "cpu", encoder: str | os.PathLike[str] | None = None
) -> Classifier:
    """Load what `train_classifier` or `Classifier.save` wrote; nothing in the directory is executed.

    Args:
        directory: the directory.
        device: the device to put the model on.
        encoder: where the pretrained encoder is now that the classifier was trained with, if it has been moved; another one
            is refused.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such directory, or it holds no classifier, or its encoder is not where it was.
        ValueError: the files are damaged or do not belong together.

    Examples:
        >>> import linkboy as lb
        >>> lb.load_classifier("no-such-directory")
        Traceback (most recent call last):
        FileNotFoundError: there is no directory no-such-directory; ...
    """
    directory = local_path("directory", directory)
    config = read_config(directory)
    tensors = read_weights(directory, config)
    arrays = {name.removeprefix(ENCODER_PREFIX): t for name, t in tensors.items() if name.startswith(ENCODER_PREFIX)}
    state = {name: t for name, t in tensors.items() if not name.startswith(ENCODER_PREFIX)}
    try:
        kind, class_names = config["model"], config["class_names"]
        features = ENCODERS[kind].restore(config["encoder"], arrays)
        model = restored_model(kind, features, len(class_names), state)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(
            f"{directory} holds a classifier whose {CONFIG} and {WEIGHTS} do not belong together ({problem}); train it again"
        ) from error
    features = _with_encoder(directory, features, model, config, encoder, device)
    numbered, about = config.get("numbered_labels") is True, config.get("about")
    return Classifier(
        kind,
        model.to(device).eval(),
        features,
        class_names,
        numbered=numbered,
        about=about if isinstance(about, dict) else {},
        thresholds=config.get("thresholds"),
        decisions=DecisionCurve.restore(config.get("decisions")),
    )


def _with_encoder(
    directory: Path,
    features: Encoder,
    model: TextModel,
    config: Mapping[str, Any],
    encoder: str | os.PathLike[str] | None,
    device: str,
) -> Encoder:
    """Return what turns texts into features, with the pretrained encoder where the classifier has one."""
    if not isinstance(model, NgramAndVectorClassifier):
        if encoder is not None:
            raise ValueError(f"{directory} was trained without an encoder; leave encoder out")
        return features
    settings = config["encoder"].get(SETTINGS)
    if not isinstance(settings, dict) or not isinstance(features, NgramEncoder):
        raise ValueError(f"{directory / CONFIG} does not say which encoder it needs; train the classifier again")
    both = restore_encoder(directory, features, settings, encoder, device)
    if both.pretrained.width != model.of_vectors.in_features:
        raise ValueError(
            f"{directory} has weights for vectors of {model.of_vectors.in_features} numbers, and its encoder gives "
            f"{both.pretrained.width}; train it again"
        )
    return both


def check_texts(function: str, texts: Sequence[str]) -> None:
    """Raise a `TypeError` unless `texts` is a list of strings."""
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of strings, got one str; put it in brackets: {function}([text])")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be a list of strings, got {type(text).__name__} at position {position}")
