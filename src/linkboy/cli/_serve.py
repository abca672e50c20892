"""`linkboy serve`: a classifier behind HTTP, with a page to try it."""

import os
import signal
import socket
import sys
from pathlib import Path

from linkboy._report import visible

MOST_CONNECTIONS = 1000  # at a time; more get the status 503


def serve(
    directory: Path,
    /,
    *,
    port: int = 8000,
    host: str = "127.0.0.1",
    allow_host: tuple[str, ...] = (),
    encoder: Path | None = None,
) -> int | None:
    """Serve a classifier on this machine: a page to try it, and POST /predict for programs.

    POST /predict takes {"text": "..."} or {"texts": ["...", ...]}, and with them "top" (how many classes) and "explain"; GET
    /health says that it runs, GET /model what it is. It needs: pip install 'linkboy[serve]'

    Parameters
    ----------
    directory
        A directory that linkboy train has written.
    port
        Where to listen; 0 takes a free port.
    host
        The address to listen on. Any but that of this machine is open to everyone who can reach it.
    allow_host
        Another name under which it may be asked, such as models.example.org; give it once for each name.
    encoder
        Where the pretrained encoder is now that the classifier was trained with, if it has been moved.
    """
    from linkboy import load_classifier
    from linkboy.classify.serving import LOOPBACK, make_app, server

    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535, got {port}")
    classifier = load_classifier(directory, encoder=encoder)
    uvicorn = server()
    app = make_app(classifier, name=directory.resolve().name, allowed_hosts={*LOOPBACK, host, *allow_host})
    listening = _listen(host, port)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=1 << 14,
    )
    address = listening.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    print(f"{visible(str(directory))} is served at http://{shown}:{address[1]}  (Ctrl-C stops it)", flush=True)
    if host not in LOOPBACK:
        print(f"linkboy: everyone who can reach {visible(host)} can use it; there is no password", file=sys.stderr)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has ended what was running, and raises the signal again
        return 128 + signal.SIGINT
    finally:
        listening.close()
    return None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        known = error.errno is not None and error.errno > 0  # that of a name which is not found is negative
        reason = (os.strerror(error.errno or 0) if known else error.strerror or str(error)).lower()
        raise ValueError(f"cannot listen on {host} port {port}: {reason}; choose another --port or --host") from None
