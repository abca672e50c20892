"""A pretrained encoder that is trained further with a linear layer on top, and then is one more member of the mix."""

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from linkboy._files import atomic_write
from linkboy._report import format_count, listed
from linkboy.classify.encoding._dataset import EncodedTexts
from linkboy.classify.encoding._features import FlatFeatures
from linkboy.classify.encoding._pretrained import PretrainedEncoder, padded, pooled
from linkboy.classify.learning._candidate import SIGNALS, TrainingStoppedError
from linkboy.classify.learning._inputs import TrainingInputs
from linkboy.classify.learning._learner import Learner, logits_by, place_of
from linkboy.classify.linear._linear import Member, Task, Vectors, solve_vectors
from linkboy.classify.linear._solver import one_thread
from linkboy.classify.models._models import LinearHead, TextModel
from linkboy.classify.recipe import Recipe, TrainingOptions, recipe_of_finetuning
from linkboy.editing import keep_layers
from linkboy.memory import retry_on_oom
from linkboy.parameters import freeze, param_groups
from linkboy.training import History, is_main_process

LAYER_DECAY = 0.9  # how much slower each layer learns than the one above it
CHUNK = 16  # rows of like length that go through the encoder together on a CPU, where padding costs time
SIZES = "finetune.json"  # beside the checkpoints: what was decided by trying, so that a resumed run decides the same


@dataclasses.dataclass(frozen=True)
class Tuned:
    """An encoder that was trained further.

    Args:
        member: its place in the mix.
        logits: `(judged rows, C)` of a model that has not learned from them.
        pretrained: the encoder.
        weights: `(D, C)`, of the linear layer.
        bias: `(C,)`, of the same.
        history: the record of the training loop, of the training part alone.
        recipe: how it was trained.
    """

    member: Member
    logits: Tensor
    pretrained: PretrainedEncoder
    weights: Tensor
    bias: Tensor
    history: History
    recipe: Recipe


