"""Find what `package.module:name` names, or say what is missing."""

import importlib

from linkboy._checks import did_you_mean


def load_named(target: str, *, need: str = "package.module:name") -> object:
    """Import the module before the colon and return what the dotted name behind it says.

    Args:
        target: `package.module:name`; the import executes the module.
        need: what the message of an error says `target` must be.

    Raises:
        ValueError: there is no colon, or the module has no such name.
        ModuleNotFoundError: there is no such module here, or it needs one that is not.

    Examples:
        >>> load_named("math:pi")
        3.141592653589793
    """
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"target must be {need}, got {target!r}")
    place = _imported(module_name, target, need)
    for part in attribute.split("."):
        if not hasattr(place, part):
            raise ValueError(f"{module_name!r} has no {attribute!r}{did_you_mean(part, dir(place))}")
        place = getattr(place, part)
    return place


def _imported(module_name: str, target: str, need: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name != missing and not module_name.startswith(f"{missing}."):  # found, but it imports another
            raise
        raise ModuleNotFoundError(
            f"target must be {need}, got {target!r}, and there is no module {missing!r} here; "
            "start from the folder that holds it, install it, or check its name",
            name=missing,
        ) from None
