"""Count what a checkpoint file holds, from its header or the opcodes of its pickle; nothing is loaded or executed."""

import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeGuard

from linkboy._files import local_path
from linkboy._reading import SmallReads
from linkboy._report import format_count, listed, plural
from linkboy.parameters._packed_files import numel_behind
from linkboy.parameters._pickles import DTYPES, MOST_BYTES, FileTensor, Global, Opaque, read_pickle
from linkboy.parameters.report import ParameterCount, ParameterRow

# Where nothing but the name tells a buffer from a parameter.
_BUFFER_NAMES = frozenset((
    "running_mean", "running_var", "num_batches_tracked", "position_ids", "token_type_ids", "inv_freq",
    "original_inv_freq", "masked_bias", "relative_position_index", "weight_mask", "bias_mask", "n_averaged",
    "relative_coords_table", "attn_mask", "causal_mask", "mask", "tril", "pe", "cos_cached", "sin_cached", "freqs_cis",
    "rng_state", "final_logits_bias", "e_score_correction_bias", "_float_tensor", "betas", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
))  # fmt: skip
# What packed weights keep beside themselves (bitsandbytes, GPTQ, AWQ): stored, but not a parameter.
_SCALE_NAMES = frozenset((
    "absmax", "quant_map", "nested_absmax", "nested_quant_map", "SCB", "weight_format", "qzeros", "scales", "g_idx",
    "weight_scale", "weight_scale_inv", "input_scale", "weight_shape", "weight_zero_point", "weight_g_idx",
    "weight_global_scale", "input_global_scale", "weight_scale_2", "weight_scales",
))  # fmt: skip
# The same under names that a layer may have for a parameter, told by the packed tensor beside them (MLX, HQQ, AQLM).
_SCALES_BESIDE = {"biases": "scales", "scale": "W_q", "zero": "W_q", "nbits": "W_q", "codebooks": "codes"}
_OF_QUANTISED = ("scale", "zero_point")  # of the output of a layer of torch.ao
_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
_NO_TIES = "a safetensors file does not record tied weights; each tensor in it was counted"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pth.tar")
# What trainers put beside the weights, under names that they choose themselves.
_BESIDE_WEIGHTS = re.compile(
    r"(optimizer|scheduler|sampler|scaler|training_args|rng_state|random_states|dl_state_dict)(_\d+)?\.(bin|pt|pth)"
)
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")
_UNREAD = "unread"  # the dtype of an object that holds numbers this module cannot see
_LAZY = "lazy"  # that of a parameter without a shape
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # behind the protocol
_MOST_NODES = 500_000
_MOST_ENTRIES = 100_000  # of an archive, one a storage; zipfile takes about half a kilobyte for each

By = Literal["module", "dtype"] | None
Tensors = dict[str, FileTensor]
Sections = dict[str, Tensors]


def count_file(path: str | os.PathLike[str], by: By) -> ParameterCount:
    """Count the checkpoint in a file or folder; see `count_parameters`."""
    path = local_path("path", path)
    notes: list[str] = []
    shards: list[str] = []
    if path.is_dir():
        path, shards = _choose(path, notes)
    elif path.is_file() and (part := _SHARD.fullmatch(path.name)):
        notes.append(f"shard {int(part[2])} of {int(part[3])}; for all of them name the folder")
    if not shards and not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}{_name_on_the_hub(path)}")
    try:
        sections, aliases = _read_shards(path, dict.fromkeys(shards, ()), notes) if shards else _read(path, notes)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read as a checkpoint: {error}") from None
    return _summed(path, sections, aliases, by, notes)


def _name_on_the_hub(path: Path) -> str:
    """Return what to do about a name such as `org/model`, as the end of a message."""
    if path.suffix in (".json", ".safetensors", ".tar", *_PICKLES) or path.is_absolute() or len(path.parts) > 2:
        return ""
    return "; if it is a name on a hub, download the model first, linkboy downloads nothing"