class FinetunedEncoder(TextModel):
    """An encoder, the pooling of its states to one vector of unit length, and a linear layer.

    Args:
        encoder: gives the hidden states of tokens.
        poolings: how the states become one vector.
        weights: `(D, C)`, to begin with.
        bias: `(C,)`, to begin with.

    Shape: ids and mask `(B, T)` int64 -> logits `(B, C)`.
    """

    def __init__(self, encoder: nn.Module, poolings: Sequence[str], weights: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.encoder, self.poolings = encoder, tuple(poolings)
        self.head = LinearHead(weights.shape[0], weights.shape[1])
        with torch.no_grad():
            self.head.weight.copy_(weights.T)
            self.head.bias.copy_(bias)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits `(B, C)`."""
        lengths = mask.sum(1)
        if ids.device.type != "cpu":
            return self._logits(ids, mask)
        order = lengths.argsort(stable=True)
        parts = []
        for rows in order.split(CHUNK):
            width = max(int(lengths[rows[-1]]), 1)
            parts.append(self._logits(ids[rows, :width], mask[rows, :width]))
        return torch.cat(parts)[order.argsort()]

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.head(F.normalize(pooled(hidden.float(), mask, self.poolings), dim=1))

    def adjust_(self, shift: Tensor, temperature: float) -> None:
        """Change the weights so that the logits are `(logits + shift) / temperature` from now on."""
        self.head.adjust_(shift, temperature)


@dataclasses.dataclass(frozen=True)
class PretrainedTokens:
    """Encodes texts as the tokens of a pretrained encoder."""

    pretrained: PretrainedEncoder

    def __len__(self) -> int:
        return len(self.pretrained.model.get_input_embeddings().weight)  # type: ignore[operator]

    def encode(self, texts: Sequence[str]) -> FlatFeatures:
        """Turn texts into rows of ids."""
        return self.pretrained.tokenize(texts)

    def collate(self, rows: FlatFeatures) -> tuple[Tensor, ...]:
        """Return ids and mask `(B, T)`."""
        return padded(rows, self.pretrained.pad_id)

    def settings(self) -> dict[str, Any]:
        """Return what JSON can hold of the encoder."""
        return self.pretrained.settings()

    def arrays(self) -> dict[str, Tensor]:
        """Return no tensors."""
        return {}


@dataclasses.dataclass(frozen=True)
class FinetuneLearner(Learner):
    """Trains an encoder with slower layers below."""

    def parameters_of(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return groups of parameters, those of each layer with a rate of their own."""
        decay = self.recipe.weight_decay
        try:
            return param_groups(model, weight_decay=decay, layer_decay=LAYER_DECAY, lr=self.recipe.lr)
        except ValueError:  # an architecture without numbered layers
            return param_groups(model, weight_decay=decay, lr=self.recipe.lr)

    def weighted(self, rows: EncodedTexts) -> EncodedTexts:
        """Return the rows, whose weights are those of their classes already."""
        return rows


def cut(pretrained: PretrainedEncoder, layers: int) -> None:
    """Keep the first layers of an encoder, checked by running it; the configuration follows.

    Raises:
        ValueError: it has fewer, or no stack of layers.
    """
    model, count = pretrained.model, getattr(pretrained.model.config, "num_hidden_layers", None)
    stacks = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not stacks:
        raise ValueError(
            f"layers needs an encoder with a list of layers, got {pretrained.files.directory}; leave layers out"
        )
    if layers > len(model.get_submodule(stacks[0])):  # type: ignore[arg-type]
        raise ValueError(f"layers must be at most the {count} that the encoder has, got {layers}")
    ids, mask = (x.to(pretrained.device) for x in padded(pretrained.tokenize(["linkboy"]), pretrained.pad_id))
    keep_layers(model, stacks[0], range(layers), example={"input_ids": ids, "attention_mask": mask})


def finetune(
    inputs: TrainingInputs,
    pretrained: PretrainedEncoder,
    task: Task,
    vectors: Vectors,
    split: tuple[NDArray[np.int64], NDArray[np.int64]],
    final: NDArray[np.int64],
) -> Tuned:
    """Train an encoder on some rows and judge it by others; then, where there are more rows, once more on all of them.

    The linear layer on top begins as the one that is solved for the vectors of the encoder as it is, so that the encoder is
    not first trained towards random weights.

    Args:
        inputs: what was asked for and given, whose training and validation part are the rows of the task.
        pretrained: the encoder, which stays unchanged.
        task: what to learn.
        vectors: what the encoder as it is gives these rows.
        split: rows to learn from and rows to judge by.
        final: rows to learn from in the end.

    Raises:
        TrainingStoppedError: a signal came.
        ValueError: a pattern of `freeze` matches nothing.
    """
    options, checkpoints = inputs.options, inputs.checkpoints
    tokens = pretrained.tokenize([text for part in ("train", "valid") for text in inputs.parts.texts[part].texts])
    encoder = PretrainedTokens(pretrained)

    def encoded(rows: NDArray[np.int64]) -> EncodedTexts:
        return EncodedTexts(encoder, tokens.gather(rows), task.targets[rows], task.weights[rows])

    with one_thread():
        member, heads = solve_vectors(task, vectors, split, [split[0], final])
    fresh = [_fresh(options, pretrained, head) for head in (heads if len(final) > len(split[0]) else heads[:1])]
    lower = bool(pretrained.lower_precision)
    options, recipe = _sized(
        options, recipe_of_finetuning(options), fresh[0], encoded(split[0]), checkpoints, lower=lower
    )
    if options.freeze is not None:
        inputs.show(f"frozen in the encoder: {_frozen(fresh[0])}")
    inputs.show(recipe)
    learner = FinetuneLearner(options, recipe, encoder, task.classes)
    torch.manual_seed(options.seed)
    history = learner.fit(fresh[0], encoded(split[0]), encoded(split[1]), checkpoints / "choosing")
    if history.stopped in SIGNALS:
        raise TrainingStoppedError(history)
    logits = logits_by(options, fresh[0], encoded(split[1]))
    if len(fresh) > 1:
        again = learner.fit(fresh[1], encoded(final), None, checkpoints / "on-all-rows")
        if again.stopped in SIGNALS:
            raise TrainingStoppedError(again)
    model = fresh[-1]
    kept = dataclasses.replace(member, loss="cross-entropy", scale="fine-tuned", strength=0.0)
    weights, bias = model.head.weight.detach().T.clone(), model.head.bias.detach().clone()
    tuned = pretrained.with_model(model.encoder.requires_grad_(False))
    return Tuned(kept, logits, tuned, weights, bias, history, recipe)


def _fresh(options: TrainingOptions, pretrained: PretrainedEncoder, head: tuple[Tensor, Tensor]) -> FinetunedEncoder:
    """Return an unchanged copy of the encoder, with a head; what is to be frozen is."""
    encoder = copy.deepcopy(pretrained.model).requires_grad_(True)
    if getattr(encoder, "pooler", None) is not None:
        encoder.register_module(
            "pooler", None
        )  # a layer for the first token that nothing here uses, and that would never get a gradient
    if options.freeze is not None:
        freeze(encoder, [pattern.strip() for pattern in options.freeze.split(",")])
    return FinetunedEncoder(encoder, pretrained.files.poolings, *head)


def _frozen(model: FinetunedEncoder) -> str:
    frozen = [(name, p.numel()) for name, p in model.encoder.named_parameters() if not p.requires_grad]
    return f"{format_count(sum(size for _, size in frozen))} weights, {listed(name for name, _ in frozen)}"


def _sized(
    options: TrainingOptions,
    recipe: Recipe,
    model: FinetunedEncoder,
    rows: EncodedTexts,
    checkpoints: Path,
    *,
    lower: bool,
) -> tuple[TrainingOptions, Recipe]:
    """Return options and recipe with a batch that the memory holds, the batches per step, and the precision.

    What was tried is written beside the checkpoints, so that a run that is resumed does not decide otherwise.
    """
    place = checkpoints / SIZES
    try:
        sizes = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError):
        longest = np.argsort(-np.diff(rows.features.gather(np.arange(len(rows))).offsets), kind="stable")

        def step(batch_size: int, accumulate: int) -> None:
            inputs, targets, _ = rows.__getitems__(longest[:batch_size].tolist())
            F.cross_entropy(model(*(x.to(device) for x in inputs)), targets.to(device)).backward()

        device = place_of(options)
        model.to(device)
        tried = retry_on_oom(step, recipe.batch_size, accumulate=options.accumulate)
        model.zero_grad(set_to_none=True)
        model.cpu()
        sizes = {"batch_size": tried.batch_size, "accumulate": tried.accumulate, "bfloat16": lower}
        if is_main_process():
            checkpoints.mkdir(parents=True, exist_ok=True)
            with atomic_write(place) as file:
                file.write(json.dumps(sizes).encode())
    precision = "bf16" if sizes["bfloat16"] and options.precision == "fp32" else options.precision
    options = dataclasses.replace(options, accumulate=sizes["accumulate"], precision=precision)
    return options, dataclasses.replace(recipe, batch_size=sizes["batch_size"])
