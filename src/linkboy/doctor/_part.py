"""What the parts of a watcher have in common: each patches what its subject needs."""

import contextlib
from typing import Any


class Part:
    """One subject of a watcher, such as the losses or the loaders; it sees what the watcher sees, when the watcher looks.

    Args:
        watcher: the watcher that it belongs to.
    """

    def __init__(self, watcher: Any) -> None:
        self.watcher = watcher
        self.observer, self.record, self.facts = watcher.observer, watcher.record, watcher.facts
        self.rows, self.patches = watcher.rows, watcher.patches

    def on(self) -> bool:
        """Return whether the caller is the program that is watched."""
        return self.watcher.on()

    def looking(self) -> contextlib.AbstractContextManager[None]:
        """Look at something, seeing nothing of what that does and passing no error on to the program."""
        return self.watcher.looking()

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        """See nothing of what the block does."""
        return self.watcher.quiet()
