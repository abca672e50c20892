"""The compiled core; the sources are in the folder of this name."""

from typing import Any, Self

class Encoder:
    """Cuts texts into the pieces of a vocabulary.

    What comes back as a list holds the numbers of pages of 256 characters: `fill` them (those from 65536 on, less that,
    with `fill_flags`) and call again.
    """

    def __new__(cls, vocabulary: dict[str, int], limit: int, unknown: int, /) -> Self: ...
    def with_literals(self, texts: list[str], ids: list[int], /) -> Self: ...
    def fill(self, page: int, kinds: bytes, lengths: bytes, folded: bytes, classes: bytes, /) -> None: ...
    def fill_flags(self, page: int, flags: bytes, /) -> None: ...
    def flat(self, texts: Any, mark: int, spans: bool, threads: int, /) -> Any: ...
    def padded(
        self,
        texts: Any,
        first: int,
        last: int,
        pad: int,
        room: int,
        width: int,
        multiple: int,
        left: bool,
        threads: int,
        /,
    ) -> Any: ...
    def lists(self, texts: Any, first: int, last: int, room: int, threads: int, /) -> Any: ...

class Grams:
    """Finds the n-grams of texts in lower case, and weighs them; a list holds numbers of pages, as with `Encoder`."""

    def __new__(cls, hashes: Any, idf: Any, longest: int, words: bool, binary: bool, border: int, /) -> Self: ...
    def fill_flags(self, page: int, flags: bytes, /) -> None: ...
    def encode(self, texts: Any, logs: Any, /) -> Any: ...
