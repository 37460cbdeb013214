"""Who runs a managed database: so that the backups that they take themselves can be looked at."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from keepwell.policy.secret import SecretRef
from keepwell.policy.values import Span, Table, wrong

_FORMS = 'Write provider = { neon = { project = "…", token = { env = "NEON_API_KEY" } } } or provider = { supabase = { ref = "…", token = { env = "SUPABASE_ACCESS_TOKEN" } } }.'


def _endpoint(url: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        secret = "@" in parts.netloc or bool(parts.query or parts.fragment)
        local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    except ValueError:
        raise wrong("is not an address", 'Write for example "https://console.neon.tech/api/v2".') from None
    if secret:
        raise wrong("has more in it than an address", "Take the user, password or query out.")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise wrong("is not encrypted, and the token would be sent there", "Write https://….")
    return url.rstrip("/")


_Endpoint = Annotated[str, AfterValidator(_endpoint)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]


class _Account(Table):
    token: SecretRef = Field(description="Where the API token is to be found. It needs to read only.")
    retention: Span = Field(
        default="7d", validate_default=True, description="How far back the provider's own backups should reach."
    )


class NeonAccount(_Account):
    """A project at Neon."""

    project: _Name = Field(description="The project's id.", examples=["aged-wildflower-123456"])
    branch: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="The branch's name or id. Default: the project's default branch."
    )
    endpoint: _Endpoint = Field(default="https://console.neon.tech/api/v2", description="Where its API is.")


class SupabaseAccount(_Account):
    """A project at Supabase."""

    ref: _Name = Field(description="The project's reference.", examples=["abcdefghijklmnopqrst"])
    endpoint: _Endpoint = Field(default="https://api.supabase.com/v1", description="Where its API is.")


class Provider(Table):
    """Exactly one of those that are known."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["neon"]}, {"required": ["supabase"]}]})

    neon: NeonAccount | None = Field(default=None, description="Neon.")
    supabase: SupabaseAccount | None = Field(default=None, description="Supabase.")

    @model_validator(mode="after")
    def _one(self) -> Provider:
        if (self.neon is None) == (self.supabase is None):
            raise wrong("names both providers" if self.neon else "names no provider", _FORMS)
        return self

    @property
    def account(self) -> NeonAccount | SupabaseAccount:
        found = self.neon or self.supabase
        assert found is not None  # the policy has exactly one of the two
        return found
