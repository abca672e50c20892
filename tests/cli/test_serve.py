"""`linkboy serve`: what it prints, how it listens and ends, a real connection, a load, and the page in a browser."""

import asyncio
import builtins
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import linkboy as lb
from linkboy import cli

uvicorn = pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "reviews-model"
    texts = [f"{word} {n}" for n in range(30) for word in ("干净", "太吵")]
    lb.train_classifier((texts, ["好评", "差评"] * 30), out)
    return out


class Serving:
    """`linkboy serve` on a thread of this process."""

    def __init__(self, model, monkeypatch, *options):
        real, self.servers, self.printed = uvicorn.Server, [], []
        monkeypatch.setattr(uvicorn, "Server", lambda config: self.servers.append(real(config)) or self.servers[-1])
        monkeypatch.setattr(builtins, "print", lambda *parts, **how: self.printed.append(" ".join(parts)))
        self.status = None
        self.thread = threading.Thread(target=self._run, args=(["serve", str(model), "--port", "0", *options],))
        self.thread.start()
        while not (self.servers and self.servers[0].started):
            time.sleep(0.005)
            assert self.thread.is_alive()
        monkeypatch.undo()
        self.port = int(re.search(r":(\d+)  \(Ctrl-C", self.printed[0])[1])

    def _run(self, arguments):
        self.status = cli.run(arguments)

    def stop(self):
        self.servers[0].should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


def request(port, method, path, content=None, **headers):
    body = None if content is None else json.dumps(content)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_it_says_where_it_is_answers_and_stops(model, monkeypatch):
    serving = Serving(model, monkeypatch)
    try:
        assert serving.printed == [f"{model} is served at http://127.0.0.1:{serving.port}  (Ctrl-C stops it)"]
        status, answer = request(serving.port, "POST", "/predict", {"text": "很干净"})
        assert (status, json.loads(answer)["label"]) == (200, "好评")
        assert request(serving.port, "GET", "/health") == (200, b'{"ok":true}')
        assert request(serving.port, "GET", "/health", host="evil.example")[0] == 421
        status, page = request(serving.port, "GET", "/")
        assert (status, b"<h1>" in page, b"reviews-model" in page) == (200, True, True)
        with socket.create_connection(("127.0.0.1", serving.port)) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"y" * (1 << 17))
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
    finally:
        serving.stop()
    assert serving.status == 0