def _choose(folder: Path, notes: list[str]) -> tuple[Path, list[str]]:
    """Pick the one checkpoint of a folder, safetensors before pickles and an index before the shards it names.

    Returns:
        Its path, and the names of its shards if they have no index; the path is then a pattern for them.
    """
    for suffixes in ((".safetensors",), _PICKLES):
        indexes = sorted(p for suffix in suffixes for p in folder.glob(f"*{suffix}.index.json"))
        found = indexes or _without_beside(sorted(p for suffix in suffixes for p in folder.glob(f"*{suffix}")))
        if pattern := _pattern_of_shards(folder, [p.name for p in found]):
            notes.append("its shards have no index; all were counted")
            return folder / pattern, [p.name for p in found]
        if len(found) > 1:
            raise ValueError(
                f"folder {str(folder)!r} holds {len(found)} checkpoints: {listed([p.name for p in found])}; name one"
            )
        if found:
            others = sorted(p.name for p in folder.iterdir() if p.name.endswith(_PICKLES) and p not in found)
            if others and not indexes:
                notes.append(f"{found[0].name} was counted; the folder also holds {listed(others)}")
            return found[0], []
    raise FileNotFoundError(
        f"folder {str(folder)!r} holds no .safetensors, .bin, .pt, .pth or .ckpt file{_where_instead(folder)}"
    )


def _without_beside(found: list[Path]) -> list[Path]:
    """Leave out what a trainer put beside the weights, if anything is left then."""
    return [path for path in found if not _BESIDE_WEIGHTS.fullmatch(path.name)] or found


def _pattern_of_shards(folder: Path, names: list[str]) -> str:
    """Return a pattern for files that are the shards of one checkpoint, an empty one if they are not."""
    parts = [_SHARD.fullmatch(name) for name in names]
    patterns = {f"{part[1]}-*-of-{part[3]}{part[4]}" if part else "" for part in parts}
    if len(patterns) != 1 or "" in patterns:
        return ""
    count = int(names[0].rpartition("-of-")[2].partition(".")[0])
    if len(names) != count:
        raise FileNotFoundError(f"folder {str(folder)!r} holds {len(names)} of {count} shards: {listed(names)}")
    return patterns.pop()


def _where_instead(folder: Path) -> str:
    """Return where the weights of a folder without a checkpoint may be, as the end of a message."""
    if next(folder.glob("*.distcp"), None) is not None:
        return "; join its .distcp shards with torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
    below = sorted({p.parent.name for s in (".safetensors", *_PICKLES) for p in folder.glob(f"*/*{s}")})
    return f"; name one of the folders in it: {listed(below)}" if below else ""


def _read(path: Path, notes: list[str]) -> tuple[Sections, dict[str, str]]:
    if path.suffix == ".json":
        return _read_index(path, notes)
    with path.open("rb") as file:
        head = file.read(64)
    if another := _another_kind(head):
        raise ValueError(another)
    if head.startswith(b"PK\x03\x04"):
        return _read_archive(path, notes), {}
    if _is_legacy(head):
        return _read_legacy(path, notes), {}
    if path.suffix == ".safetensors" or head[8:9] == b"{":  # in a cache its name may be a hash
        tensors, aliases = _read_safetensors(path)
        if not aliases:
            notes.append(_NO_TIES)
        return {"": tensors}, aliases
    raise ValueError("it is neither a safetensors file nor one that torch.save wrote")


def _another_kind(head: bytes) -> str:
    """Return what a file is that was taken for a checkpoint, and what to do, given its first bytes."""
    if not head:
        return "it is empty; copy or download it again"
    if head[8:9] == b"{":  # a safetensors header behind its length, which may begin with any byte
        return ""
    if head.startswith(b"\x80") and not _is_legacy(head):
        return "it is a plain pickle; write it with torch.save or safetensors"
    return next((text for start, text in _KINDS.items() if head.lower().startswith(start)), "")


