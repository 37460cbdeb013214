"""What went wrong with a cloud store, in a sentence: obstore's own texts are long dumps, with addresses in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from keepwell.core.errors import ObjectMissing, StoreDenied, StoreError, StoreFull

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*([A-Za-z0-9.]{1,80})\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<\n]{1,200})|\"message\":\s*\"([^\"\n]{1,200})")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified (?:bucket|container) does not exist")
_NO_CREDENTIALS = re.compile(
    r"169\.254\.169\.254|metadata\.google\.internal|token request|credential|sas key|Account must be specified",
    re.IGNORECASE,
)
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect", "IllegalLocationConstraint"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull", "AccountQuotaExceeded"}

_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), AWS_REGION and, for a server that is "
    "not Amazon's, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT, the path of a JSON key file",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_TOKEN",
}
_RIGHTS = {
    "s3": "s3:ListBucket, s3:GetObject, s3:PutObject and, for prune, s3:DeleteObject",
    "gs": "storage.objects.list, get, create and, for prune, delete",
    "az": "read, write, list and, for prune, delete on blobs",
}


@dataclass(frozen=True)
class Bucket:
    """Where the trouble is: for messages."""

    scheme: str
    name: str
    url: str
    endpoint: str
    """Scheme and host, where it is not the service's own."""

    @property
    def server(self) -> str:
        service = {"s3": "Amazon S3", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}[self.scheme]
        return self.endpoint or service


def says_past_the_end(error: Exception) -> bool:
    text = _head(error)
    return _status(text) == 416 or "Wanted range starting at" in text


def says_no_bucket(error: Exception) -> bool:
    return bool(_NO_BUCKET.search(_head(error)))


def says_not_sent(error: Exception) -> bool:
    """The last try did not even reach the server, so asking it what became of the others is in vain."""
    return "kind: Connect" in str(error)


def explain(error: Exception, bucket: Bucket, done: str, name: str = "") -> StoreError:
    """The error of `core.errors` for obstore's; `done` is the participle of what was tried."""
    text = _head(error)
    status = _status(text)
    code = found[1] if (found := _CODE.search(text)) else ""
    message = next((part for part in found.groups() if part), "") if (found := _MESSAGE.search(text)) else ""
    said = " ".join(part for part in (str(status or ""), code, f"({message.strip()})" if message else "") if part)
    what = f"{name} in {bucket.url}" if name else bucket.url

    if says_no_bucket(error):
        kind = "container" if bucket.scheme == "az" else "bucket"
        return StoreError(
            f"{what} could not be {done}: {bucket.server} has no {kind} {bucket.name!r}.",
            hint=f"Create the {kind}, or mend the store's address in the policy. keepwell creates none by itself.",
        )
    if isinstance(error, FileNotFoundError):
        return ObjectMissing(f"{name} is not in {bucket.url}.")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in {401, 403}:
        if "169.254.169.254" in text:
            return _no_credentials(bucket, what, done)
        return StoreDenied(
            f"{what} could not be {done}: {bucket.server} refused ({said or 'access denied'}).",
            hint=f"Look at the credentials ({_VARIABLES[bucket.scheme]}), at their rights ({_RIGHTS[bucket.scheme]}), "
            "and whether a lock or retention rule protects the object.",
        )
    if code in _FULL or status == 507:
        return StoreFull(
            f"{what} could not be {done}: {bucket.server} has no space or quota left ({said}).",
            hint="Raise the quota, free space, or run `keepwell prune`.",
        )
    if code in _WRONG_REGION or status in {301, 307, 308}:
        return StoreError(
            f"{what} could not be {done}: the bucket is in another region ({said}).",
            hint="Set AWS_REGION, or the store's option region, to the region of the bucket.",
        )
    if _NO_CREDENTIALS.search(text):
        return _no_credentials(bucket, what, done)
    if status:
        return StoreError(
            f"{what} could not be {done}: {bucket.server} answered {said}.",
            hint="Try again later." if status >= 500 or status == 429 else "Look at the store's address and options.",
        )
    if "builder error" in text:
        return StoreError(
            f"{what} could not be {done}: the address of the server is not usable ({bucket.server}).",
            hint="Write the endpoint as https://host or https://host:port. http:// is for loopback, or with the "
            "option allow_http = true.",
        )
    if "HTTP error" in text or "timed out" in text or isinstance(error, TimeoutError):
        how = "did not answer in time" if "kind: Timeout" in str(error) else "cannot be reached"
        return StoreError(
            f"{what} could not be {done}: {bucket.server} {how}.",
            hint="Look at the network, at the store's address and endpoint, and whether the server runs; then try again.",
        )
    return StoreError(f"{what} could not be {done}: {_short(text)}", hint="Look at the store's address and options.")


def _no_credentials(bucket: Bucket, what: str, done: str) -> StoreDenied:
    return StoreDenied(
        f"{what} could not be {done}: there are no usable credentials for {bucket.server}.",
        hint=f"Set {_VARIABLES[bucket.scheme]}.",
    )


def _head(error: Exception) -> str:
    return str(error).split("\n\nDebug source", 1)[0]


def _status(text: str) -> int:
    return int(found[1]) if (found := _STATUS.search(text)) else 0


def _short(text: str) -> str:
    """The first line, without query strings: a signature may be in them."""
    return re.sub(r"\?\S*", "", text.split("\n", 1)[0])[:200]
