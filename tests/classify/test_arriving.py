"""Texts that arrive over time: batches of what is there, in bounded memory, with the error of the source behind them."""

import os
import threading
import time

import pytest

from linkboy.classify.reading import _arriving
from linkboy.classify.reading._arriving import Arriving, LiveReader, batches_of


def lines_of(reader):
    """Yield lines as they are read, lazily, as `decoded_lines` does."""
    rest = b""
    while piece := reader.read(1 << 16):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in whole)
    if rest:
        yield rest.decode()


@pytest.fixture
def pipe():
    """A reader of a pipe, and a function that writes into it; `None` closes it."""
    readable, writable = os.pipe()
    stream = open(readable, "rb")  # noqa: PTH123, SIM115 (a descriptor, closed below)

    def write(text):
        os.close(writable) if text is None else os.write(writable, text.encode())

    yield LiveReader(stream), write
    stream.close()


def test_a_line_is_given_before_the_next_one_is_written(pipe):
    reader, write = pipe
    batches = iter(Arriving(lines_of(reader), reader))
    for text in ("one", "two", "three"):
        write(f"{text}\n")
        assert next(batches) == [text]
    write("half a line")
    write(None)
    assert list(batches) == [["half a line"]]


def test_lines_that_wait_are_one_batch(pipe):
    reader, write = pipe
    write("".join(f"line {n}\n" for n in range(1000)))
    write(None)
    assert list(Arriving(lines_of(reader), reader)) == [[f"line {n}" for n in range(1000)]]


def test_more_says_whether_a_batch_is_there(pipe):
    reader, write = pipe
    arriving = Arriving(lines_of(reader), reader)
    assert not arriving.more()
    write("one\n")
    while not arriving.more():
        time.sleep(0.001)
    batches = iter(arriving)
    assert next(batches) == ["one"]
    assert not arriving.more()
    write(None)


class Endless:
    """A stream without an end that counts how often it was read."""

    reads = 0

    def read(self, size):
        self.reads += 1
        return b"a line\n" * 100


def test_no_more_is_read_ahead_than_a_batch_and_a_piece():
    stream = Endless()
    reader = LiveReader(stream)
    batches = iter(Arriving(lines_of(reader), reader))
    assert set(next(batches)) == {"a line"}
    for _ in range(50):
        time.sleep(0.001)
    ahead = stream.reads
    time.sleep(0.02)
    assert stream.reads == ahead
    assert ahead * 100 <= 4 * _arriving.MOST_TEXTS
    running = threading.active_count()
    batches.close()
    latest = time.monotonic() + 20
    while threading.active_count() == running:  # the thread ends when nobody takes its batches
        assert time.monotonic() < latest
        time.sleep(0.001)


def test_an_error_of_the_source_comes_behind_what_was_read_before_it():
    def texts():
        yield "a"
        yield "b"
        raise ValueError("line 3 is wrong")

    batches = iter(Arriving(texts(), LiveReader(Endless())))
    assert next(batches) == ["a", "b"]
    with pytest.raises(ValueError, match="line 3 is wrong"):
        next(batches)
    cut = batches_of(texts(), 10)
    assert next(cut) == ["a", "b"]
    with pytest.raises(ValueError, match="line 3 is wrong"):
        next(cut)


def test_long_texts_make_small_batches():
    long = "x" * (_arriving.MOST_CHARACTERS // 3)
    assert [len(batch) for batch in batches_of([long] * 7 + ["a"] * 3)] == [4, 4, 2]


def test_a_stream_that_does_not_wait_is_waited_for():
    pieces = iter([None, None, b"late\n", b""])
    stream = type("Stream", (), {"read": lambda self, size: next(pieces)})()
    reader = LiveReader(stream)
    assert list(Arriving(lines_of(reader), reader)) == [["late"]]
