import datetime as dt
import json
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from keepwell.policy.lines import locate

TEXT = '''\
# version = 0
version = 1  # [not.a.table]
"quoted key" = 'a # b'
dotted.one = """
three = 3
\\""" [x]
"""
dotted."t.w.o" = \'\'\'
[y]\'\'\'

[vault]
key = { file = "a,}b", deep = { x = [1, { y = 2 }] } }
  list = [ # comment, with ] and "
    "one",
    [ 2, 3 ], # comment
    {
a = 1 },
  ]
[environments.production.sources.app]
checks = [{ name = "a" }, { name = "b" }]
when = 1979-05-27 07:32:00
[[product]]
name = "x"
[[product]]
  [product.size]
  w = 1
  [[product.part]]
  n = 1
  [[product.part]]
  n = 2
'''


def test_every_key_is_found_on_its_line():
    # An inline table over several lines is for TOML 1.1; this one is joined before it is read.
    lines = locate(TEXT.replace("{\na", "{ a"))
    expected = {
        ("version",): 2,
        ("quoted key",): 3,
        ("dotted",): 4,
        ("dotted", "one"): 4,
        ("dotted", "t.w.o"): 8,
        ("vault",): 11,
        ("vault", "key", "file"): 12,
        ("vault", "key", "deep", "x", 1, "y"): 12,
        ("vault", "list"): 13,
        ("vault", "list", 0): 14,
        ("vault", "list", 1, 1): 15,
        ("vault", "list", 2, "a"): 16,
        ("environments",): 18,
        ("environments", "production", "sources"): 18,
        ("environments", "production", "sources", "app", "checks", 1, "name"): 19,
        ("environments", "production", "sources", "app", "when"): 20,
        ("product", 0): 21,
        ("product", 0, "name"): 22,
        ("product", 1): 23,
        ("product", 1, "size", "w"): 25,
        ("product", 1, "part", 0, "n"): 27,
        ("product", 1, "part", 1, "n"): 29,
    }
    assert {path: lines.get(path) for path in expected} == expected


def test_inline_tables_over_several_lines_are_understood():
    assert locate("a = {\n  b = 1,\n  # comment\n  c = 2,\n}\nd = 1\n") == {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 4,
        ("d",): 6,
    }


def paths(value, above=()):
    """Every path of parsed TOML."""
    yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*above, key))


def test_the_paths_are_those_that_the_parser_finds():
    text = TEXT.replace("{\na", "{ a")
    assert set(paths(tomllib.loads(text))) == set(locate(text))


def test_an_empty_text_has_only_the_top():
    assert locate("") == locate("# only\n# comments") == {(): 1}


# Documents of any shape, written in any of TOML's ways: every value is the number of the line it stands on.

keys = st.one_of(st.text("abcdef_-1", min_size=1, max_size=4), st.text("a\"\\.# \n=[]{}ü'", max_size=5))
blank = st.sampled_from(["", " ", "\t "])
noise = st.sampled_from(["", "# x = 1", "  # [a]", "   "])
strings = st.sampled_from(
    ['"# no"', "'] no'", '"""a\nb = 1\n"""', "'''[t]\n'''", '"\\""', '""""quoted""""', "''", "1.5", "true"]
)


class Writer:
    def __init__(self, draw):
        self.draw = draw
        self.text = ""

    @property
    def line(self):
        return self.text.count("\n") + 1

    def newline(self):
        self.text += self.draw(noise) + "\n"

    def key(self, key):
        plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
        self.text += key if plain and self.draw(st.booleans()) else json.dumps(key, ensure_ascii=False)

    def value(self, depth):
        kind = self.draw(
            st.sampled_from(["line", "line", "other", "list", "table"] if depth < 3 else ["line", "other"])
        )
        if kind == "line":
            self.text += str(self.line)
        elif kind == "other":
            self.text += self.draw(strings)
        elif kind == "list":
            self.text += "["
            for _ in range(self.draw(st.integers(0, 3))):
                if self.draw(st.booleans()):
                    self.newline()
                self.value(depth + 1)
                self.text += self.draw(blank) + ","
            self.text += self.draw(blank) + "]"
        else:
            self.text += "{" + self.draw(blank)
            inner = self.draw(st.lists(keys, max_size=3, unique=True))
            for number, key in enumerate(inner):
                self.text += ", " if number else ""
                self.pair(key, depth + 1)
            self.text += self.draw(blank) + "}"

    def pair(self, key, depth=0):
        self.key(key)
        if self.draw(st.booleans()):
            self.text += self.draw(blank) + "." + self.draw(blank)
            self.key(self.draw(keys))
        self.text += self.draw(blank) + "=" + self.draw(blank)
        self.value(depth)


@st.composite
def documents(draw):
    writer = Writer(draw)
    for table in [None, *draw(st.lists(keys, max_size=3, unique=True))]:
        if table is not None:
            many = draw(st.booleans())
            for _ in range(draw(st.integers(1, 2)) if many else 1):
                writer.text += (
                    draw(blank) + ("[[" if many else "[") + draw(blank) + json.dumps("t" + table, ensure_ascii=False)
                )
                writer.text += draw(blank) + ("]]" if many else "]")
                writer.newline()
                body(draw, writer)
        else:
            body(draw, writer)
    return writer.text


def body(draw, writer):
    for key in draw(st.lists(keys, max_size=3, unique=True)):
        writer.text += draw(blank)
        writer.pair(key)
        writer.newline()


@given(documents())
def test_any_document_is_located_as_it_is_parsed(text):
    data = tomllib.loads(text)
    lines = locate(text)
    assert set(lines) == set(paths(data))
    for path, line in lines.items():
        value = data
        for key in path:
            value = value[key]
        if isinstance(value, int) and not isinstance(value, (bool, dt.date)):
            assert line == value
