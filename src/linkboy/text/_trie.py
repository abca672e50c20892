"""WordPiece for many words at once: greedy longest match, in which every word advances by one symbol per round."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linkboy.text._arrays import Array
from linkboy.text._hash_table import HashTable

INITIAL, CONTINUED = 0, 1  # the two roots


class Pieces(NamedTuple):
    """Pieces in the order of their words: the word's number, the id, and the half-open span in the symbols."""

    word: Array
    id: Array
    start: Array
    end: Array


class PieceTrie:
    """The vocabulary as a tree of symbols, one root for word beginnings and one for `##` pieces.

    Args:
        symbols: `uint16`, the symbols of all pieces, one piece after the other.
        lengths: how many symbols each piece has, at least one.
        continued: which pieces go on with a word.
        ids: the id of each piece.
    """

    def __init__(self, symbols: Array, lengths: Array, continued: Array, ids: Sequence[int] | Array) -> None:
        first = np.cumsum(lengths) - lengths
        node = np.where(continued, CONTINUED, INITIAL).astype(np.uint64)
        piece = np.arange(len(lengths))
        nodes, depth = 2, 0
        levels: list[tuple[Array, Array]] = []
        ended: list[tuple[Array, Array]] = []
        while piece.size:
            edge = (node << np.uint64(16)) | symbols[first[piece] + depth]
            unique, child = np.unique(edge, return_inverse=True)
            levels.append((unique, nodes + np.arange(len(unique))))
            node = (child + nodes).astype(np.uint64)
            nodes, depth = nodes + len(unique), depth + 1
            last = lengths[piece] == depth
            ended.append((node[last].astype(np.int64), piece[last]))
            piece, node = piece[~last], node[~last]
        self._accepts = np.full(nodes, -1, np.int32)
        for end_nodes, pieces in ended:
            self._accepts[end_nodes] = np.asarray(ids, np.int32)[pieces]
        self._edges = HashTable(nodes)
        for keys, values in levels:
            self._edges.insert(keys, values)

    def match(self, symbols: Array, starts: Array, ends: Array) -> tuple[Pieces, Array]:
        """Cut words into pieces; a word that cannot be cut has no pieces and is marked.

        Args:
            symbols: `uint16`, with a 0 after the last symbol of each word.
            starts: where each word begins in `symbols`.
            ends: where it ends, so that `symbols[ends] == 0`; a word is not empty.

        Returns:
            The pieces, spans counted in `symbols`, and for each word whether it has no cut.
        """
        unknown = np.zeros(len(starts), bool)
        found: list[tuple[Array, Array, Array, Array]] = []
        word, end = np.arange(len(starts)), ends
        position, begin, best_end = starts.copy(), starts.copy(), starts.copy()
        node, best = np.zeros(len(starts), np.int64), np.full(len(starts), -1, np.int32)
        while word.size:
            child = self._edges.find(((node << 16) | symbols[position]).view(np.uint64))
            moved = child >= 0
            node = np.where(moved, child, node)
            position += moved
            accepted = np.where(moved, self._accepts.take(node), -1)
            best_end = np.where(accepted >= 0, position, best_end)
            best = np.where(accepted >= 0, accepted, best)
            stuck = np.flatnonzero(~moved)
            if not stuck.size:
                continue
            dead = best[stuck] < 0
            unknown[word[stuck[dead]]] = True
            cut = stuck[~dead]
            found.append((word[cut], best[cut], begin[cut], best_end[cut]))
            begin[cut] = position[cut] = best_end[cut]
            node[cut], best[cut] = CONTINUED, -1
            going = np.ones(len(word), bool)
            going[stuck[dead]] = False
            going[cut] = position[cut] < end[cut]
            if not going.all():
                word, end, position, begin = word[going], end[going], position[going], begin[going]
                best_end, node, best = best_end[going], node[going], best[going]
        return _in_order(found, unknown), unknown


def _in_order(found: list[tuple[Array, Array, Array, Array]], unknown: Array) -> Pieces:
    if not found:
        none = np.zeros(0, np.int64)
        return Pieces(none, none, none, none)
    word, piece_id, start, end = (np.concatenate(column) for column in zip(*found, strict=True))
    # Stable: the pieces of one word were found from left to right.
    order = np.argsort(word, kind="stable")
    order = order[~unknown[word[order]]]
    return Pieces(word[order], piece_id[order], start[order], end[order])
