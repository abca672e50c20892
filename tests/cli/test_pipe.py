"""`linkboy predict DIR -`: what comes through a pipe is answered as it comes, or refused as in a file."""

import contextlib
import gzip
import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading

import pytest

import linkboy as lb
from linkboy import cli

WORDS = {"好评": "干净", "差评": "太吵"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model"
    rows = [(f"{word} {n}", label) for n in range(30) for label, word in WORDS.items()]
    data = lb.LabelledTexts("made up", *map(list, zip(*rows, strict=True)), range(1, 61))
    lb.train_classifier(data, out)
    return out


@pytest.fixture
def predict(model, monkeypatch, capsys):
    """Pipe bytes into `linkboy predict DIR -`; return the status, the lines it printed, and its remarks."""

    def run(content, *options, dash=("-",)):
        content = content if isinstance(content, bytes) else content.encode()
        stdin = type("Stdin", (), {"buffer": io.BytesIO(content), "isatty": lambda self: False})()
        monkeypatch.setattr(sys, "stdin", stdin)
        capsys.readouterr()
        status = cli.run(["predict", str(model), *dash, *options])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.replace("linkboy: ", "").splitlines()

    return run


def texts(lines):
    return [line.split("\t")[2] for line in lines]


def labels(lines):
    return [line.split("\t")[0] for line in lines]


def test_each_line_is_answered_before_the_next_one_is_written(model, monkeypatch):
    readable, writable = os.pipe()
    answers = queue.Queue()
    with open(readable, "rb") as stream:  # noqa: PTH123 (a descriptor)
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": stream}))
        monkeypatch.setattr(sys, "stdout", type("Out", (), {"write": answers.put, "flush": lambda: None}))
        command = threading.Thread(target=cli.run, args=(["predict", str(model), "-"],))
        command.start()
        for label, word in WORDS.items():
            os.write(writable, f"{word}\n".encode())
            answer = answers.get(timeout=60)
            assert (labels([answer]), texts([answer.rstrip("\n")])) == ([label], [word])
        os.close(writable)
        command.join(60)
    assert not command.is_alive()
    assert answers.empty()


@pytest.mark.parametrize("dash", [("-",), ("--file", "-"), ("--file=-",)])
def test_lines_are_texts_blank_ones_too(predict, dash):
    status, lines, said = predict("\ufeff干净\r\n\r\n \n太吵", dash=dash)
    assert (status, texts(lines)) == (0, ["干净", "", " ", "太吵"])
    assert said == ["2 texts hold nothing that the classifier knows, and got the answer for an empty one"]
    assert (labels(lines)[0], labels(lines)[3]) == ("好评", "差评")


def test_an_empty_pipe_has_no_answers(predict):
    assert predict("") == (0, [], [])


TABLES = {
    "json": (
        '{"id": 1, "text": "干净"}\n{"text": "太吵", "id": 2}\n',
        (),
        "text from column 'text'; JSON lines, UTF-8",
    ),
    "nested": (
        '{"r": {"body": "干净"}}\n{"r": {"body": "太吵"}}',
        ("--text-column", "r.body"),
        "text from column 'r.body'; JSON lines, UTF-8",
    ),
    "tsv": ("id\ttext\n1\t干净\n2\t太吵\n", ("--separator", "tab"), "text from column 'text'; tab, with header, UTF-8"),
    "no header": (
        "干净\t1\n太吵\t2\n",
        ("--separator", "tab", "--no-header", "--text-column", "0"),
        "text from column 0; tab, no header (columns count from 0), UTF-8",
    ),
    "named": (
        "a,b\n1,干净\n2,太吵\n",
        ("--separator", ",", "--text-column", "b"),
        "text from column 'b'; comma, with header, UTF-8",
    ),
    "fasttext": ("__label__x 干净\n__label__y 太吵\n", (), "text from column 'text'; fastText's __label__, UTF-8"),
}


@pytest.mark.parametrize("form", TABLES)
def test_tables_are_read_by_their_column_of_texts(predict, form):
    content, options, note = TABLES[form]
    status, lines, said = predict(content, *options)
    assert (status, texts(lines), said) == (0, ["干净", "太吵"], [note])
    status, lines, _ = predict(f"\n{content}".encode("utf-16"), *options)
    assert (status, texts(lines)) == (0, ["干净", "太吵"])


def test_a_quoted_field_may_span_lines_and_answers_may_be_json(predict):
    status, lines, _ = predict('id,text\n1,"干净\n很"\n2,太吵\n', "--separator", "comma", "--json")
    assert status == 0
    assert [json.loads(line)["text"] for line in lines] == ["干净\n很", "太吵"]


def test_the_answers_to_a_pipe_can_go_into_a_file(predict, tmp_path):
    out = tmp_path / "answers.csv"
    assert predict("干净\n太吵\n", "--out", str(out)) == (0, [], [f"2 rows in {out}"])
    assert out.read_text("utf-8").splitlines()[0] == "text,predicted_label,probability"


REFUSED = {
    b"\xff\xfe\xfa": "standard input is not utf-16",
    gzip.compress(b"text"): "standard input is packed by gzip; unpack it in front of the pipe",
    b"PAR1": "standard input is a Parquet file, which cannot be read from a pipe; name it as a file",
    b"<html>": "standard input is an HTML page (it begins with b'<html>')",
    b'{"a": 1, "b": 2}\n': "standard input: cannot tell which column is the text; it has the columns 'a', 'b': name one",
}


@pytest.mark.parametrize("content", REFUSED, ids=lambda content: repr(content[:4]))
def test_what_is_no_text_is_refused(predict, content):
    status, lines, said = predict(content)
    assert (status, lines, len(said)) == (2, [], 1)
    assert said[0].startswith(REFUSED[content])


def test_a_table_that_one_line_does_not_tell_is_refused(predict):
    assert predict("a,b\n", "--text-column", "b")[2] == [
        "standard input is read line by line, so say what stands between the columns: --separator tab, or another character"
    ]
    assert predict("a,b\n", "--separator", ",")[2] == [
        "standard input is read line by line, so say whether the first one, 'a,b', names the columns: --header or --no-header"
    ]
    assert predict("text,label\n干净,好评\n")[2][0] == (
        "each line is read as a text; if the first one names columns, pass --separator comma"
    )


def test_a_line_that_is_not_utf8_is_named_behind_the_answers_before_it(predict):
    status, lines, said = predict("干净\n太吵\n".encode() + b"b\xe4d\n" + "干净\n".encode())
    assert (status, texts(lines)) == (2, ["干净", "太吵"])
    assert said == [
        "standard input line 3: byte 2 is not UTF-8 (0xe4), but the line, unlike most others, reads 'bäd' with --encoding "
        "cp1252; correct the line or pass --on-bad-row skip"
    ]
    status, lines, said = predict(b"b\xe4d\n" * 15 + "干净\n".encode(), "--on-bad-row", "skip")
    assert (status, texts(lines)) == (0, ["干净"])
    assert said[0].startswith("line 1 was skipped: byte 2 is not UTF-8")
    assert said[10:] == ["15 rows skipped"]


def test_a_line_without_end_is_refused(predict):
    status, lines, said = predict(b"a\n" + b"x" * (3 << 20))
    assert (status, texts(lines)) == (2, ["a"])
    assert said == ["standard input has a line of more than 1 MiB, so it is not a file of lines; check it"]


def test_a_file_gives_the_same_answers_and_the_same_refusal(predict, tmp_path):
    path = tmp_path / "texts.txt"
    for content in (b"a\n" + b"x" * (1 << 20) + b"y\nb", "干净\n".encode() * 5000 + b"\xff\n"):
        path.write_bytes(content)
        status, lines, said = predict(content)
        assert status == 2
        again = predict(b"", dash=("--file", str(path)))
        assert (again[0], again[1]) == (status, lines)
        assert again[2] == [sentence.replace("standard input", str(path)) for sentence in said]


def piped(model, *options, **how):
    command = [sys.executable, "-m", "linkboy", "predict", str(model), "-", *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_quietly(model):
    process = piped(model)

    def write():
        try:
            while True:
                process.stdin.write("干净\n".encode() * 1000)
        except BrokenPipeError:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    writing = threading.Thread(target=write)
    writing.start()
    assert process.stdout.readline().startswith("好评\t".encode())
    process.stdout.close()
    assert process.wait(60) == 0
    writing.join(10)
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.slow
def test_ctrl_c_ends_it_in_one_sentence(model):
    process = piped(model)
    process.stdin.write("干净\n".encode())
    process.stdin.flush()
    assert process.stdout.readline().startswith("好评\t".encode())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    assert process.communicate()[1] == b"linkboy: interrupted; no file was written\n"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_lines(model):
    peaks = []
    for count in (20_000, 400_000):
        script = f"import resource, sys; from linkboy import cli; cli.run(['predict', {str(model)!r}, '-']); "
        script += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        lines = (f"房间很干净 {n}\n".encode() for n in range(count))
        done = subprocess.run([sys.executable, "-c", script], input=b"".join(lines), capture_output=True, check=True)
        assert done.stdout.count(b"\n") == count
        peaks.append(int(done.stderr) / 1024)
    assert peaks[1] - peaks[0] < 40
