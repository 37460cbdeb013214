"""The vault as the policy names it: store, key, and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import unquote, urlsplit

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from keepwell.core.errors import StoreError
from keepwell.policy.secret import SecretRef
from keepwell.policy.values import Duration, PackSize, PolicyPath, Span, Table, nearest, wrong
from keepwell.stores.sftp_address import OPTIONS, PATHS, read_address

SECRET_OPTIONS = frozenset(
    {
        "account_key",
        "client_secret",
        "key_passphrase",
        "password",
        "sas_key",
        "secret_access_key",
        "service_account_key",
        "session_token",
        "token",
    }
)
"""Options of a store that must be references."""


class VaultKey(Table):
    """What opens the vault: a key file, or a passphrase that is found by reference."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["file"]}, {"required": ["passphrase"]}]})

    file: PolicyPath | None = Field(default=None, description="The key file; relative to the policy file.")
    passphrase: SecretRef | None = Field(default=None, description="Where the passphrase is to be found.")

    @model_validator(mode="before")
    @classmethod
    def _no_literal(cls, value: Any) -> Any:
        if not isinstance(value, (dict, VaultKey)):
            raise wrong(
                "is not a reference to a key; a key or a passphrase never stands in the policy",
                'Write key = { file = "vault.key" } or key = { passphrase = { env = "KEEPWELL_PASSPHRASE" } }. A literal '
                "would be committed to Git with the policy and be seen by everyone who reads it.",
            )
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> VaultKey:
        if (self.file is None) == (self.passphrase is None):
            given = "both file and passphrase" if self.file else "neither file nor passphrase"
            raise wrong(
                f"has {given}",
                'Write key = { file = "vault.key" } or key = { passphrase = { env = "KEEPWELL_PASSPHRASE" } }.',
            )
        return self


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise wrong("is not the value of an option", 'Write a text, a number, true or false, or { env = "NAME" }.')


Option: TypeAlias = Annotated[
    Annotated[SecretRef, Tag("reference")]
    | Annotated[
        str,
        BeforeValidator(_plain),
        WithJsonSchema({"type": ["string", "boolean", "number"]}),
        Tag("plain"),
    ],
    Discriminator(lambda value: "reference" if isinstance(value, (dict, SecretRef)) else "plain"),
]


class Address(Table):
    """Where objects are, and what the place wants to be told."""

    store: str = Field(
        description="The address.",
        examples=["file:///var/backups/leads", "s3://bucket/prefix", "sftp://user@host/path"],
    )
    options: dict[str, Option] = Field(
        default={}, description="Options of the store: endpoint, region, and others. A secret one is a reference."
    )
    tls_min: Literal["1.2", "1.3"] | None = Field(
        default=None, description="Refuse the store unless it offers this version of TLS or a newer one."
    )

    @field_validator("store", mode="after")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        _check_store(value)
        return value

    @field_validator("options", mode="before")
    @classmethod
    def _secrets_by_reference(cls, value: Any) -> Any:
        for name in SECRET_OPTIONS & set(value if isinstance(value, dict) else ()):
            if not isinstance(value[name], (dict, SecretRef)):
                raise wrong(
                    "is written out in plain text; a secret is always a reference",
                    f'Write {name} = {{ env = "NAME" }}, or leave it out and set the variable of docs/how-to/stores.md. A '
                    "literal would be committed to Git with the policy.",
                    (name,),
                )
        return value

    @model_validator(mode="after")
    def _known_options(self) -> Self:
        if not self.options:
            return self
        scheme = urlsplit(self.store).scheme
        if scheme == "file":
            raise wrong("are for buckets and SFTP servers; a folder has none", "Take them out.", ("options",))
        known = _options_of(scheme)
        for name in self.options:
            if name not in known:
                near = nearest(name, known)
                raise wrong(
                    f"is not an option of {scheme}:// stores",
                    f"{near} Known are: {', '.join(sorted(known))}.".strip(),
                    ("options", name),
                )
        return self

    @model_validator(mode="after")
    def _tls_where_there_is_any(self) -> Self:
        scheme = urlsplit(self.store).scheme
        if self.tls_min is not None and scheme in {"file", "sftp"}:
            raise wrong(f"is for buckets; {scheme}:// does not use TLS", "Take it out.", ("tls_min",))
        return self

    def store_options(self, base: Path) -> dict[str, str]:
        """The options as `open_store` takes them, secrets resolved, files relative to the policy's folder `base`.

        Raises StoreError where a secret cannot be had.
        """
        files = PATHS if urlsplit(self.store).scheme == "sftp" else frozenset()
        found = {}
        for name, value in self.options.items():
            if not isinstance(value, str):
                found[name] = value.resolve(base, what=f"the store's option {name}", error=StoreError).reveal()
            else:
                found[name] = str(base / Path(value).expanduser()) if name in files else value
        return found

    def folder(self) -> Path | None:
        """Where a `file://` vault is; None for a bucket."""
        parts = urlsplit(self.store)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None


