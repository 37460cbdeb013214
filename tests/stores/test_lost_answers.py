"""A put whose answer is lost on the way took effect all the same; the next try must not call that a conflict."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from keepwell.core.errors import ObjectExists, StoreError
from keepwell.stores import open_store

pytestmark = pytest.mark.slow


class Forgetful(BaseHTTPRequestHandler):
    """Just enough of S3: honours If-None-Match, and closes the connection instead of answering `lost` puts."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["If-None-Match"] == "*"
        taken = self.path in self.server.objects
        if not taken:
            self.server.objects[self.path] = self.server.altered or content
        if self.server.lost > 0:
            self.server.lost -= 1
            self.close_connection = True
            return
        self.answer(412 if taken else 200)

    def do_GET(self):
        content = self.server.objects.get(self.path)
        self.answer(404 if content is None else 200, content or b"")

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status, content=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 02:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as made:
        made.objects, made.lost, made.altered = {}, 0, None
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def store(server):
    options = {"endpoint": f"http://127.0.0.1:{server.server_port}", "access_key_id": "a", "secret_access_key": "b"}
    return open_store("s3://bucket", {**options, "retries": "1"})


def test_a_second_try_that_finds_its_own_object_is_success(server, store):
    server.lost = 1
    store.put("one", b"content")
    assert store.get("one") == b"content"


def test_a_put_that_was_never_answered_but_took_effect_is_success(server, store):
    server.lost = 100
    store.put("one", b"content")
    assert server.lost < 99, "it was tried again"
    assert store.get("one") == b"content"


def test_a_second_try_that_finds_what_another_put_is_a_conflict(server, store):
    server.lost, server.altered = 1, b"of another"
    with pytest.raises(ObjectExists):
        store.put("one", b"content")


def test_a_put_that_was_never_answered_and_did_not_take_effect_is_an_error(server, store):
    server.lost, server.altered = 100, b"another"
    with pytest.raises(StoreError, match="could not be written") as caught:
        store.put("one", b"content")
    assert not isinstance(caught.value, ObjectExists)
