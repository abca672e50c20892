"""What the user asks for, and the training settings that follow from it and from the data; loads no torch."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args

from linkboy._checks import check_choice, check_number
from linkboy._report import Block, Printable, plural

Model = Literal["ngram", "cnn", "capsule", "transformer"]
Loss = Literal["auto", "cross-entropy", "squared-hinge", "focal", "logit-adjusted"]
ClassWeight = Literal["none", "balanced", "sqrt", "effective"]
Metric = Literal["auto", "accuracy", "macro-f1"]
Freeze = Literal["all", "known", "none"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16", "fp16"]

TOKEN_MODELS = ("cnn", "capsule", "transformer")
LONG_TAIL = 10  # how many times the rows of the smallest class the largest one has
LARGE = 200_000  # rows, from which on the n-gram model is trained in epochs as well
FEWEST_EPOCHS = ((1_000_000, 1), (LARGE, 2), (40_000, 4), (0, 6))  # from so many rows on
SECONDS_OF = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What to train and how; the defaults suit most data.

    The sentences below are also the help of `linkboy train`.

    Attributes:
        model: The kind of model. ngram: a linear model over character and word n-grams, trained in seconds. cnn:
            convolutions over tokens. capsule: their features as capsules, routed to a capsule per class. transformer: two
            small layers of attention.
        loss: The loss to minimise. auto: for ngram the mix of squared-hinge (each class against all others, as in a linear
            SVM) and cross-entropy that is likeliest, for other models cross-entropy, or logit-adjusted where macro-f1 is
            asked for and classes are of very unequal size. focal and logit-adjusted are for models that read tokens.
        gamma: Focusing exponent of the focal loss; 2 by default.
        class_weight: How to weight rows by the size of their class.
        metric: The metric by which the validation part chooses, for instance the epoch to keep. auto: accuracy, or micro-F1
            where a text may have several labels. macro-f1 counts every class the same, however rare, and moves the decisions
            towards the rare ones.
        epochs: Passes over the training part, for models that are trained in epochs: all but ngram, and ngram from 200,000
            rows on; chosen from its size by default.
        batch_size: Rows per batch, over all processes, for the same models; chosen from the size of the training part.
        lr: Peak learning rate, for the same models; that of the model by default.
        accumulate: Batches per step of the optimizer.
        vocab: For models that read tokens, all but ngram: a BERT vocab.txt to use instead of a vocabulary learned from the
            texts.
        vectors: For the cnn: a file of pretrained vectors for the tokens, such as GloVe, word2vec or fastText.
        freeze: For vectors: which rows to keep fixed: all, the known ones that the file has, or none, the default. With
            finetune: names of parameters or modules of the encoder to keep as they are, patterns such as embeddings.*,
            separated by commas.
        encoder: A local directory with a pretrained encoder, of transformers or sentence-transformers, whose vectors of
            the texts the ngram model uses as well; it stays as it is, and nothing is downloaded. Needs linkboy[encoder].
        finetune: Train the encoder too, with a linear layer on top, lower layers more slowly: three epochs by default, where a
            frozen one takes one pass. It is saved with the classifier.
        layers: With finetune: keep only so many layers of the encoder, the first ones.
        early_stopping: Stop after this many epochs without improvement of the metric; all epochs are run by default.
        ema: Decay of a moving average of the weights, which is then saved instead of them; for instance 0.999.
        refit: Once everything is chosen, train the ngram model on the training and validation parts together; for fewer
            than 200,000 rows.
        folds: For the ngram model: also train on so many parts of FILE, each time without one of them, and judge every row by
            the model that has not seen its text. This gives figures with an error bar, and suspected labels of the whole file.
        budget: Time to use, in seconds or such as 60s, 2m or 1h: other settings are tried while there is time, and those
            that are best by the metric are kept. What a clock decides cannot be repeated exactly.
        compile: Run the model through torch.compile.
        checkpoint_every: Save a checkpoint after this many steps; once a minute by default.
        precision: Arithmetic of the model; bf16 and fp16 are mixed precision.
        device: Where to train; auto takes the fastest device that is available.
        seed: Decides the split, the order of the rows and the initial weights.

    Raises:
        ValueError: a value is not among the choices, or a number is out of range.
        TypeError: a value is not a number where one is expected.

    Examples:
        >>> import linkboy as lb
        >>> lb.TrainingOptions(model="cnn", loss="focal", gamma=1.5).gamma
        1.5
    """

    model: Model = "ngram"
    loss: Loss = "auto"
    gamma: float | None = None
    class_weight: ClassWeight = "none"
    metric: Metric = "auto"
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    accumulate: int = 1
    vocab: str | None = None
    vectors: str | None = None
    freeze: str | None = None
    encoder: str | None = None
    finetune: bool = False
    layers: int | None = None
    early_stopping: int | None = None
    ema: float | None = None
    refit: bool = True
    folds: int | None = None
    budget: float | str | None = None
    compile: bool = False
    checkpoint_every: int | None = None
    precision: Precision = "fp32"
    device: Device = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if name != "freeze" or (self.freeze is not None and not self.finetune):
                check_choice(name, getattr(self, name), choices)
        self._check_numbers()
        self._check_encoder()
        self._check_folds()
        if self.model == "ngram" and not self.finetune and self.loss in ("focal", "logit-adjusted"):
            raise ValueError(
                f"loss={self.loss!r} is for models that read tokens, one of {TOKEN_MODELS}, got model='ngram'; its losses are "
                "'squared-hinge' and 'cross-entropy', and metric='macro-f1' lifts rare classes"
            )
        if self.gamma is not None and self.loss != "focal":
            raise ValueError(f"gamma is for loss='focal', got loss={self.loss!r}; leave gamma out")
        if self.vectors is not None and self.model != "cnn":
            raise ValueError(f"vectors are for model='cnn', got model={self.model!r}; leave vectors out")
        if self.freeze is not None and self.vectors is None and not self.finetune:
            raise ValueError(f"freeze is for vectors, got freeze={self.freeze!r} without any; leave freeze out")
        if self.vocab is not None and self.model not in TOKEN_MODELS:
            raise ValueError(
                f"vocab is for a model that reads tokens, one of {TOKEN_MODELS}, got model={self.model!r}; leave vocab out"
            )

    def _check_encoder(self) -> None:
        if self.encoder is not None and self.model != "ngram":
            raise ValueError(f"encoder is for model='ngram', got model={self.model!r}; leave encoder or model out")
        if self.finetune and self.encoder is None:
            raise ValueError(
                "finetune is for an encoder, got none; name its directory with encoder=..., or leave finetune out"
            )
        if self.layers is not None and not self.finetune:
            raise ValueError(f"layers is for finetune=True, got layers={self.layers!r} without it; leave layers out")
        if self.finetune and self.budget is not None:
            raise ValueError("budget is not for finetune, which takes the epochs that it is given; leave budget out")
        if self.finetune and self.loss == "squared-hinge":
            raise ValueError("loss must be another one than 'squared-hinge' with finetune=True; leave loss out")

    def _check_folds(self) -> None:
        if self.folds is None:
            return
        check_number("folds", self.folds, minimum=2, integer=True)
        if self.model != "ngram":
            raise ValueError(f"folds is for model='ngram', got model={self.model!r}; leave folds or model out")
        for name in ("encoder", "budget"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"folds is for the n-gram model alone, got {name}={getattr(self, name)!r}; leave one of them out"
                )

    def _check_numbers(self) -> None:
        check_number("seed", self.seed, minimum=0, maximum=2**63 - 1, integer=True)
        check_number("accumulate", self.accumulate, minimum=1, integer=True)
        for name in ("epochs", "batch_size", "early_stopping", "checkpoint_every", "layers"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), minimum=1, integer=True)
        if self.gamma is not None:
            check_number("gamma", self.gamma, minimum=0)
        for name in ("lr", "budget_seconds", "ema"):
            if getattr(self, name) is not None:
                check_number(name.removesuffix("_seconds"), getattr(self, name), above=0)
        if self.ema is not None and self.ema >= 1:
            raise ValueError(f"ema must be a number above 0 and below 1, got {self.ema!r}")

    @property
    def budget_seconds(self) -> float | None:
        """The budget as a number of seconds; `None` without one."""
        return _seconds_of(self.budget) if isinstance(self.budget, str) else self.budget

    def unused_by_solver(self) -> list[str]:
        """Return the options that were given and that the n-gram model, which is solved and not trained, does not use."""
        return [name for name in _OF_EPOCHS if getattr(self, name) != getattr(type(self), name)]

    def metric_of(self, *, several: bool) -> str:
        """Return the metric that chooses, where a text has one class, or may have several labels."""
        return self.metric if self.metric != "auto" else "micro-f1" if several else "accuracy"

    def check_several(self) -> None:
        """Raise if the options ask for what only one class a text has.

        Raises:
            ValueError: an option has no meaning where a text may have several labels; the message says which.
        """
        for name, value, instead in (
            ("metric", "accuracy", "leave metric out for micro-F1, or pass metric='macro-f1'"),
            ("loss", "logit-adjusted", "pass loss='focal', or leave loss out"),
        ):
            if getattr(self, name) == value:
                raise ValueError(
                    f"{name}={value!r} is for texts of one class, and these may have several labels; {instead}"
                )
        if self.class_weight != "none":
            raise ValueError(
                f"class_weight={self.class_weight!r} is for texts of one class, and these may have several labels; pass "
                "metric='macro-f1', which counts each label the same"
            )
        if self.budget is not None and self.model != "ngram":
            raise ValueError(
                f"budget is for texts of one class or the ngram model, got model={self.model!r} and texts that may have "
                "several labels; leave budget out"
            )
        if self.finetune:
            raise ValueError(
                "finetune is for texts of one class, and these may have several labels; leave finetune out"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the options by their names."""
        return dataclasses.asdict(self)

    def check_machine(self) -> None:
        """Raise unless this machine has what the options ask for.

        Raises:
            ValueError: the device is not there, it has no such precision, or there are several processes to share a budget.
        """
        import torch

        from linkboy.training import process_count

        if self.budget is not None and process_count() > 1:
            raise ValueError(f"budget is for one process, got {process_count()}; leave budget out")
        if self.folds is not None and process_count() > 1:
            raise ValueError(f"folds is for one process, got {process_count()}; leave folds out")
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available.get(self.device, True):
            raise ValueError(
                f"device must be one that this machine has, got {self.device!r}; pass device='cpu' or device='auto'"
            )
        on_cpu = self.device == "cpu" or (self.device == "auto" and not torch.accelerator.is_available())
        if on_cpu and self.precision == "fp16":
            raise ValueError(
                "precision fp16 needs a GPU, and this run is on a CPU; pass precision='bf16' or precision='fp32'"
            )


_CHOICES = {
    "model": get_args(Model),
    "loss": get_args(Loss),
    "class_weight": get_args(ClassWeight),
    "metric": get_args(Metric),
    "freeze": get_args(Freeze),
    "device": get_args(Device),
    "precision": get_args(Precision),
}


_OF_EPOCHS = (
    "epochs",
    "batch_size",
    "lr",
    "accumulate",
    "early_stopping",
    "ema",
    "compile",
    "checkpoint_every",
    "precision",
)


def _seconds_of(budget: str) -> float:
    """Return the seconds of a time such as `90`, `60s`, `2m` or `1.5h`."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([smh]?)\s*", budget.lower())
    if match is None or not float(match[1]):
        raise ValueError(f"budget must be a time above 0 such as 90, 60s, 2m or 1h, got {budget!r}")
    return float(match[1]) * SECONDS_OF[match[2]]


