"""Real servers that take what is sent to them, and keep it."""

import contextlib
import http.server
import json
import queue
import socket
import threading
from dataclasses import dataclass, field

from aiosmtpd.controller import Controller


@dataclass
class Taken:
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


@dataclass
class HttpSink:
    url: str = ""
    taken: list[Taken] = field(default_factory=list)
    answers: "queue.SimpleQueue[int]" = field(default_factory=queue.SimpleQueue)
    """Status codes of the next requests; else 200."""
    always: int = 200


@contextlib.contextmanager
def http_sink():
    sink = HttpSink()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            sink.taken.append(Taken(self.path, dict(self.headers), body))
            status = sink.always if sink.answers.empty() else sink.answers.get()
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    sink.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield sink
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Mail:
    sender: str
    to: list[str]
    content: bytes


@contextlib.contextmanager
def smtp_sink():
    """The port, and the list of what came."""
    mails: list[Mail] = []

    class Handler:
        async def handle_DATA(self, server, session, envelope):
            mails.append(Mail(envelope.mail_from, envelope.rcpt_tos, envelope.content))
            return "250 taken"

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(Handler(), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield port, mails
    finally:
        controller.stop()