class StorePlace(Address):
    """A store of a vault: its objects can be locked."""

    lock: Span | None = Field(
        default=None, description="S3: for how long nobody can delete an object after it was written (object lock)."
    )
    lock_mode: Literal["compliance", "governance"] = Field(
        default="compliance",
        description="Whether nobody at all can lift a lock, or those with s3:BypassGovernanceRetention can.",
    )

    @model_validator(mode="after")
    def _lock_where_there_is_one(self) -> Self:
        scheme = urlsplit(self.store).scheme
        if self.lock is not None and scheme != "s3":
            raise wrong(
                f"is for s3:// stores; {scheme}:// has none that keepwell can set",
                "Take it out. For gs:// and az:// set a retention policy on the bucket itself.",
                ("lock",),
            )
        if "lock_mode" in self.model_fields_set and self.lock is None:
            raise wrong("says how to lock, and there is no lock", 'Write for example lock = "30d".', ("lock_mode",))
        return self


class VaultPolicy(StorePlace):
    """The vault: where it is, what opens it, how it is written."""

    key: VaultKey = Field(description="What opens the vault.")
    grace: Duration = Field(
        default="24h",
        validate_default=True,
        description="How long what `keepwell prune` took out can still be brought back.",
    )
    compression: StrictInt | None = Field(
        default=None,
        ge=1,
        le=19,
        description="Zstandard level: 1 is fast, 19 small. Default: keepwell's own parameters, faster than 3 and nearly as small.",
    )
    pack_size: PackSize = Field(
        default="32 MiB", validate_default=True, description="Size of the objects in the store."
    )


def _options_of(scheme: str) -> frozenset[str]:
    if scheme == "sftp":
        return OPTIONS
    from keepwell.stores.cloud import known_options

    return known_options(scheme)


def _check_store(url: str) -> None:
    """Refuses what cannot be an address, without ever repeating what may be a password."""
    forms = "file:///folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or sftp://user@host/path"
    try:
        parts = urlsplit(url)
        user = parts.scheme != "sftp" and "@" in parts.netloc
        secret = user or parts.password is not None or bool(parts.query or parts.fragment)
    except ValueError:
        raise wrong("is not an address", f"Write {forms}.") from None
    if secret:
        raise wrong(
            "has more in it than an address: a user, a password, or something after ? or #",
            "Take it out: it would be committed to Git with the policy. Credentials come from the environment "
            "(docs/how-to/stores.md) or by reference from [vault] options.",
        )
    if parts.scheme == "sftp":
        try:
            read_address(url)
        except StoreError as error:
            raise wrong(f"cannot be the address of a folder on an SFTP server: {error.message}", error.hint) from None
        return
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise wrong(
                "is not the address of a folder", "Write file:// and the absolute path: file:///var/backups/leads."
            )
    elif parts.scheme not in {"s3", "gs", "az"}:
        raise wrong("is not the address of a store", f"Write {forms}.")
    elif not parts.netloc:
        raise wrong("names no bucket", f"Write {parts.scheme}://bucket or {parts.scheme}://bucket/prefix.")
