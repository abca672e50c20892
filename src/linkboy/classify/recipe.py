"""What the user asks for, and the training settings that follow from it and from the data."""

import dataclasses
import math
from collections.abc import Iterator

from linkboy._checks import check_choice, check_number
from linkboy._report import Block, Report

MODELS = ("ngram", "cnn", "capsule")
TOKEN_MODELS = ("cnn", "capsule")
LOSSES = ("cross-entropy", "focal", "logit-adjusted")
CLASS_WEIGHTS = ("none", "balanced", "sqrt", "effective")
METRICS = ("auto", "accuracy", "macro-f1")
LONG_TAIL = 10  # how many times the smallest class the largest one has
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclasses.dataclass(frozen=True)
class TrainingOptions(Report):
    """What can be asked of a training run.

    Args:
        model: `"ngram"` (a linear model over character and word n-grams), `"cnn"` (convolutions over tokens) or
            `"capsule"` (their features as capsules, routed to a capsule per class).
        loss: `"cross-entropy"`, `"focal"` or `"logit-adjusted"` (for classes of very unequal size).
        gamma: focusing exponent, for `"focal"` only; 2 by default.
        class_weight: weigh rows by the size of their class: `"none"`, `"balanced"`, `"sqrt"` or `"effective"`.
        metric: what is chosen on the validation part, such as the epoch to keep, is chosen by this: `"accuracy"`,
            `"macro-f1"`, or `"auto"`, which takes macro-F1 where one class has ten times the rows of another.
        epochs: passes over the training part; by default chosen from its size.
        batch_size: rows per batch over all processes; by default chosen from the size of the training part.
        lr: peak learning rate; by default that of the model.
        seed: of the split, the order of the rows and the initial weights.
        device: `"auto"` (the fastest there is), `"cpu"`, `"cuda"` or `"mps"`.
        precision: `"fp32"`, `"bf16"` or `"fp16"` (mixed precision).
        accumulate: batches per step of the optimizer.
        vocab: for `"cnn"` and `"capsule"`, a BERT `vocab.txt` to use in place of a vocabulary learned from the texts.
        early_stopping: stop after that many epochs without a better `metric`; by default all epochs are run.
        ema: decay of a moving average of the weights, which is then what is kept, e.g. 0.999.
        compile: run the model through `torch.compile`.
        checkpoint_every: save after that many steps; by default once a minute.

    Raises:
        ValueError: a value is not among the choices, or a number is out of range.
        TypeError: a number is due.

    Examples:
        >>> import linkboy as lb
        >>> lb.TrainingOptions(loss="focal", gamma=1.5).gamma
        1.5
    """

    model: str = "ngram"
    loss: str = "cross-entropy"
    gamma: float | None = None
    class_weight: str = "none"
    metric: str = "auto"
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    accumulate: int = 1
    vocab: str | None = None
    early_stopping: int | None = None
    ema: float | None = None
    compile: bool = False
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        check_choice("model", self.model, MODELS)
        check_choice("loss", self.loss, LOSSES)
        check_choice("class_weight", self.class_weight, CLASS_WEIGHTS)
        check_choice("metric", self.metric, METRICS)
        check_choice("device", self.device, DEVICES)
        check_choice("precision", self.precision, PRECISIONS)
        if self.gamma is not None:
            check_number("gamma", self.gamma, minimum=0)
            if self.loss != "focal":
                raise ValueError(f"gamma is for loss='focal', got loss={self.loss!r}; leave gamma out")
        check_number("seed", self.seed, minimum=0, maximum=2**63 - 1, integer=True)
        check_number("accumulate", self.accumulate, minimum=1, integer=True)
        for name in ("epochs", "batch_size", "early_stopping", "checkpoint_every"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), minimum=1, integer=True)
        if self.lr is not None:
            check_number("lr", self.lr, above=0)
        if self.ema is not None:
            check_number("ema", self.ema, above=0)
            if self.ema >= 1:
                raise ValueError(f"ema must be a number above 0 and below 1, got {self.ema!r}")
        if self.vocab is not None and self.model not in TOKEN_MODELS:
            raise ValueError(
                f"vocab is for a model that reads tokens, one of {TOKEN_MODELS}, got model={self.model!r}; leave vocab out"
            )

    def check_machine(self) -> None:
        """Raise unless this machine has what the options ask for.

        Raises:
            ValueError: the device is not there, or it has no such precision.
        """
        import torch

        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available.get(self.device, True):
            raise ValueError(
                f"device must be one that this machine has, got {self.device!r}; pass --device cpu or auto"
            )
        on_cpu = self.device == "cpu" or (self.device == "auto" and not torch.accelerator.is_available())
        if on_cpu and self.precision == "fp16":
            raise ValueError("precision fp16 needs a GPU, and this run is on a CPU; pass --precision bf16 or fp32")


