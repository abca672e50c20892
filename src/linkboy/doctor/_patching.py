"""Replace attributes for a while, and put them back."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

_ABSENT = object()


class Patches:
    """Attributes that stand in for others; `remove` restores them in the opposite order.

    Examples:
        >>> import math
        >>> patches = Patches()
        >>> patches.wrap(math, "sqrt", lambda original: lambda x: -original(x))
        >>> math.sqrt(4)
        -2.0
        >>> patches.remove()
        >>> math.sqrt(4)
        2.0
    """

    def __init__(self) -> None:
        self._made: list[tuple[Any, str, Any, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a module, class or object."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        self._made.append((owner, name, before, value))

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace an attribute by `make(original)`; nothing happens where there is none."""
        original = getattr(owner, name, None)
        if original is None:
            return
        made = make(original)
        with contextlib.suppress(AttributeError, TypeError):
            functools.update_wrapper(made, original)
        self.set(owner, name, made)

    def remove(self) -> None:
        """Put everything back."""
        while self._made:
            self._put_back(*self._made.pop()[:3])

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Put everything back while the block runs, such as for a compiler that reads source."""
        made = list(self._made)
        for owner, name, before, _ in reversed(made):
            self._put_back(owner, name, before)
        try:
            yield
        finally:
            for owner, name, _, value in made:
                setattr(owner, name, value)

    @staticmethod
    def _put_back(owner: Any, name: str, before: Any) -> None:
        if before is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
