from collections.abc import Callable
from pathlib import Path

import pytest
from policy_texts import HEAD, SOURCE

from keepwell.core.errors import PolicyError
from keepwell.policy.load import LoadedPolicy, load


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes keepwell.toml and gives its path."""

    def _write(text: str) -> Path:
        path = tmp_path / "keepwell.toml"
        path.write_bytes(text.encode("utf-8"))
        return path

    return _write


@pytest.fixture
def loaded(write) -> Callable[[str], LoadedPolicy]:
    """Loads a policy from its text."""
    return lambda text: load(write(text))


@pytest.fixture
def refused(write) -> Callable[[str], PolicyError]:
    """The error that the text is refused with."""

    def _refused(text: str) -> PolicyError:
        with pytest.raises(PolicyError) as caught:
            load(write(text))
        return caught.value

    return _refused


@pytest.fixture
def production(loaded):
    """The environment `production`, given its own keys and the rest of its source."""
    return lambda keys="", source="": loaded(
        f"{HEAD}[environments.production]\n{keys}\n{SOURCE}{source}"
    ).policy.environments["production"]


@pytest.fixture
def refused_production(refused):
    """The error, given keys of the environment and further keys of its source. Line 7 is the first of `keys`."""
    return lambda keys="", source="": refused(f"{HEAD}[environments.production]\n{keys}\n{SOURCE}{source}")
