"""The arguments of a tokenizer call, checked against each other, so that no argument is silently without effect."""

import dataclasses
import functools
import sys
from typing import Literal, NamedTuple

from linkboy._checks import check_choice, check_flag, check_number

Padding = bool | Literal["do_not_pad", "longest", "max_length"]
Truncation = bool | Literal["do_not_truncate", "longest_first", "only_first", "only_second"]
Tensors = Literal["pt", "np", "flat", "flat_np"] | None
Side = Literal["left", "right"]

PADDINGS = {False: None, "do_not_pad": None, True: "longest", "longest": "longest", "max_length": "max_length"}
TRUNCATIONS = {
    False: None,
    "do_not_truncate": None,
    True: "longest_first",
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
}

WIDEST = 1 << 24  # tokens that rows may be padded to; a mistyped number beyond it would take all memory


class QuickOptions(NamedTuple):
    """What the core is asked for.

    Attributes:
        kind: rows of one length, lists that need not be, or all ids end to end.
        room: the most ids of a text, -1 for all.
        shape: of rows: the least width, a number of which the width becomes a multiple, whether to pad left.
    """

    kind: Literal["rows", "lists", "flat"]
    room: int
    shape: tuple[int, int, bool]


@dataclasses.dataclass(frozen=True)
class CallOptions:
    """What a call asks for, once `check_options` has accepted it."""

    specials: bool
    padding: str | None
    truncation: str | None
    max_length: int | None
    stride: int
    multiple: int | None
    overflow: bool
    offsets: bool
    special_mask: bool
    tensors: str | None
    pads_left: bool = False
    cuts_left: bool = False
    types: bool = True
    mask: bool = True
    length: bool = False

    @functools.cached_property
    def quick(self) -> QuickOptions | None:
        """What of this `quick_rows` needs; `None` where the call asks for more than that can do, or for what is refused."""
        room = -1
        if self.truncation is not None and self.max_length is not None:
            room = min(self.max_length - 2 * self.specials, sys.maxsize)
            if room < 0 or self.cuts_left or self.truncation == "only_second":
                return None
        if self.overflow or self.offsets or self.special_mask:
            return None
        width = -1 if self.padding is None else self.max_length or 0 if self.padding == "max_length" else 0
        flat, lists = self.tensors in ("flat", "flat_np"), self.tensors is None and self.padding is None
        kind = "flat" if flat else "lists" if lists else "rows"
        return QuickOptions(kind, room, (width, self.multiple or 1, self.pads_left))


# Calls differ in their texts and rarely in their options. `typed`, so that 1 is not taken for a True seen before.
@functools.lru_cache(maxsize=256, typed=True)
def check_options(
    specials: bool,
    padding: Padding,
    truncation: Truncation,
    max_length: int | None,
    model_max_length: int | None,
    stride: int,
    multiple: int | None,
    overflow: bool,
    offsets: bool,
    special_mask: bool,
    tensors: Tensors,
    padding_side: Side,
    truncation_side: Side,
    types: bool,
    mask: bool,
    length: bool,
) -> CallOptions:
    """Return the options of a call, or raise where one is unknown, contradicts another, or would have no effect."""
    check_flag("add_special_tokens", specials)
    check_flag("return_overflowing_tokens", overflow)
    check_flag("return_offsets_mapping", offsets)
    check_flag("return_special_tokens_mask", special_mask)
    check_flag("return_token_type_ids", types)
    check_flag("return_attention_mask", mask)
    check_flag("return_length", length)
    check_choice("padding", padding, PADDINGS)
    check_choice("truncation", truncation, TRUNCATIONS)
    check_choice("return_tensors", tensors, (None, "pt", "np", "flat", "flat_np"))
    check_choice("padding_side", padding_side, ("left", "right"))
    pad, cut = PADDINGS[padding], TRUNCATIONS[truncation]
    if max_length is None and (cut or pad == "max_length"):
        if model_max_length is None:
            argument = f"truncation={truncation!r}" if cut else "padding='max_length'"
            raise ValueError(f"{argument} needs max_length, as this tokenizer has no model_max_length")
        max_length = model_max_length
    options = CallOptions(
        specials,
        pad,
        cut,
        max_length,
        stride,
        multiple,
        overflow,
        offsets,
        special_mask,
        tensors,
        padding_side == "left",
        truncation_side == "left",
        types,
        mask,
        length,
    )
    _check_length(options)
    _check_overflow(options)
    _check_padding(options)
    return options


def check_room(options: CallOptions, pair: bool) -> None:
    """Raise unless `max_length` leaves room for the special tokens, and what is to be cut is there."""
    length = options.max_length
    least = (3 if pair else 2) if options.specials else 0
    if options.truncation and length is not None and length < least:
        names = "[CLS], [SEP] and [SEP]" if pair else "[CLS] and [SEP]"
        raise ValueError(f"max_length must leave room for the {least} special tokens {names}, got {length}")
    if options.truncation == "only_second" and not pair:
        raise ValueError("truncation='only_second' needs a text_pair")


def _check_length(options: CallOptions) -> None:
    """Raise unless `max_length` has an effect."""
    length, padded = options.max_length, options.padding == "max_length"
    if length is not None:
        if not options.truncation and not padded:
            raise ValueError(f"max_length={length} has no effect without truncation=True or padding='max_length'")
        check_number("max_length", length, minimum=1, integer=True)
        if padded and length > WIDEST:
            raise ValueError(
                f"padding='max_length' needs max_length of at most {WIDEST}, got {length}: "
                "padding=True pads to the longest row"
            )


def _check_overflow(options: CallOptions) -> None:
    """Raise unless further rows can come of a text, and rows share tokens only where there are further rows."""
    check_number("stride", options.stride, minimum=0, integer=True)
    if options.overflow and not options.truncation:
        raise ValueError("return_overflowing_tokens=True needs truncation: without it no text overflows")
    if options.stride and not options.overflow:
        raise ValueError(f"stride={options.stride} has no effect without return_overflowing_tokens=True")


def _check_padding(options: CallOptions) -> None:
    """Raise unless the options of padding have an effect."""
    if options.multiple is not None:
        check_number("pad_to_multiple_of", options.multiple, minimum=1, maximum=WIDEST, integer=True)
        if options.padding is None:
            raise ValueError(f"pad_to_multiple_of={options.multiple} has no effect without padding")
    if options.tensors in ("flat", "flat_np") and options.padding is not None:
        raise ValueError(f"padding has no effect with return_tensors={options.tensors!r}, whose rows are not padded")
