"""`tls_min`: a server that offers only older TLS, or none, is refused before anything is sent."""

import datetime as dt
import ipaddress
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keepwell.core.errors import StoreError
from keepwell.stores import tls
from support.servers import free_port


@pytest.fixture
def certificate(tmp_path):
    """A file with key and certificate of 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def serve(certificate, monkeypatch):
    """Serves handshakes with at most this version; the endpoint."""
    tls._require.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    threads, sockets = [], []

    def start(newest):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.maximum_version = newest
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def answer():
            while True:
                try:
                    plain, _ = listening.accept()
                except OSError:
                    return
                with plain:
                    try:
                        context.wrap_socket(plain, server_side=True).close()
                    except (ssl.SSLError, OSError):
                        continue

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return f"https://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for listening in sockets:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
    for thread in threads:
        thread.join()


def test_a_server_with_the_version_demanded_is_let_through(serve):
    endpoint = serve(ssl.TLSVersion.TLSv1_3)
    tls.require_tls("s3://leads", {"endpoint": endpoint}, "1.3")
    tls.require_tls("s3://leads", {"endpoint": endpoint}, "1.2")


def test_a_server_with_older_tls_only_is_refused(serve):
    endpoint = serve(ssl.TLSVersion.TLSv1_2)
    with pytest.raises(StoreError, match=r"offers no TLS 1\.3 or newer") as caught:
        tls.require_tls("s3://leads", {"endpoint": endpoint}, "1.3")
    assert "tls_min" in caught.value.hint
    tls.require_tls("s3://leads", {"endpoint": endpoint}, "1.2")


def test_a_certificate_that_nobody_vouches_for_is_refused(serve, monkeypatch, tmp_path):
    endpoint = serve(ssl.TLSVersion.TLSv1_3)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(StoreError, match="certificate of 127"):
        tls.require_tls("az://leads", {"endpoint": endpoint}, "1.3")


def test_a_server_without_tls_or_without_an_answer_is_named():
    with pytest.raises(StoreError, match="without TLS"):
        tls.require_tls("s3://leads", {"endpoint": "http://127.0.0.1:9000"}, "1.3")
    with pytest.raises(StoreError, match="cannot be reached"):
        tls.require_tls("s3://leads", {"endpoint": f"https://127.0.0.1:{free_port()}"}, "1.3")


@pytest.mark.parametrize(
    ("url", "options", "host"),
    [
        ("s3://leads", {"region": "eu-central-1"}, "s3.eu-central-1.amazonaws.com"),
        ("gs://leads", {}, "storage.googleapis.com"),
        ("az://leads", {"account_name": "acme"}, "acme.blob.core.windows.net"),
    ],
)
def test_without_an_endpoint_the_services_own_is_asked(url, options, host, monkeypatch):
    asked = []
    monkeypatch.setattr(tls, "_require", lambda url, host, port, least: asked.append((host, port)))
    tls.require_tls(url, options, "1.3")
    assert asked == [(host, 443)]
