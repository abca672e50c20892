"""The arguments of a tokenizer call, checked against each other."""

import dataclasses

from linkboy._checks import check_choice, check_flag, check_number

PADDINGS = {False: None, "do_not_pad": None, True: "longest", "longest": "longest", "max_length": "max_length"}
TRUNCATIONS = {
    False: None,
    "do_not_truncate": None,
    True: "longest_first",
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
}

WIDEST = 1 << 24  # tokens that rows may be filled up to; a slip of the pen beyond it would take all memory


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of a tokenizer call, checked."""

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


def check_options(
    *,
    pair: bool,
    specials: bool,
    padding: bool | str,
    truncation: bool | str,
    max_length: int | None,
    model_max_length: int | None,
    stride: int,
    multiple: int | None,
    overflow: bool,
    offsets: bool,
    special_mask: bool,
    tensors: str | None,
) -> Options:
    """Refuse what cannot be meant, so that no argument is silently without effect."""
    check_flag("add_special_tokens", specials)
    check_flag("return_overflowing_tokens", overflow)
    check_flag("return_offsets_mapping", offsets)
    check_flag("return_special_tokens_mask", special_mask)
    check_choice("padding", padding, PADDINGS)
    check_choice("truncation", truncation, TRUNCATIONS)
    check_choice("return_tensors", tensors, (None, "pt", "np", "flat"))
    pad, cut = PADDINGS[padding], TRUNCATIONS[truncation]
    if max_length is None and (cut or pad == "max_length"):
        max_length = model_max_length
        if max_length is None:
            argument = f"truncation={truncation!r}" if cut else "padding='max_length'"
            raise ValueError(f"{argument} needs max_length, as this tokenizer has no model_max_length")
    elif max_length is not None and not cut and pad != "max_length":
        raise ValueError(f"max_length={max_length} has no effect without truncation=True or padding='max_length'")
    if max_length is not None:
        check_number("max_length", max_length, minimum=1, integer=True)
        if pad == "max_length" and max_length > WIDEST:
            raise ValueError(
                f"padding='max_length' needs max_length of at most {WIDEST}, got {max_length}: "
                "padding=True fills up to the longest row"
            )
        least = (3 if pair else 2) if specials else 0
        if cut and max_length < least:
            names = "[CLS], [SEP] and [SEP]" if pair else "[CLS] and [SEP]"
            raise ValueError(f"max_length must leave room for the {least} special tokens {names}, got {max_length}")
    if cut == "only_second" and not pair:
        raise ValueError("truncation='only_second' needs a text_pair")
    check_number("stride", stride, minimum=0, integer=True)
    if overflow and not cut:
        raise ValueError("return_overflowing_tokens=True needs truncation, or nothing flows over")
    if stride and not overflow:
        raise ValueError(f"stride={stride} has no effect without return_overflowing_tokens=True")
    if multiple is not None:
        check_number("pad_to_multiple_of", multiple, minimum=1, maximum=WIDEST, integer=True)
        if pad is None:
            raise ValueError(f"pad_to_multiple_of={multiple} has no effect without padding")
    if tensors == "flat" and pad is not None:
        raise ValueError("padding has no effect with return_tensors='flat', which needs none")
    return Options(specials, pad, cut, max_length, stride, multiple, overflow, offsets, special_mask, tensors)
