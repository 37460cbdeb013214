"""What is wanted of which frames: all of it, and nothing is let go while somebody will want it."""

from unittest import mock

import numpy as np
import vaultkit  # noqa: F401  # its profile of Hypothesis
from hypothesis import given
from hypothesis import strategies as st

from keepwell.vault import scattered
from keepwell.vault.manifest import Extents
from keepwell.vault.scattered import Wanted


def extents_of(rows):
    """Each row: pack, frame, first piece, pieces. Frames of 300 KiB stored, pieces of 8 KiB."""
    pack, frame, first, pieces = (np.array(column, "<u4") for column in zip(*rows, strict=True))
    length = np.full(len(rows), 300 << 10, "<u4")
    check = (first * 100 + pieces).astype("<u8")
    return Extents(
        pack, frame, (frame * (301 << 10)).astype("<u4"), length, first, pieces, pieces << np.uint32(13), check
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 40), st.integers(1, 24)),
        min_size=1,
        max_size=80,
    ),
    st.sampled_from([8 << 10, 64 << 10, 1 << 20]),
)
def test_frames_and_reads_are_let_go_when_the_last_of_them_was_handed_out(rows, window):
    with mock.patch.object(scattered, "_WINDOW", window):
        wanted = Wanted(extents_of(rows))
    keys = [(pack, frame * (301 << 10)) for pack, frame, _, _ in rows]
    assert [n for part in wanted.windows for n in range(part.start, part.stop)] == list(range(len(rows)))
    read, gone = set(), set()
    for part in wanted.windows:
        read.update(wanted.runs_of(part))
        for n in range(part.start, part.stop):
            pack, start, end = run = wanted.run_of(n)
            assert pack == rows[n][0]
            assert start <= keys[n][1]
            assert keys[n][1] + (300 << 10) <= end
            assert run in read
            assert set(wanted.of_frame(n)) == {
                (first, count, count << 13, first * 100 + count)
                for key, (_, _, first, count) in zip(keys, rows, strict=True)
                if key == keys[n]
            }
        done = wanted.done_with(part)
        later = range(part.stop, len(rows))
        now = {keys[n] for n in range(part.start, part.stop)}
        assert set(done.frames) == now - {keys[n] for n in later}
        assert not set(done.runs) & {wanted.run_of(n) for n in later}
        gone.update(done.runs)
    assert gone == read
