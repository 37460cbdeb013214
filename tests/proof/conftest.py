import pytest

from support import workplace


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def place(tmp_path):
    """Two sources, SQLite and files, with a vault and no backup yet."""
    return workplace.make(tmp_path / "work")