def _is_legacy(head: bytes) -> bool:
    """Return whether a file begins as torch.save wrote it before 1.6, in any protocol that has a byte for it."""
    return head.startswith(b"\x80") and _LEGACY_MAGIC in head[:32]


_KINDS = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the weights; run git lfs pull",
    b"<!doctype": "it is a web page, not the weights; download it again",
    b"<html": "it is a web page, not the weights; download it again",
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
    b"gguf": "it is a GGUF file; name one in safetensors format, or one that torch.save wrote",
    b"\x89hdf": "it is an HDF5 file; name one in safetensors format, or one that torch.save wrote",
}


def _read_safetensors(path: Path) -> tuple[dict[str, FileTensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, FileTensor] = {}
    alike: dict[tuple[str, tuple[int, ...]], FileTensor] = {}  # the layers of a model repeat a few shapes
    try:  # its reader checks the length of the header, every span, and that they fill the file
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                entry = file.get_slice(name)
                look = (entry.get_dtype(), tuple(entry.get_shape()))
                tensors[name] = alike.get(look) or alike.setdefault(look, _described(*look))
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{error}; if it was cut off, copy or download it again") from None
    return tensors, {name: kept for name, kept in metadata.items() if kept in tensors and name not in tensors}


def _described(stored: str, shape: tuple[int, ...]) -> FileTensor:
    dtype = _SAFETENSORS_DTYPES.get(stored) or str(stored).lower()
    numel = math.prod(shape)
    return FileTensor(shape, dtype, numel, _nbytes(numel, dtype))


def _nbytes(numel: int, dtype: str) -> int:
    itemsize = DTYPES.get(dtype)
    if itemsize is not None:
        return numel * itemsize
    bits = {"f4": 4, "f6_e2m3": 6, "f6_e3m2": 6}.get(dtype)
    if bits is None:
        raise ValueError(f"its dtype {dtype!r} is not known")
    return numel * bits // 8


def _read_index(path: Path, notes: list[str]) -> tuple[Sections, dict[str, str]]:
    wanted = _weight_map(path)
    sections, aliases = _read_shards(path, dict.fromkeys(sorted(set(wanted.values())), wanted), notes)
    tensors = sections[""]
    if missing := [name for name in wanted if name not in tensors and name not in aliases]:
        raise ValueError(f"its shards lack {plural(len(missing), 'tensor')} that it names: {listed(missing)}")
    if extra := [name for name in tensors if name not in wanted]:
        notes.append(f"counted, though the index does not name them: {listed(extra)}")
    return sections, aliases


def _read_shards(
    path: Path, shards: Mapping[str, Mapping[str, str] | tuple[()]], notes: list[str]
) -> tuple[Sections, dict[str, str]]:
    """Read files beside `path` as one checkpoint; of a tensor in two of them the one that the index means.

    Args:
        path: of the index, or a pattern.
        shards: from the name of a shard to what the index says, from the name of a tensor to its shard.
        notes: what is good to know.
    """
    tensors: Tensors = {}
    aliases: dict[str, str] = {}
    for shard, wanted in shards.items():
        place = _shard_path(path, shard)
        try:
            part, names = _read(place, [])
        except ValueError as error:
            raise ValueError(f"its shard {shard!r}: {error}") from None
        for section in part.values():
            tensors |= {
                name: _in_shard(tensor, shard) for name, tensor in section.items()
                if not wanted or wanted.get(name, shard) == shard  # type: ignore[union-attr]
            }  # fmt: skip
        aliases |= names
    if not aliases and any(shard.endswith(".safetensors") for shard in shards):
        notes.append(_NO_TIES)
    return {"": tensors}, aliases


def _weight_map(path: Path) -> dict[str, str]:
    """Return which shard an index names for each tensor."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"an index of more than {MOST_BYTES:,} bytes")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError("it is not a JSON file") from None
    wanted = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(wanted, dict) or not all(isinstance(shard, str) for shard in wanted.values()):
        raise ValueError("its 'weight_map' must map tensor names to file names")
    return wanted


def _shard_path(index: Path, shard: str) -> Path:
    if shard != Path(shard).name or shard in ("", ".", "..") or "\\" in shard or shard.endswith(".json"):
        raise ValueError(f"its shard {shard!r} is not a plain file name")
    if not (index.parent / shard).is_file():
        raise FileNotFoundError(f"index {str(index)!r} names shard {shard!r}, which is not beside it")
    return index.parent / shard


def _in_shard(tensor: FileTensor, shard: str) -> FileTensor:
    if tensor.storage is None:
        return tensor
    storage = tensor.storage._replace(key=f"{shard}/{tensor.storage.key}")  # keys start from 0 in every file
    return tensor._replace(storage=storage, place=(shard, *tensor.place))


def _read_archive(path: Path, notes: list[str]) -> Sections:
    """Read the pickle of a zip archive as torch.save writes it, and check its claims against the archive's entries."""
    try:
        with SmallReads(path, MOST_BYTES, _MOST_ENTRIES) as file, zipfile.ZipFile(file) as archive:
            entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            entry = entries.get("data.pkl")
            if entry is None:
                raise ValueError(f"the archive holds no data.pkl, so torch.save did not write it{_in_archive(archive)}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError("its data.pkl is compressed, which torch.save never does")
            if entry.file_size > MOST_BYTES:
                raise ValueError(f"its data.pkl has {entry.file_size:,} bytes, more than the {MOST_BYTES:,} allowed")
            data = archive.read(entry)
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"the archive is cut off or damaged ({error})") from None
    sections = _sections(read_pickle(data)[0], notes)
    held = {name.removeprefix("data/"): entry.file_size for name, entry in entries.items()}
    _check_storages(sections, held)
    return sections


def _in_archive(archive: zipfile.ZipFile) -> str:
    """Return what an archive that torch.save did not write holds, and what to do, as the end of a message."""
    names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        return "; it holds arrays of NumPy, and is counted when they are saved with torch.save or safetensors"
    if any(name.rpartition("/")[2] == "archive_format" for name in names):
        return "; it is a program of torch.export: load it with torch.export.load and pass its .module()"
    inside = [name for name in names if name.endswith((".safetensors", *_PICKLES))]
    return f"; unpack it first and name {listed(inside, most=3)}" if inside else ""


def _read_legacy(path: Path, notes: list[str]) -> Sections:
    """Read a file of torch.save before 1.6: magic number, protocol, machine, object, storage keys, bytes."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES)
    at, values = 0, []
    for _ in range(5):
        value, at = read_pickle(data, at)
        values.append(value)
    sections = _sections(values[3], notes)
    storages = {tensor.storage for tensors in sections.values() for tensor in tensors.values()} - {None}
    claimed = sum(storage.nbytes for storage in storages if storage is not None)
    left = path.stat().st_size - at - 8 * len(storages)  # each storage is preceded by its length
    if claimed > left:
        raise ValueError(f"its tensors claim {claimed:,} bytes, the file has {left:,} left")
    return sections


def _tensors(value: object) -> dict[str, FileTensor]:
    """Walk dicts, lists and pickled modules; return each tensor under its dotted name."""
    found: dict[str, FileTensor] = {}
    todo: list[tuple[str, object, bool | None]] = [("", value, None)]
    left = _MOST_NODES  # an object that contains itself, or many times another, would never end
    while todo:
        name, item, is_parameter = todo.pop()
        if isinstance(item, FileTensor):
            found[name] = item if is_parameter is None else item._replace(is_parameter=is_parameter)
            continue
        if isinstance(item, Opaque) and (hidden := _hidden_kind(item)):
            found[name] = FileTensor((), hidden, 0, 0)
            continue
        width = len(item) if isinstance(item, (dict, list, tuple)) else 3
        left -= 1 + width + len(name) // 64  # before the children are listed: they may be many
        if left < 0:
            raise ValueError(f"its pickle unfolds to more than {_MOST_NODES:,} values")
        children = _children(item, is_parameter)
        prefix = f"{name}." if name else ""
        todo += [(f"{prefix}{key}" if key else name, child, kind) for key, child, kind in reversed(children)]
    return found


def _hidden_kind(item: Opaque) -> str:
    """Return how to call an array of NumPy, the packed weights of a quantised recurrent layer, or a lazy parameter."""
    function = item.function
    if not isinstance(function, Global):
        return ""
    if function == _LAZY_PARAMETER:
        return _LAZY
    array = function.name == "_reconstruct" and function.module.startswith("numpy")
    return _UNREAD if array or function.name == "ScriptObject" else ""


def _children(item: object, kind: bool | None) -> list[tuple[str, object, bool | None]]:
    if isinstance(item, Opaque) and isinstance(item.state, dict):
        if "_parameters" in item.state and "_buffers" in item.state:  # a whole nn.Module was pickled
            parts = (("_parameters", True), ("_buffers", False), ("_modules", None))
            return [("", item.state.get(part), is_parameter) for part, is_parameter in parts]
        item = item.state
    if isinstance(item, dict):
        return [(str(key), child, kind) for key, child in item.items() if isinstance(child, _WALKED)]
    if isinstance(item, (list, tuple)) and not isinstance(item, Global):
        return [(str(index), child, kind) for index, child in enumerate(item) if isinstance(child, _WALKED)]
    return []


_LAZY_PARAMETER = Global("torch.nn.parameter", "UninitializedParameter")
_WALKED = (FileTensor, dict, Opaque, list, tuple)


def _check_storages(sections: Sections, held: Mapping[str, int]) -> None:
    for tensors in sections.values():
        for storage in (tensor.storage for tensor in tensors.values()):
            if storage is not None and held.get(storage.key, -1) < storage.nbytes:
                size = format_count(held[storage.key]) if storage.key in held else "no"
                raise ValueError(f"storage {storage.key!r} claims {storage.nbytes:,} bytes, the archive has {size}")


def _sections(value: object, notes: list[str]) -> Sections:
    """Split a training checkpoint by its top-level keys; a plain state dict or module is one section named ''."""
    if isinstance(value, FileTensor):
        return {"": {"(tensor)": value}}
    if _is_optimizer(value):
        raise ValueError("it holds the state of an optimizer and no weights; name the file of the model")
    if isinstance(value, (list, tuple)) and any(map(_is_optimizer, value)):
        value = dict(enumerate(value))
    parts = {"": value}
    if _is_checkpoint(value):
        parts = {_section_name(key, item): item for key, item in value.items()}
    sections = {key: _tensors(item) for key, item in parts.items()}
    sections = {key: tensors for key, tensors in sections.items() if tensors}
    if not sections:
        raise ValueError("it holds no tensors")
    notes += [f"an object of class {name} was read but not built" for name in _classes(value)]
    return sections


def _section_name(key: object, item: object) -> str:
    return f"{key} (optimizer)" if _is_optimizer(item) and "optim" not in str(key) else str(key)


def _is_optimizer(value: object) -> bool:
    return (
        isinstance(value, dict) and value.keys() >= {"state", "param_groups"} and value.keys().isdisjoint(_WEIGHT_KEYS)
    )


def _is_checkpoint(value: object) -> TypeGuard[dict[object, object]]:
    """Return whether the top-level keys of a dict are parts of a training checkpoint."""
    if not isinstance(value, dict):
        return False
    # A checkpoint may hold a loose tensor (the loss) beside its parts, a state dict an extra state beside its tensors.
    loose = any(isinstance(item, FileTensor) for item in value.values())
    inner = [str(key) for key, item in value.items() if isinstance(item, (dict, Opaque))]
    return not loose or any(key in _WEIGHT_KEYS or "optim" in key for key in inner)


def _classes(value: object) -> list[str]:
    top = list(value.values()) if isinstance(value, dict) else [value]
    opaque = [item.function for item in top if isinstance(item, Opaque)]
    return sorted({f"{f.module}.{f.name}" for f in opaque if isinstance(f, Global) and f != _LAZY_PARAMETER})


def _weights(sections: Sections, notes: list[str]) -> Tensors:
    """Return the tensors of the sections that are the model; the others are named in a note and never added."""
    chosen = _model_sections(sections)
    sizes = [f"{key!r} ({plural(_numel(sections[key]), 'element')})" for key in sections if key not in chosen]
    if sizes:
        notes.append(f"beside the weights the file holds {listed(sizes)}, which are not counted")
    whole = len(chosen) == 1  # then the key of the section is not part of the names
    return {
        name if whole and name else ".".join(filter(None, (key, name))): tensor
        for key in chosen
        for name, tensor in sections[key].items()
    }


def _model_sections(sections: Sections) -> list[str]:
    loose = [key for key in sections if list(sections[key]) == [""]]  # a tensor by itself
    likely = [key for key in sections if not _NOT_THE_MODEL.search(key) and key not in loose] or loose
    likely = [key for key in likely if not _AVERAGED.search(key)] or likely
    named = [key for key in _WEIGHT_KEYS if key in likely][:1]
    return named if len(likely) > 1 and named else likely


_NOT_THE_MODEL = re.compile(r"optim|sched|scaler|(^|_)rng(_|$)")
_AVERAGED = re.compile(r"(^|_)ema(_|$)")  # a copy of the weights beside them


def _numel(tensors: Tensors) -> int:
    return sum(tensor.numel for tensor in tensors.values())


def _nbytes_of(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _is_parameter(name: str, tensor: FileTensor, weights: Tensors) -> bool:
    if tensor.is_parameter is not None:
        return tensor.is_parameter
    last = name[name.rfind(".") + 1 :]
    packed_state = "quant_state." in name and name.partition(".quant_state.")[0] in weights
    beside_blocks = name.endswith("_scales") and f"{name[:-7]}_blocks" in weights  # MXFP4
    quantised = last in _OF_QUANTISED and all(f"{name[: -len(last)]}{each}" in weights for each in _OF_QUANTISED)
    scale = beside_blocks or quantised or (last in _SCALE_NAMES and last != name) or _is_scale_beside(name, weights)
    return not (packed_state or scale or last in _BUFFER_NAMES or _cannot_be_trained(last, tensor))


def _cannot_be_trained(last: str, tensor: FileTensor) -> bool:
    """Return whether a tensor is a flag, a counter, the mask of GPT-2's attention, or of the noise of a diffusion model."""
    counts = not tensor.shape and "int" in tensor.dtype
    causal = (
        last == "bias" and len(tensor.shape) == 4 and tensor.shape[:2] == (1, 1) and tensor.shape[2] == tensor.shape[3]
    )
    return tensor.dtype == "bool" or counts or causal or "alphas_cumprod" in last


def _is_scale_beside(name: str, weights: Tensors) -> bool:
    prefix, _, last = name.rpartition(".")
    return last in _SCALES_BESIDE and f"{prefix}.{_SCALES_BESIDE[last]}" in weights


def _is_scale(name: str, weights: Tensors) -> bool:
    known = name.rpartition(".")[2] in _SCALE_NAMES or _is_scale_beside(name, weights)
    return known or ".quant_state." in name or name.endswith("_scales")


def _all_names(weights: Tensors, aliases: dict[str, str]) -> list[list[str]]:
    """Return the names of each tensor, those first that the file holds."""
    names: dict[object, list[str]] = {}
    for name, tensor in weights.items():
        names.setdefault(tensor.place or name, []).append(name)
    for name, kept in aliases.items():
        names.get(kept, []).append(name)
    return list(names.values())


def _summed(path: Path, sections: Sections, aliases: dict[str, str], by: By, notes: list[str]) -> ParameterCount:
    weights = _weights(sections, notes)
    unread = [name for name, each in weights.items() if each.dtype == _UNREAD]
    lazy = [name for name, each in weights.items() if each.dtype == _LAZY]
    weights = {name: each for name, each in weights.items() if each.dtype not in (_UNREAD, _LAZY)}
    names = _all_names(weights, aliases)
    parameters, scales, buffers = _sorted({known[0]: weights[known[0]] for known in names}, weights)
    total, scale_nbytes = _numel(parameters), _nbytes_of(scales)
    behind, unknown = numel_behind(parameters, scales, path.parent)
    stated = _stated_total(path)
    if unknown and stated is not None:
        behind, unknown = stated - total, []
    elif stated not in (None, total + behind):
        notes.append(f"the index states a total of {plural(stated or 0, 'parameter')}")
    notes += _assumptions(buffers, unknown)
    if unread:
        notes.append(f"not counted, as they are not tensors: {listed(unread)}")
    if lazy:
        notes.append(f"not yet materialised, so the total is a lower bound: {listed(lazy)}")
    return ParameterCount(
        source=path.name,
        total=total,
        trainable=None,
        frozen=None,
        logical=total + behind,
        nbytes=_nbytes_of(parameters) + scale_nbytes,
        unique_storage_nbytes=_storage_nbytes(parameters) + scale_nbytes,
        buffer_count=_numel(buffers),
        buffer_nbytes=_nbytes_of(buffers),
        tied=tuple(tuple(known) for known in names if len(known) > 1),
        by=by,
        rows=_rows(parameters, by) if by else (),
        uninitialized=tuple(lazy),
        uncounted=(*unknown, *unread),
        notes=tuple(notes),
    )


def _stated_total(path: Path) -> int | None:
    """Return the `metadata.total_parameters` of an index, which counts packed weights unpacked."""
    if path.suffix != ".json":
        return None
    metadata = json.loads(path.read_bytes()).get("metadata")  # read and checked before
    total = metadata.get("total_parameters") if isinstance(metadata, dict) else None
    return total if type(total) is int and total > 0 else None


def _sorted(tensors: Tensors, weights: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    """Return parameters, scales of packed parameters, and buffers."""
    parameters = {name: each for name, each in tensors.items() if _is_parameter(name, each, weights)}
    rest = {name: each for name, each in tensors.items() if name not in parameters}
    scales = {name: each for name, each in rest.items() if _is_scale(name, weights)}
    return parameters, scales, {name: each for name, each in rest.items() if name not in scales}


def _storage_nbytes(parameters: Tensors) -> int:
    storages = {each.storage: each.storage.nbytes for each in parameters.values() if each.storage is not None}
    return sum(storages.values()) + sum(each.nbytes for each in parameters.values() if each.storage is None)


def _assumptions(buffers: Tensors, unknown: list[str]) -> list[str]:
    notes = []
    if guessed := [name for name, each in buffers.items() if each.is_parameter is None]:
        notes.append(f"taken for buffers by their names: {listed(guessed)}")
    if unknown:
        notes.append(f"packed weights counted as stored, not as what they stand for: {listed(unknown)}")
    return notes


def _rows(parameters: Mapping[str, FileTensor], by: str) -> tuple[ParameterRow, ...]:
    groups: dict[str, list[tuple[str, FileTensor]]] = {}
    for name, tensor in parameters.items():
        parent, _, last = name.rpartition(".")
        if by == "module":
            groups.setdefault(parent or "(root)", []).append((last, tensor))
        else:
            groups.setdefault(tensor.dtype, []).append((name, tensor))
    return tuple(
        ParameterRow(
            name=key,
            kind="",
            tensors=tuple((name, tensor.shape) for name, tensor in group),
            parameter_count=sum(tensor.numel for _, tensor in group),
            trainable_count=None,
            nbytes=sum(tensor.nbytes for _, tensor in group),
        )
        for key, group in groups.items()
    )
