"""Which version of TLS a store speaks. Both ends choose the newest that they have in common, and both of the libraries used here
have 1.3: so a server that offers a version is a server that is spoken to in it or in a newer one.
"""

from __future__ import annotations

import functools
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

from keepwell.core.errors import StoreError

Version = Literal["1.2", "1.3"]
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_SECONDS = 10
_VARIABLES = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


def require_tls(url: str, options: Mapping[str, str], least: Version) -> None:
    """Returns where the server of this bucket offers TLS of that version or newer. Raises StoreError."""
    scheme, host, port = _server(url, options)
    if scheme != "https":
        raise StoreError(
            f"The store {url} is spoken to without TLS ({scheme}://{host}), and the policy demands TLS {least}.",
            hint="Use an https:// endpoint, or take tls_min out of the policy.",
        )
    _require(url, host, port, least)


@functools.cache
def _require(url: str, host: str, port: int, least: Version) -> None:
    """Asked once in a process; a failure is asked again."""
    context = ssl.create_default_context()
    context.minimum_version = _VERSIONS[least]
    try:
        with (
            socket.create_connection((host, port), _SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise StoreError(
            f"The certificate of {host} does not hold: {error.verify_message}.",
            hint="Look at the store's address, and at the certificates that this machine trusts (SSL_CERT_FILE).",
        ) from None
    except ssl.SSLError as error:
        raise StoreError(
            f"The server {host} of {url} offers no TLS {least} or newer ({error.reason or 'the handshake failed'}).",
            hint="Update the server, or lower tls_min in the policy.",
        ) from None
    except OSError as error:
        raise StoreError(
            f"The server {host} of {url} cannot be reached: {error}.",
            hint="Look at the network, at the store's address and endpoint, and whether the server runs.",
        ) from None


def _server(url: str, options: Mapping[str, str]) -> tuple[str, str, int]:
    """How the server is spoken to, its name and port."""
    parts = urlsplit(url)
    endpoint = options.get("endpoint") or next(
        (os.environ[name] for name in _VARIABLES[parts.scheme] if os.environ.get(name)), ""
    )
    if not endpoint:
        region = options.get("region") or os.environ.get("AWS_REGION") or "us-east-1"
        account = options.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or "account"
        endpoint = {
            "s3": f"https://s3.{region}.amazonaws.com",
            "gs": "https://storage.googleapis.com",
            "az": f"https://{account}.blob.core.windows.net",
        }[parts.scheme]
    found = urlsplit(endpoint)
    return found.scheme, found.hostname or "", found.port or (443 if found.scheme == "https" else 80)
