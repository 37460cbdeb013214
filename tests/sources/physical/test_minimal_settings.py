"""The configuration of a cluster whose own stayed behind on its server."""

from keepwell.sources.physical import recovery


def of(megabytes):
    return recovery.minimal({"settings": {"max_connections": "40"}, "wal": {"segment_size": megabytes << 20}})


def test_large_segments_get_the_room_without_which_no_server_starts():
    assert "min_wal_size = '128MB'" in of(64)
    assert "max_wal_size = '4096MB'" in of(1024)
    assert "wal_size" not in of(16)
    assert "max_connections = '40'" in of(16)