@dataclasses.dataclass(frozen=True)
class DataTraits:
    """What the settings follow from: training rows, those of the largest and smallest class, whether a row has several."""

    rows: int
    classes: int
    largest: int
    smallest: int
    several: bool = False

    @property
    def tailed(self) -> bool:
        """Whether the classes are of very unequal size."""
        return self.largest >= LONG_TAIL * max(self.smallest, 1)


@dataclasses.dataclass(frozen=True)
class Recipe(Printable):
    """The settings that a run uses: AdamW with a short warm-up and a linear decay to zero.

    Attributes:
        batch_size: rows per step, over all processes.
        epochs: passes over the training part.
        lr: peak learning rate.
        weight_decay: decoupled weight decay of AdamW.
        eps: epsilon of AdamW.
        loss: the loss that is minimised.
        label_smoothing: label smoothing of the cross-entropy.
        metric: the metric by which the validation part chooses.
        keep: the epoch whose weights are kept: `"best"` by the metric, or `"last"`.
        scaled: whether n-grams are counted as present or absent and their weights are scaled by their log-odds.
        beta2: second beta of AdamW.
        warmup_share: share of the steps in which the learning rate rises.
        notes: what decided the metric and the loss.
    """

    batch_size: int
    epochs: int
    lr: float
    weight_decay: float
    eps: float
    loss: str
    label_smoothing: float
    metric: str
    keep: str
    scaled: bool = False
    beta2: float = 0.99
    warmup_share: float = 0.05
    notes: tuple[str, ...] = ()

    def _blocks(self) -> Iterator[Block]:
        smoothing = f" with label smoothing {self.label_smoothing:g}" if self.label_smoothing else ""
        scaled = ", n-grams scaled by their log-odds (naive Bayes)" if self.scaled else ""
        yield (
            f"training: {plural(self.epochs, 'epoch')} in batches of {self.batch_size}, AdamW with peak rate "
            f"{self.lr:g} and weight "
            f"decay {self.weight_decay:g}, {self.loss} loss{smoothing}{scaled}; the {self.keep} epoch is kept"
        )
        yield "\n".join(self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by their names."""
        return dataclasses.asdict(self)

    def rate_at(self, step: int, steps: int) -> float:
        """Return the share of the peak rate for a step (from 0) of `steps`."""
        warmup = max(1, math.ceil(self.warmup_share * steps))
        return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup + 1))


def choose_recipe(options: TrainingOptions, traits: DataTraits) -> Recipe:
    """Choose the training settings from what the training part is like, except where the options name them.

    The number of updates matters more than the number of epochs: 300 to 1,400 are enough from a few hundred rows to fifty
    thousand.
    """
    metric = options.metric_of(several=traits.several)
    loss, why_loss = _choose_loss(options, traits, metric)
    # Log-odds of rare classes come from few rows, and pull them towards what these rows happen to hold.
    scaled = options.model == "ngram" and options.class_weight == "none" and not traits.several
    batch_size = options.batch_size or _batch_size(options.model, traits.rows)
    steps_per_epoch = math.ceil(traits.rows / batch_size)
    fewest = next(epochs for rows, epochs in FEWEST_EPOCHS if traits.rows >= rows)
    epochs = options.epochs or max(fewest, min(100, math.ceil(300 / steps_per_epoch)))
    # Label smoothing shrinks the logits, on which focal and adjusted losses build; it goes with cross-entropy alone.
    smoothing = {"ngram": 0.2}.get(options.model, 0.1) if loss == "cross-entropy" and not traits.several else 0.0
    lr, weight_decay, eps, beta2 = _optimizer(options.model, scaled=scaled)
    return Recipe(
        batch_size=batch_size,
        epochs=epochs,
        lr=options.lr or lr,
        weight_decay=weight_decay,
        eps=eps,
        loss=loss,
        label_smoothing=smoothing,
        metric=metric,
        keep="last" if options.model == "ngram" and options.early_stopping is None else "best",
        scaled=scaled,
        beta2=beta2,
        notes=(f"metric: {metric}" + ("" if options.metric == "auto" else ", as asked for"), why_loss),
    )


def recipe_of_finetuning(options: TrainingOptions) -> Recipe:
    """Return the training settings for an encoder with a linear layer on top."""
    loss = "cross-entropy" if options.loss == "auto" else options.loss
    return Recipe(
        batch_size=options.batch_size or 32,
        epochs=options.epochs or 3,
        lr=options.lr or 1e-4,
        weight_decay=0.01,
        eps=1e-8,
        loss=loss,
        label_smoothing=0.0,
        metric="accuracy" if options.metric == "auto" else options.metric,
        keep="last" if options.early_stopping is None else "best",
        beta2=0.999,
        warmup_share=0.1,
        notes=("the encoder is trained with a linear layer on top, each layer more slowly than the one above it",),
    )


def _batch_size(model: str, rows: int) -> int:
    if rows < 2000:
        return max(8, min(64, rows // 16))
    if model != "ngram":
        return 64 if rows < 20_000 else 256
    return 2048 if rows >= LARGE else 512


def _optimizer(model: str, *, scaled: bool) -> tuple[float, float, float, float]:
    """Return peak rate, weight decay, epsilon and second beta of AdamW."""
    if model != "ngram":
        return 1e-3 if model == "transformer" else 2e-3, 0.01, 1e-8, 0.999
    # Most n-grams are rare: without a scale, an epsilon far above the usual 1e-8 keeps the steps of those, whose gradients
    # are tiny, small as well.
    return (0.02, 0.1, 1e-8, 0.99) if scaled else (0.2, 0.02, 3e-4, 0.99)


def _choose_loss(options: TrainingOptions, traits: DataTraits, metric: str) -> tuple[str, str]:
    if options.loss != "auto":
        return options.loss, f"loss: {options.loss}, as asked for"
    if options.model == "ngram":
        return "squared-hinge", "loss: squared-hinge, each class against all others"
    if traits.tailed and metric == "macro-f1" and options.class_weight == "none" and not traits.several:
        return "logit-adjusted", "loss: logit-adjusted, which lifts the rare classes of a long tail"
    return "cross-entropy", "loss: cross-entropy"