@pytest.fixture(scope="module")
def of_columns(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    rows = "".join(
        f"{'sparks' if n % 2 else 'parcel'} {n},{'it burns' if n % 2 else 'it is late'} {n},{n % 2}\n"
        for n in range(80)
    )
    (folder / "rows.csv").write_text(f"subject,message,team\n{rows}", "utf-8")
    data = lb.classify.read_labelled(folder / "rows.csv", text_column="subject,message", label_column="team")
    lb.train_classifier(data, folder / "model")
    return folder / "model"


READS = "the classifier reads the columns 'subject' and 'message', and text 0 has 1 part: pass a table or JSON objects with these"


def test_a_text_of_several_columns_is_never_taken_for_the_first(of_columns, capsys, monkeypatch):
    classifier = lb.load_classifier(of_columns)
    for call in (classifier.predict, classifier.explain, lambda texts: list(classifier.predict_stream(texts))):
        with pytest.raises(ValueError) as caught:
            call(["it burns"])
        assert str(caught.value) == f"{READS} columns, or join the parts with ' \\x01 '"
    assert classifier.predict([" \x01 it burns", ""]).labels[0] == "1"
    for command in ("predict", "explain"):
        assert cli.run([command, str(of_columns), "it burns"]) == 2
        assert capsys.readouterr().err.startswith(f"linkboy: {READS}")


def test_the_page_has_a_field_for_each_column(of_columns, monkeypatch):
    serving = Serving(of_columns, monkeypatch)
    try:
        _, page = request(serving.port, "GET", "/")
        assert re.findall(rb'<textarea id="text\d" name="(\w+)"', page) == [b"subject", b"message"]
        asked = {"text": {"message": "it burns", "subject": ""}, "explain": True}
        status, answer = request(serving.port, "POST", "/predict", asked)
        assert (status, json.loads(answer)["label"]) == (200, "1")
        assert json.loads(request(serving.port, "GET", "/model")[1])["text_columns"] == ["subject", "message"]
        told = (
            'a text must be an object with a string for "subject" and "message", the columns that the classifier reads'
        )
        for wrong in ("it burns", {"message": "it burns"}, {"subject": 1, "message": "it burns"}):
            status, answer = request(serving.port, "POST", "/predict", {"texts": [wrong]})
            assert (status, json.loads(answer)["error"]) == (400, told)
    finally:
        serving.stop()


def test_other_names_and_addresses_are_allowed_by_an_option(model, monkeypatch):
    serving = Serving(model, monkeypatch, "--host", "0.0.0.0", "--allow-host", "models.example")
    try:
        assert serving.printed[1] == "linkboy: everyone who can reach 0.0.0.0 can use it; there is no password"
        assert request(serving.port, "GET", "/health", host="models.example")[0] == 200
        assert request(serving.port, "GET", "/health", host="other.example")[0] == 421
    finally:
        serving.stop()


def refused(capsys, *arguments):
    assert cli.run(["serve", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_what_cannot_be_served_is_one_sentence(model, tmp_path, capsys):
    assert refused(capsys, tmp_path / "nothing") == (
        f"linkboy: there is no directory {tmp_path / 'nothing'}; name one that linkboy train has written\n"
    )
    assert refused(capsys, model, "--port", 70000) == "linkboy: --port must be from 0 to 65535, got 70000\n"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, model, "--port", port)
    assert said == (
        f"linkboy: cannot listen on 127.0.0.1 port {port}: address already in use; choose another --port or --host\n"
    )


def test_a_host_that_is_not_of_this_machine_is_one_sentence(model, capsys):
    said = refused(capsys, model, "--host", "192.0.2.1")
    assert said == (
        "linkboy: cannot listen on 192.0.2.1 port 8000: cannot assign requested address; choose another --port or --host\n"
    )


@pytest.mark.parametrize("missing", ["starlette.applications", "uvicorn"])
def test_without_the_extra_one_sentence_says_how_to_install_it(model, capsys, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert refused(capsys, model) == (
        "linkboy: linkboy serve needs starlette and uvicorn, which are not installed; run: pip install 'linkboy[serve]'\n"
    )


@contextlib.contextmanager
def process(model):
    """Run the command in a process of its own; give the process and its port."""
    command = [sys.executable, "-m", "linkboy", "serve", str(model), "--port", "0"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield run, int(re.search(r":(\d+)  \(", run.stdout.readline())[1])
    finally:
        run.kill()
        run.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_signal_lets_what_runs_end(model, number, status):
    body = '{"text": "干净"}'.encode()
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with process(model) as (run, port), socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(head.encode() + body[:1])
        time.sleep(0.5)
        run.send_signal(number)
        time.sleep(0.5)
        raw.sendall(body[1:])
        assert raw.recv(1000).startswith(b"HTTP/1.1 200")
        assert run.wait(20) == status
        assert "Traceback" not in run.stderr.read()


def memory_mib(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(port, rate, connections, seconds):
    """Send requests at a rate, whether answered or not, over kept connections; return statuses and seconds of each."""
    body = json.dumps({"text": "两天价网站背后重重迷雾：做个网站究竟要多少钱"}).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
    locks = [asyncio.Lock() for _ in streams]
    results = []

    async def one(number, due):
        reader, writer = streams[number % connections]
        async with locks[number % connections]:
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", answer)[1])
            await reader.readexactly(length)
        results.append((int(answer[9:12]), time.perf_counter() - due))

    started, tasks = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    for _, writer in streams:
        writer.close()
    return results


@pytest.mark.slow
def test_two_hundred_requests_a_second_are_answered_in_time_and_a_burst_leaves_memory_flat(model):
    model = os.environ.get("LINKBOY_SERVED", model)
    with process(model) as (run, port):
        asyncio.run(load(port, 200, 200, 2))
        before, busy = memory_mib(run.pid), processor_seconds(run.pid)
        seconds = float(os.environ.get("LINKBOY_LOAD_SECONDS", "5"))
        results = asyncio.run(load(port, 200, 200, seconds))
        assert {status for status, _ in results} == {200}
        each = (processor_seconds(run.pid) - busy) / len(results)
        assert each < 0.004
        times = sorted(took for _, took in results)
        p50, p99 = times[len(times) // 2], times[int(0.99 * len(times))]
        print(f"{len(results)} requests: {1000 * each:.2f} ms of the processor for each")
        print(f"p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms, most {1000 * times[-1]:.1f} ms")
        if os.getloadavg()[0] < 2 * (os.cpu_count() or 1):  # else the others on the machine are measured
            assert p99 <= 0.1
        burst = asyncio.run(load(port, 2000, 800, seconds))
        statuses = [status for status, _ in burst]
        took = sorted(took for _, took in burst)[int(0.99 * len(burst))]
        print(
            f"burst of {len(burst)}: {statuses.count(200)} answered, {statuses.count(503)} refused, p99 {1000 * took:.0f} ms"
        )
        assert set(statuses) <= {200, 503}
        print(f"memory {before:.0f} MiB before, {memory_mib(run.pid):.0f} MiB behind the burst")
        assert memory_mib(run.pid) - before < 48
        assert request(port, "GET", "/health")[0] == 200


@pytest.fixture
def browser(tmp_path):
    from tests.classify.test_page_in_browser import Browser, find_browser

    if find_browser() is None:
        pytest.skip("there is no Chromium on this machine")
    with Browser(tmp_path / "profile") as opened:
        yield opened


def wait_for(browser, expression):
    latest = time.monotonic() + 30
    while not browser.run(expression):
        assert time.monotonic() < latest, expression
        time.sleep(0.02)


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_the_page_classifies_a_text_and_shows_what_decided(browser, model, monkeypatch, width, dark):
    serving = Serving(model, monkeypatch)
    try:
        url = f"http://127.0.0.1:{serving.port}/"
        browser.open(url, width=width, dark=dark)
        assert browser.run("document.getElementById('answer').hidden")
        text = "<b>很干净</b> <img src=x onerror=alert(1)>"
        browser.run(f"document.getElementById('text').value = {json.dumps(text)}")
        browser.run("document.querySelector('form button').click()")
        wait_for(browser, "!document.getElementById('answer').hidden")
        assert browser.run("document.querySelector('#classes li bdi').textContent") == "好评"
        assert browser.run("document.querySelectorAll('#classes li').length") == 2
        assert browser.run("document.getElementById('runs').textContent") == text
        assert browser.run("document.querySelectorAll('main img, main b').length") == 0
        assert browser.run("document.querySelectorAll('#pieces li').length") > 0
        assert browser.run("document.documentElement.scrollWidth") == width
        background = browser.run("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 22, 25)" if dark else "rgb(253, 253, 251)")
        own = (f"request: {url}", f"request: {url}predict")
        assert [problem for problem in browser.problems if problem not in own] == []
    finally:
        serving.stop()
    browser.run("document.querySelector('form button').click()")
    wait_for(browser, "!document.getElementById('problem').hidden")
    assert browser.run("document.getElementById('problem').textContent") == "the server does not answer"
