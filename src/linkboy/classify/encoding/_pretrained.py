"""A pretrained encoder that stays as it is: texts to vectors, sorted by length, each text once."""

import copy
import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from linkboy._compat import OLDEST_TRANSFORMERS, available_accelerator, check_version
from linkboy._oom import is_out_of_memory
from linkboy._progress import Progress
from linkboy.classify.encoding._encoder_files import INDEX, MODULES, EncoderFiles, read_encoder
from linkboy.classify.encoding._features import FlatFeatures
from linkboy.memory import retry_on_oom
from linkboy.text import BertTokenizer

Result = TypeVar("Result")
Tokenize = Callable[[Sequence[str]], FlatFeatures]

OWNED = "encoder"  # where a classifier keeps an encoder that was trained with it
PIECE = 20_000  # texts that are cut into tokens at once
TOKENS, ROWS = 1024, 32  # of a batch on a CPU; an accelerator takes 64 times as many
TIMED_ROWS = 16  # by which the precision is chosen
MOST_CACHED = 2**28  # numbers: a gigabyte
LEAST_COSINE = 0.999  # between vectors of both precisions, for the lower one to be used
SPARE_ROWS = 0.05  # share of the rows of an embedding that no token may have, where they are more than a hundred


class PretrainedEncoder:
    """A model and its tokenizer from a local directory, which give each text a vector.

    Args:
        files: the directory, as `read_encoder` has checked it.
        model: gives the hidden states of tokens.
        tokenize: from texts to rows of ids, the special tokens among them.
        pad_id: the id that fills up rows; it is masked.
        device: where to compute.
        lower_precision: whether to compute in bfloat16; `None` to try it on the first batch.
    """

    def __init__(
        self,
        files: EncoderFiles,
        model: nn.Module,
        tokenize: Tokenize,
        *,
        pad_id: int = 0,
        device: torch.device | str = "cpu",
        lower_precision: bool | None = None,
    ) -> None:
        self.files, self.model, self.tokenize, self.pad_id = files, model, tokenize, pad_id
        self.device, self.lower_precision = torch.device(device), lower_precision
        self.name, self.fingerprint = files.name, files.fingerprint()
        self.owned = False  # whether it was trained with a classifier and is kept in its directory
        self._cache: dict[bytes, Tensor] = {}

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        lower_precision: bool | None = None,
    ) -> "PretrainedEncoder":
        """Load an encoder; nothing in its directory is executed, and nothing is downloaded.

        Raises:
            FileNotFoundError: there is no such directory.
            MemoryError: it does not fit into the memory.
            ModuleNotFoundError: transformers is not installed.
            ValueError: the directory holds no encoder that can be used; the message says why.
        """
        files = read_encoder(directory)
        if importlib.util.find_spec("transformers") is None:
            raise ModuleNotFoundError("a pretrained encoder needs transformers; run: pip install 'linkboy[encoder]'")
        with _quiet_transformers():
            model = _in_memory(files, lambda: _load_model(files))
            tokenize, tokens, pad_id = _load_tokenizer(files)
        _check_vocabulary(files, model, tokens)
        where = device or available_accelerator() or "cpu"
        model = _in_memory(files, lambda: model.to(where))
        return cls(files, model, tokenize, pad_id=pad_id, device=where, lower_precision=lower_precision)

    def vectors(self, texts: Sequence[str], *, show: bool = False) -> Tensor:
        """Return `(len(texts), D)` float32 vectors of unit length, on the CPU; a text that was seen before costs nothing."""
        keys = [_key(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._cache}
        made = dict(zip(new, self._encode(list(new.values()), show).unbind(), strict=True)) if new else {}
        if (len(self._cache) + len(made)) * self.width <= MOST_CACHED:
            self._cache.update(made)
        rows = [made[key] if key in made else self._cache[key] for key in keys]
        return torch.stack(rows) if rows else torch.zeros(0, self.width)

    def with_model(self, model: nn.Module) -> "PretrainedEncoder":
        """Return an encoder that differs in its model, and knows no text yet."""
        made = copy.copy(self)
        made.model, made.lower_precision, made._cache = model.to(self.device).eval(), None, {}
        return made

    def save(self, directory: Path) -> "PretrainedEncoder":
        """Write model, tokenizer and pooling into a directory, as sentence-transformers does; return the encoder of it."""
        directory.mkdir(parents=True, exist_ok=True)
        with _quiet_transformers():
            self.model.save_pretrained(directory)  # type: ignore[operator]
        for path in self.files.files:
            if path.suffix != ".safetensors" and not (directory / path.name).exists() and path.name != INDEX:
                (directory / path.name).write_bytes(path.read_bytes())
        kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (kind, path) in enumerate(kinds)
        ]
        (directory / "1_Pooling").mkdir(exist_ok=True)
        pooling = {
            "word_embedding_dimension": self.width,
            "pooling_mode": self.files.poolings[0] if len(self.files.poolings) == 1 else list(self.files.poolings),
        }
        for name, content in (("1_Pooling/config.json", pooling), (MODULES, modules)):
            (directory / name).write_text(json.dumps(content, indent=1), "utf-8")
        made = copy.copy(self)
        made.files, made.owned = read_encoder(directory), True
        made.fingerprint = made.files.fingerprint()
        return made

    @property
    def width(self) -> int:
        """How long a vector is."""
        return int(self.model.config.hidden_size) * len(self.files.poolings)  # type: ignore[union-attr]

    def settings(self) -> dict[str, Any]:
        """Return what JSON can hold of the encoder: enough to find it again and to refuse another one."""
        return {
            "path": OWNED if self.owned else str(self.files.directory),
            "name": self.name,
            "sha256": self.fingerprint,
            "bfloat16": bool(self.lower_precision),
        }

    @torch.no_grad()
    def _encode(self, texts: Sequence[str], show: bool) -> Tensor:
        pieces = [self.tokenize(texts[start : start + PIECE]) for start in range(0, len(texts), PIECE)]
        ids = np.concatenate([piece.ids for piece in pieces])
        lengths = np.concatenate([np.diff(piece.offsets) for piece in pieces])
        rows = FlatFeatures(ids, None, np.concatenate(([0], np.cumsum(lengths))))
        order = np.argsort(lengths, kind="stable")
        if self.lower_precision is None:
            self.lower_precision = self._is_faster_in_bfloat16(rows.gather(order[len(order) // 2 :][:TIMED_ROWS]))
        vectors = torch.zeros(len(texts), self.width)
        with Progress(
            "reading texts with the encoder", total=int(lengths.sum()), unit="tokens", enabled=show
        ) as progress:
            for batch in _batches(order, lengths, 1 if self.device.type == "cpu" else 64):
                vectors[torch.from_numpy(batch)] = self._in_parts(rows.gather(batch))
                progress.advance(int(lengths[batch].sum()))
        if not vectors.isfinite().all():
            raise ValueError(f"{self.files.directory} gives vectors that are not finite; name another encoder")
        return vectors

    def _in_parts(self, rows: FlatFeatures) -> Tensor:
        """Return the vectors of a batch, in halves and quarters where the memory does not hold it."""

        def run(size: int, _: int) -> Tensor:
            starts = range(0, len(rows), size)
            parts = [rows.part(start, start + size) for start in starts]
            return torch.cat([self._run(part, lower=bool(self.lower_precision)) for part in parts])

        return _in_memory(self.files, lambda: retry_on_oom(run, len(rows)).result)

    def _run(self, rows: FlatFeatures, *, lower: bool) -> Tensor:
        ids, mask = (x.to(self.device) for x in padded(rows, self.pad_id))
        self.model.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return F.normalize(pooled(hidden.float(), mask, self.files.poolings), dim=1).cpu()

    def _is_faster_in_bfloat16(self, rows: FlatFeatures) -> bool:
        """Return whether a batch takes less time in bfloat16 and gives the same vectors but for rounding."""
        if not torch.amp.is_autocast_available(self.device.type):
            return False

        def timed(*, lower: bool) -> tuple[float, Tensor]:
            started = time.perf_counter()
            vectors = self._run(rows, lower=lower)
            return time.perf_counter() - started, vectors

        timed(lower=False)  # to warm up
        full_seconds, exact = timed(lower=False)
        lower_seconds, rounded = timed(lower=True)
        if (
            lower_seconds < 2 * full_seconds
        ):  # the first run takes longer than the next; a processor without bfloat16 far longer
            lower_seconds, rounded = timed(lower=True)
        cosines = (exact * rounded).sum(1)
        return lower_seconds < full_seconds and bool((cosines >= LEAST_COSINE).all())


def padded(rows: FlatFeatures, pad_id: int) -> tuple[Tensor, Tensor]:
    """Return ids and mask `(B, T)` of rows of tokens."""
    lengths = np.diff(rows.offsets)
    inside = np.arange(max(int(lengths.max(initial=0)), 1)) < lengths[:, None]
    ids = np.full(inside.shape, pad_id, np.int64)
    ids[inside] = rows.ids
    return torch.from_numpy(ids), torch.from_numpy(inside.astype(np.int64))


def pooled(hidden: Tensor, mask: Tensor, poolings: Sequence[str]) -> Tensor:
    """Return one vector per row `(B, D)` for the hidden states `(B, T, D)` of its tokens, in each of several ways."""
    weights = mask[:, :, None].to(hidden.dtype)  # (B, T, 1)
    count = weights.sum(1).clamp_min(1)

    def by(pooling: str) -> Tensor:
        if pooling == "cls":
            return hidden[:, 0]
        if pooling == "lasttoken":
            last = mask.sum(1).sub(1).clamp_min(0)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        if pooling == "max":
            return hidden.masked_fill(weights == 0, -torch.inf).amax(1)
        if pooling == "weightedmean":
            places = weights * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[:, None]
            return (hidden * places).sum(1) / places.sum(1).clamp_min(1)
        total = (hidden * weights).sum(1)
        return total / (count.sqrt() if pooling == "mean_sqrt_len_tokens" else count)

    return torch.cat([by(pooling) for pooling in poolings], 1)


def _batches(order: NDArray[np.int64], lengths: NDArray[np.int64], times: int) -> Iterator[NDArray[np.int64]]:
    """Yield rows of like length, the longest first: what does not fit the memory shows at once."""
    end = len(order)
    while end:
        size = max(1, min(ROWS * times, TOKENS * times // max(int(lengths[order[end - 1]]), 1)))
        start = max(0, end - size)
        yield order[start:end]
        end = start


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _load_model(files: EncoderFiles) -> nn.Module:
    """Load the model in float32 and check that every weight that is used was in the directory."""
    import transformers

    check_version("transformers", transformers.__version__, OLDEST_TRANSFORMERS)
    kind = files.config["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        raise ValueError(
            f"{files.directory} is of the architecture {kind!r}, which transformers {transformers.__version__} does not have; "
            "name another encoder, or update transformers"
        )
    local = {"local_files_only": True, "trust_remote_code": False}
    config = _read(files, lambda: transformers.AutoConfig.from_pretrained(files.model, **local))
    _check_architecture(files, config)
    load = transformers.AutoModel.from_pretrained
    model, info = _read(
        files, lambda: load(files.model, config=config, use_safetensors=True, output_loading_info=True, **local)
    )
    missing = [name for name in info["missing_keys"] if "pooler" not in name.split(".")]
    if missing:
        raise ValueError(
            f"{files.directory} has no weights for {min(missing)!r}, which its config.json asks for ({kind!r}); name a directory "
            "whose files belong together"
        )
    return model.float().eval().requires_grad_(False)


def _read(files: EncoderFiles, load: Callable[[], Result]) -> Result:
    """Let transformers read something, and say in one sentence what is wrong with it."""
    from safetensors import SafetensorError

    try:
        return load()
    except (
        OSError,
        ValueError,
        RuntimeError,
        LookupError,
        TypeError,
        AttributeError,
        ImportError,
        SafetensorError,
    ) as error:
        if is_out_of_memory(error):
            raise
        problem = " ".join(str(error).split())[:300]
        raise ValueError(f"{files.directory} cannot be loaded ({problem}); save the encoder again") from error


def _check_architecture(files: EncoderFiles, config: Any) -> None:
    """Refuse what does not turn tokens into one state each, with both sides of a token in view."""
    import transformers

    kind = files.config["model_type"]
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{files.directory} is an encoder with a decoder ({kind!r}); name the directory of an encoder alone"
        )
    model_class = transformers.MODEL_MAPPING.get(type(config), None)
    takes = getattr(model_class, "main_input_name", "input_ids")
    if model_class is None or takes != "input_ids" or not isinstance(getattr(config, "hidden_size", None), int):
        raise ValueError(
            f"{files.directory} is no encoder of texts ({kind!r}); name the directory of one, such as a BERT"
        )
    heads = config.architectures or ()
    if not files.described and any(head.endswith(("ForCausalLM", "LMHeadModel")) for head in heads):
        raise ValueError(
            f"{files.directory} is a language model that reads from left to right ({kind!r}), not an encoder; name a directory "
            "of a BERT or of sentence-transformers"
        )


def _load_tokenizer(files: EncoderFiles) -> tuple[Tokenize, int, int]:
    """Return what turns texts into ids, how many tokens there are, and the id of the padding."""
    try:
        own = BertTokenizer.from_pretrained(files.model)
    except (ValueError, OSError) as error:
        return _foreign_tokenizer(files, error)

    def tokenize(texts: Sequence[str]) -> FlatFeatures:
        rows = own(list(texts), truncation=True, max_length=files.max_length, return_tensors="flat")
        return FlatFeatures(rows["input_ids"].numpy(), None, rows["row_splits"].numpy().astype(np.int64))

    return tokenize, own.vocab_size, own.pad_token_id or 0


def _foreign_tokenizer(files: EncoderFiles, refusal: Exception) -> tuple[Tokenize, int, int]:
    """Return the directory's own tokenizer, where it is none of WordPiece."""
    import transformers

    try:
        theirs = transformers.AutoTokenizer.from_pretrained(
            files.model, local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        problem = " ".join(str(refusal).split())[:300]
        raise ValueError(
            f"{files.directory} has no tokenizer that can be loaded ({problem}); copy the whole directory"
        ) from error

    def tokenize(texts: Sequence[str]) -> FlatFeatures:
        if not texts:
            return FlatFeatures(np.zeros(0, np.int64), None, np.zeros(1, np.int64))
        rows = theirs(
            list(texts),
            truncation=True,
            max_length=files.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
        return FlatFeatures(np.array([number for row in rows for number in row], np.int64), None, offsets)

    return tokenize, len(theirs), theirs.pad_token_id or 0


def _check_vocabulary(files: EncoderFiles, model: nn.Module, tokens: int) -> None:
    """Refuse a vocabulary that is another model's: more tokens than the embedding has rows, or far fewer."""
    rows = len(model.get_input_embeddings().weight)  # type: ignore[operator]
    if tokens > rows or rows - tokens > max(100, SPARE_ROWS * rows):
        raise ValueError(
            f"{files.directory} has a vocabulary of {tokens} tokens, and its model has {rows} of them; name a directory whose "
            "files belong together"
        )


def _in_memory(files: EncoderFiles, work: Callable[[], Result]) -> Result:
    """Do something that needs memory, and say in one sentence that there is too little."""
    try:
        return work()
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        size = sum(path.stat().st_size for path in files.files) >> 20
        raise MemoryError(
            f"the memory does not hold the encoder {files.directory} ({size} MiB) and a batch; name a smaller encoder"
        ) from None


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing; what it has to say is checked."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
