import contextlib

import pytest
from service_tools import Queue, Serving

from support import workplace


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def place(tmp_path):
    return workplace.make(tmp_path / "work")


@pytest.fixture
def serve(place):
    with contextlib.ExitStack() as stack:

        def start(**options):
            serving = Serving(place.folder, **options)
            stack.callback(serving.close)
            return serving

        yield start


@pytest.fixture
def queue(place):
    found = Queue(place)
    yield found
    found.runs.close()


@pytest.fixture
def arm(place):
    return (place.folder / "fault").write_text
