"""The small streaming client against servers that misbehave."""

from __future__ import annotations

import http.server
import socket
import threading
from contextlib import contextmanager

from provoke import provoke

from danlu.cli import client


@contextmanager
def server(status, body):
    """A plain HTTP server that answers every POST the same."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def test_a_refusal_is_shown_with_the_servers_own_words():
    with server(404, b'{"error": {"message": "no such model"}}') as url, provoke("DL-RUN-001") as caught:
        client.complete(url, "m", "hello", 3)
    assert "404" in caught.error.what and "no such model" in caught.error.why


def test_a_port_nobody_listens_on_is_an_error_with_a_fix():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with provoke("DL-RUN-001") as caught:
        client.complete(url, "m", "hello", 3)
    assert "curl" in caught.error.fix


def test_text_and_cached_tokens_come_from_the_stream():
    stream = (
        b'data: {"choices": [{"text": "a "}]}\n\ndata: {"choices": [{"text": "b"}]}\n\n'
        b'data: {"choices": [], "usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}}\n\n'
        b"data: [DONE]\n\n"
    )
    with server(200, stream) as url:
        answer = client.complete(url, "m", "hello", 2)
    assert (answer.text, answer.prompt_tokens, answer.cached_tokens) == ("a b", 9, 4)
    assert 0 < answer.first_s <= answer.total_s
