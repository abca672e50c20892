"""Find the embedding tables to resize, and the output layers over the same words."""

from torch import nn

from linkboy.editing._names import ModulePlace, find_editable, kind_of, refuse_adapted, saved_by_adapter
from linkboy.editing._rows import TABLES, is_split


def find_tables(model: nn.Module, name: str | None) -> list[ModulePlace]:
    """Return the table to resize, or the copies of it that adapters keep, that of the active one first."""
    if name is not None:
        place = find_editable(model, name)
    else:
        place = _found_table(model)
    around = next((path for path in ancestors(place.name)[1:] if is_split(model.get_submodule(path))), None)
    if around is not None:
        raise TypeError(f"{place.name!r} is a part of the PretrainedEmbedding {around!r}, which is resized as a whole")
    refuse_adapted(model, place.name)
    places = saved_by_adapter(place) or [place]
    odd = next((one for one in places if not _is_table(one.module)), None)
    if odd is not None:
        raise TypeError(f"name must name an Embedding, and {odd.name!r} is a {kind_of(odd.module)}")
    return places


def find_outputs(model: nn.Module, head: str | None) -> list[nn.Linear]:
    """Return the layers over the words: that named, or what the model says, with the copies that adapters keep."""
    if head is not None:
        place = find_editable(model, head)
    else:
        names = {id(part): path for path, part in model.named_modules()}
        found = _from_getter(model, "get_output_embeddings")
        if found is None or not names.get(id(found)):
            return []
        place = find_editable(model, names[id(found)])
    layers = [one.module for one in saved_by_adapter(place) or [place]]
    odd = next((layer for layer in layers if not isinstance(layer, nn.Linear)), None)
    if odd is None:
        return layers  # type: ignore[return-value]  # each is a Linear
    refuse_adapted(model, place.name)
    if head is not None:
        raise TypeError(f"head must name a Linear, and {head!r} is a {kind_of(odd)}")
    return []


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, TABLES) or is_split(module)


def _found_table(model: nn.Module) -> ModulePlace:
    names = {id(part): path for path, part in model.named_modules()}
    table = _from_getter(model, "get_input_embeddings")
    if table is not None and names.get(id(table)):
        return find_editable(model, names[id(table)])
    tables = [path for path, part in model.named_modules() if _is_table(part) and path]
    tables = [path for path in tables if not any(path.startswith(f"{outer}.") for outer in tables)]
    if len(tables) != 1:
        raise ValueError(
            f"name must say which Embedding to resize, as the model has {len(tables)}"
            + f": {', '.join(tables)}" * bool(tables)
        )
    return find_editable(model, tables[0])


def _from_getter(model: nn.Module, getter: str) -> nn.Module | None:
    """Return what the outermost module with such a method says, as a SentenceTransformer's encoder does."""
    for part in model.modules():
        if callable(method := getattr(part, getter, None)):
            try:
                found = method()
            except (NotImplementedError, AttributeError):
                continue
            if isinstance(found, nn.Module):
                return found
    return None


def ancestors(name: str) -> list[str]:
    """Return the paths of the modules around a module, the whole model's (empty) first."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))]
