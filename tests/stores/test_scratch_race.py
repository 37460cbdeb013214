"""The local store's scratch folders, claimed while another process clears away what the dead left."""

from __future__ import annotations

import fcntl
import os

from keepwell.stores import scratch
from keepwell.stores.local import LocalStore


def test_a_claim_that_another_process_takes_for_a_dead_ones_is_not_used(tmp_path, monkeypatch):
    """Between the making of the lock file and the lock on it, another process may lock it and then clear it."""
    real, cleared = fcntl.flock, []

    def flock(lock: int, how: int) -> None:
        if not cleared:
            path = os.readlink(f"/proc/self/fd/{lock}")
            other = os.open(path, os.O_RDWR)
            real(other, how)
            cleared.append((other, path))
        real(lock, how)

    monkeypatch.setattr(scratch.fcntl, "flock", flock)
    store = LocalStore(tmp_path / "store", create=True)
    make = os.mkdir

    def mkdir(path, *args, **kwargs) -> None:
        make(path, *args, **kwargs)
        for _, lock in cleared:  # the other process goes on: folder, then lock file
            folder = lock.removesuffix(".lock")
            if os.path.isdir(folder):
                os.rmdir(folder)

    monkeypatch.setattr(scratch.os, "mkdir", mkdir)
    store.put("a", b"whole")
    assert store.get("a") == b"whole"
    store.close()
    os.close(cleared[0][0])
