"""A WordPiece vocabulary learned from texts: the same texts in any order, on any machine, give the same list."""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from linkboy._checks import check_number
from linkboy.text._arguments import as_text
from linkboy.text._vocabulary import MOST_IDS, SPECIAL, UNK
from linkboy.text.basic import BasicTokenizer

Pair = tuple[str, str]


def train_wordpiece(
    texts: Iterable[str | bytes],
    vocab_size: int,
    *,
    min_frequency: int = 2,
    limit_alphabet: int | None = None,
    do_lower_case: bool = True,
    strip_accents: bool | None = None,
    tokenize_chinese_chars: bool = True,
    special_tokens: Sequence[str] = SPECIAL,
) -> list[str]:
    """Learn a vocabulary of exactly `vocab_size` tokens for `BertTokenizer`.

    The characters of the texts come first; then the most frequent pair of neighbouring pieces is merged, again and again.
    Among equally frequent pairs, the one whose two pieces come first by code point is merged.

    Args:
        texts: any iterable of texts; read once, only the counts of words are kept.
        vocab_size: number of tokens of the result, special ones included.
        min_frequency: a pair that occurs less often is not merged.
        limit_alphabet: the most characters to include, the most frequent first; `None` includes as many as fit.
        do_lower_case: the option that `BertTokenizer` will be used with.
        strip_accents: the option that `BertTokenizer` will be used with.
        tokenize_chinese_chars: the option that `BertTokenizer` will be used with.
        special_tokens: the first tokens of the vocabulary; `[UNK]` must be among them.

    Returns:
        Special tokens, characters by code point, then merged pieces in the order they were found. If the texts have too
        few pairs, `[unused0]`, `[unused1]`, ... fill the list up to `vocab_size`.

    Raises:
        TypeError: `texts` is not an iterable of texts, or a special token is not a string.
        ValueError: `vocab_size` is more than `BertTokenizer` takes or leaves no room for a character, or the special
            tokens are not distinct or lack `[UNK]`.

    Examples:
        >>> from linkboy import train_wordpiece
        >>> train_wordpiece(["low lower lowest", "北京 low"], 18)[5:]
        ['l', '京', '北', '##e', '##o', '##r', '##s', '##t', '##w', '##ow', 'low', 'lowe', '[unused0]']

    Source: the byte-pair procedure of Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, on `##` pieces, as in the
    trainer of `tokenizers`, whose order of equally frequent pairs changes from run to run.
    """
    specials = _check_specials(special_tokens)
    check_number("vocab_size", vocab_size, minimum=len(specials) + 1, maximum=MOST_IDS, integer=True)
    check_number("min_frequency", min_frequency, minimum=1, integer=True)
    if limit_alphabet is not None:
        check_number("limit_alphabet", limit_alphabet, minimum=1, integer=True)
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"texts must be an iterable of texts, got a single {type(texts).__name__}")
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping):  # the counts in a mapping would be passed over
        raise TypeError(f"texts must be an iterable of texts, got {type(texts).__name__}")
    basic = BasicTokenizer(do_lower_case, strip_accents, tokenize_chinese_chars)
    counts: Counter[str] = Counter()
    for index, text in enumerate(texts):
        counts.update(basic.tokenize(text if isinstance(text, str) else as_text(text, f"texts[{index}]")))
    counts = Counter({word: count for word, count in counts.items() if word not in specials})
    alphabet = _alphabet(counts, vocab_size - len(specials), limit_alphabet)
    vocabulary = [*specials, *alphabet]
    vocabulary += itertools.islice(_joined(counts, set(alphabet), min_frequency), vocab_size - len(vocabulary))
    known = set(vocabulary)
    fillers = (token for token in (f"[unused{n}]" for n in itertools.count()) if token not in known)
    return vocabulary + list(itertools.islice(fillers, vocab_size - len(vocabulary)))


def _check_specials(special_tokens: Sequence[str]) -> list[str]:
    if isinstance(special_tokens, (str, bytes)) or not isinstance(special_tokens, Iterable):
        raise TypeError(f"special_tokens must be a list of tokens, got {special_tokens!r}")
    specials = list(special_tokens)
    for number, token in enumerate(specials):
        if not isinstance(token, str) or not token:
            raise TypeError(f"special_tokens[{number}] must be a non-empty string, got {token!r}")
    if UNK not in specials or len(set(specials)) != len(specials):
        raise ValueError(f"special_tokens must be distinct and hold {UNK}, got {tuple(specials)}")
    return specials


def _split(word: str) -> list[str]:
    return [word[0], *("##" + character for character in word[1:])]


def _alphabet(counts: Counter[str], room: int, limit: int | None) -> list[str]:
    """Return the pieces of one character; where room is short, the most frequent characters get it."""
    characters: Counter[str] = Counter()
    forms: defaultdict[str, set[str]] = defaultdict(set)
    for word, count in counts.items():
        for piece in _split(word):
            characters[piece[-1]] += count
            forms[piece[-1]].add(piece)
    ranked = sorted(characters, key=lambda character: (-characters[character], character))
    chosen: list[str] = []
    for character in ranked[:limit]:
        # The last character may get only one of its two forms, the one that begins words.
        chosen += sorted(forms[character], key=len)[: room - len(chosen)]
    return sorted(chosen, key=lambda piece: (len(piece), piece))


def _joined(counts: Counter[str], alphabet: set[str], min_frequency: int) -> Iterable[str]:
    """Yield merged pieces, the most frequent pair first; a heap of old counts is corrected when its top is stale."""
    words = [(pieces, count) for word, count in counts.items() for pieces in _runs(_split(word), alphabet)]
    pairs: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, (pieces, count) in enumerate(words):
        for pair in itertools.pairwise(pieces):
            pairs[pair] += count
            where[pair].add(index)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    seen = set(alphabet)
    while heap:
        negative, pair = heapq.heappop(heap)
        if -negative != pairs[pair]:
            continue  # an entry with the current count was pushed when it changed
        if -negative < min_frequency:
            return
        token = pair[0] + pair[1].removeprefix("##")
        changed: set[Pair] = set()
        for index in where.pop(pair):
            pieces, count = words[index]
            for old, new in _join(pieces, pair, token):
                pairs[old] -= count
                pairs[new] += count
                where[new].add(index)
                changed.update((old, new))
        pairs[pair] = 0
        for one in changed:
            if pairs[one] > 0:
                heapq.heappush(heap, (-pairs[one], one))
        if token not in seen:
            seen.add(token)
            yield token


def _runs(pieces: list[str], alphabet: set[str]) -> list[list[str]]:
    """Return the stretches of a word that the alphabet can spell."""
    groups = itertools.groupby(pieces, key=alphabet.__contains__)
    runs = [list(group) for known, group in groups if known]
    return [run for run in runs if len(run) > 1]


def _join(pieces: list[str], pair: Pair, token: str) -> Iterable[tuple[Pair, Pair]]:
    """Join a pair wherever it stands in a word, in place; yield each neighbouring pair and what it becomes."""
    left, right = pair
    at = -1
    while True:
        try:
            at = pieces.index(left, at + 1)
        except ValueError:
            return
        if at + 1 == len(pieces) or pieces[at + 1] != right:
            continue
        if at:
            yield (pieces[at - 1], left), (pieces[at - 1], token)
        if at + 2 < len(pieces):
            yield (right, pieces[at + 2]), (token, pieces[at + 2])
        pieces[at : at + 2] = [token]