@dataclasses.dataclass(frozen=True)
class DataTraits:
    """What the settings follow from: the size of the training part, and the rows of its largest and smallest class."""

    rows: int
    largest: int
    smallest: int


@dataclasses.dataclass(frozen=True)
class Recipe(Report):
    """The settings that a run uses: AdamW with a short warm-up and a linear decay to zero."""

    batch_size: int
    epochs: int
    lr: float
    weight_decay: float
    eps: float
    label_smoothing: float
    metric: str
    beta2: float = 0.99
    warmup_share: float = 0.05
    why: tuple[str, ...] = ()

    def _blocks(self) -> Iterator[Block]:
        yield (
            f"training: {self.epochs} epochs in batches of {self.batch_size}, AdamW with peak rate {self.lr:g}, weight decay "
            f"{self.weight_decay:g}, label smoothing {self.label_smoothing:g}"
        )
        yield "\n".join(self.why)

    def rate_at(self, step: int, steps: int) -> float:
        """Return the share of the peak rate for a step (from 0) of `steps`."""
        warmup = max(1, math.ceil(self.warmup_share * steps))
        return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup + 1))


def choose_recipe(options: TrainingOptions, traits: DataTraits) -> Recipe:
    """Choose the training settings from what the training part is like, except where the options name them.

    The number of updates matters more than the number of epochs: some 700 to 1,600 are enough from five thousand rows
    to fifty thousand, and small sets get at least 300.
    """
    rows = traits.rows
    batch_size = options.batch_size or (
        256 if rows >= 40_000 else 128 if rows >= 15_000 else max(8, min(64, rows // 16))
    )
    steps_per_epoch = math.ceil(rows / batch_size)
    epochs = options.epochs or max(5 if rows >= 40_000 else 8, min(100, math.ceil(300 / steps_per_epoch)))
    # Label smoothing shrinks the logits, on which focal and adjusted losses build; it goes with cross-entropy alone.
    smoothing = 0.2 if options.loss == "cross-entropy" else 0.0
    metric, why = _choose_metric(options, traits)
    if options.model in TOKEN_MODELS:
        lr, weight_decay, eps, beta2, smoothing = 2e-3, 0.01, 1e-8, 0.999, smoothing / 2
    elif rows >= 40_000:
        lr, weight_decay, eps, beta2 = 0.05, 0.1, 1e-8, 0.99
    else:
        # Fewer rows leave more n-grams rare; an epsilon far above the usual 1e-8 keeps the steps of those, whose
        # gradients are tiny, small as well, and then the rate can be higher.
        lr, weight_decay, eps, beta2 = (0.5, 0.005, 3e-4, 0.99) if rows >= 15_000 else (0.2, 0.02, 3e-4, 0.99)
    return Recipe(batch_size, epochs, options.lr or lr, weight_decay, eps, smoothing, metric, beta2, why=(why,))


def _choose_metric(options: TrainingOptions, traits: DataTraits) -> tuple[str, str]:
    if options.metric != "auto":
        return options.metric, f"chosen by on the validation part: {options.metric}, as asked for"
    tailed = traits.largest >= LONG_TAIL * max(traits.smallest, 1)
    metric = "macro-f1" if tailed else "accuracy"
    ratio = f"the largest class has {traits.largest / max(traits.smallest, 1):.3g} times the rows of the smallest"
    advice = (
        "a long tail; --metric accuracy if rare classes count no more than their rows" if tailed else "no long tail"
    )
    return metric, f"chosen by on the validation part: {metric}, since {ratio} ({advice})"
