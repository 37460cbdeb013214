"""The reader of pg_dump's text: the same whatever blocks the text comes in."""

import itertools
import re

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from keepwell.sources.postgres.script import Parser, copy_names, find_end

ROWS = b"1\ta\\\\.\n2\tCOPY x FROM stdin;\n\\\\.\n"
TEXT = (
    b"""--
-- PostgreSQL database dump
--

\\restrict keepwell

SET client_encoding = 'UTF8';
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Data for Name: COPY a.b FROM stdin;; Type: TABLE DATA; Schema: public; Owner: it's me
--

COPY public.leads (id, "a ""b", c) FROM stdin;
"""
    + ROWS
    + b"""\\.


COPY "My S"."semi;
colon" (x) FROM stdin;
\\.


COPY public.none  FROM stdin;


\\.


SELECT pg_catalog.setval('public."it''s_seq"', 41, false);
BEGIN;

SELECT pg_catalog.lo_open('16400', 131072);
SELECT pg_catalog.lowrite(0, '\\x434f5059
COPY public.fake (x) FROM stdin;
');
SELECT pg_catalog.lo_close(0);

COMMIT;
ALTER LARGE OBJECT 16400 OWNER TO "COPY x FROM stdin;";
\\unrestrict keepwell

"""
)


def read(text, cuts=()):
    parser = Parser()
    edges = [0, *sorted(cuts), len(text)]
    starts = []
    for start, end in itertools.pairwise(edges):
        starts += [start + at for at in parser.feed(text[start:end])]
    parser.finish()
    rest = parser.rest
    return (
        [(b.schema, b.table, b.columns, b.start, b.rows, b.bytes, b.length, b.digest) for b in parser.blocks],
        (rest.sequences, rest.objects, rest.object_bytes, rest.contents.hexdigest(), rest.others.hexdigest()),
    ), starts


def test_every_table_has_its_rows_its_place_and_its_digest():
    (blocks, rest), starts = read(TEXT)
    assert [block[:3] for block in blocks] == [
        (b"public", b"leads", [b"id", b'a "b', b"c"]),
        (b"My S", b"semi;\ncolon", [b"x"]),
        (b"public", b"none", []),
    ]
    assert [block[4:6] for block in blocks] == [(3, len(ROWS)), (0, 0), (2, 2)]
    assert blocks[0][7] == blake3(ROWS).hexdigest()
    assert blocks[1][7] == blake3(b"").hexdigest()
    for _, _, _, start, _, _, length, _ in blocks:
        assert re.fullmatch(rb"COPY .* FROM stdin;\n(.*\n)?\\\.\n", TEXT[start : start + length], re.DOTALL)
    assert starts == [block[3] for block in blocks]
    assert rest[0] == {'public."it\'s_seq"': [41, False]}
    assert rest[1] == 1


@given(st.lists(st.integers(0, len(TEXT)), max_size=40))
def test_the_text_may_be_cut_anywhere(cuts):
    assert read(TEXT, cuts)[0] == read(TEXT)[0]


def test_the_text_may_come_byte_by_byte():
    assert read(TEXT, range(len(TEXT)))[0] == read(TEXT)[0]


@given(st.binary(max_size=300), st.integers(0, 200_000), st.integers(0, 50))
def test_the_end_of_the_rows_is_found_near_and_far(noise, distance, at):
    data = b"x" * at + b"row\\.\n\\.x\n" * (distance // 10) + noise + b"\n\\.\n" + noise
    assert find_end(data, at, len(data)) == data.find(b"\n\\.\n", at)
    assert find_end(data, at, len(data) - len(noise) - 1) == data.find(b"\n\\.\n", at, len(data) - len(noise) - 1)


def test_rows_over_many_blocks_are_counted_once():
    rows = b"".join(b"%d\t%s\n" % (n, b"y" * (n % 300)) for n in range(20_000))
    text = b"COPY public.t (a, b) FROM stdin;\n" + rows + b"\\.\n\n"
    (blocks, _), _ = read(text, range(0, len(text), 65_537))
    assert blocks[0][4:6] == (20_000, len(rows))
    assert blocks[0][7] == blake3(rows).hexdigest()


@pytest.mark.parametrize("text", [b"COPY public.t (a) FROM stdin;\n1\n", b"SELECT 'half", b"COPY public.t (a"])
def test_a_text_that_stops_half_way_is_an_error(text):
    with pytest.raises(ValueError, match="the text ends"):
        read(text)


def test_large_objects_with_other_bytes_have_another_digest():
    assert read(TEXT)[0][1][3] != read(TEXT.replace(b"\\x434f5059", b"\\x434f505a"))[0][1][3]


def test_a_statement_that_names_no_table_is_an_error():
    with pytest.raises(ValueError, match="not a COPY statement"):
        copy_names(b"COPY (SELECT 1) FROM stdin;\n")
