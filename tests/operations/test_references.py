"""Files that a database refers to: looked for in every proof, and after a restore of everything."""

import os

import pytest

from keepwell.core.errors import PolicyError
from keepwell.core.streams import Context
from keepwell.proof.references import look, plain
from support import workplace

REFERENCES = 'references = { sql = "select path from documents", source = "uploads" }'


def make(folder, documents, app=REFERENCES):
    place = workplace.make(folder, app=app)
    place.sql("CREATE TABLE documents (path TEXT)")
    for path in documents:
        place.sql(f"INSERT INTO documents VALUES ('{path}')")
    place.backup()
    return place


def outcomes(result):
    return [(check.passed, check.problem) for check in result.sources["app"].checks]


@pytest.mark.slow
def test_a_file_that_is_referred_to_and_not_there_fails_the_proof_by_name(tmp_path):
    place = make(tmp_path / "w", ["2026/contract.pdf", "/logo.svg"])
    result = place.verify()
    assert (result.proven, outcomes(result)) == (True, [(True, "")])
    assert place.restore(to=str(tmp_path / "all")).clean
    (place.uploads / "logo.svg").unlink()
    for number in range(11):
        place.sql(f"INSERT INTO documents VALUES ('lost/{number:02}.pdf')")
    place.sql("INSERT INTO documents VALUES (NULL), ('')")
    place.clock.advance(seconds=2)
    place.backup()
    result = place.verify()
    problem = (
        "12 of 13 files are not in uploads: logo.svg, lost/00.pdf, lost/01.pdf, lost/02.pdf, lost/03.pdf, lost/04.pdf, "
        "lost/05.pdf, lost/06.pdf, lost/07.pdf, lost/08.pdf and 2 more"
    )
    assert (result.passed, outcomes(result)) == (False, [(False, problem)])
    title = "check 'uploads has what `select path from documents` lists'"
    assert [(f.what, f.problem) for f in result.sources["app"].findings] == [(title, problem)]
    assert place.listed()[-1].proven is False
    restored = place.restore(to=str(tmp_path / "again"))
    assert (tmp_path / "again" / "app" / "dev.db").exists()  # what can be had is not held back
    assert (restored.clean, restored.json()["references"][0]["problem"]) == (False, problem)
    assert place.restore(source="app", to=str(tmp_path / "one.db")).references == ()


@pytest.mark.slow
def test_a_proof_does_not_pass_where_the_files_are_not_in_the_backup(tmp_path):
    place = make(tmp_path / "w", ["logo.svg"])
    place.clock.advance(seconds=2)
    place.backup(sources=["app"])
    ((passed, problem),) = outcomes(place.verify())
    assert not passed
    assert problem.startswith("source uploads is not in production/")
    place.write_policy(app=REFERENCES.replace("path", "paths"))
    ((passed, problem),) = outcomes(place.verify())
    assert not passed
    place.clock.advance(seconds=2)
    place.backup()
    ((passed, problem),) = outcomes(place.verify())
    assert (passed, "no such column: paths" in problem) == (False, True)


def test_paths_are_compared_as_the_file_system_would_and_through_links(tmp_path):
    assert [plain(v) for v in ("/a//b/./c", "./a", "/", "", b"\xff", "a/../b", 7)] == [
        b"a/b/c",
        b"a",
        b"",
        b"",
        b"\xff",
        b"b",
        b"7",
    ]
    found = [(b"2026/a.pdf", None), (b"now", b"2026"), (b"best.pdf", b"now/a.pdf"), (b"out", b"/etc"), (b"x", b"x")]
    wanted = ["now/a.pdf", "best.pdf", "2026", "out/passwd", "x", "x/y", "../up", "2026/a.pdf", None]
    missing = look(wanted, found, Context(work=tmp_path))
    assert (missing.asked, missing.count) == (8, 5)
    assert missing.first == ("../up", "2026", "out/passwd", "x", "x/y")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("app", "told"),
    [
        (
            'references = { sql = "select 1", source = "upload" }',
            'is no source of this environment\n    Did you mean "uploads"',
        ),
        ('references = [{ sql = "select 1", source = "app" }]', "is of type sqlite, not of files"),
        ('references = { source = "uploads" }', "sql: is missing"),
        ('references = "uploads"', "references: must be a list in square brackets"),
    ],
)
def test_a_reference_that_cannot_be_meant_is_refused_where_it_stands(tmp_path, app, told):
    place = workplace.Workplace(tmp_path)
    place.write_policy(app=app)
    with pytest.raises(PolicyError) as refused:
        _ = place.loaded
    assert told in str(refused.value)
    line = (tmp_path / "keepwell.toml").read_text().splitlines().index(app) + 1
    assert f"keepwell.toml:{line}: environments.production.sources.app.references" in str(refused.value)
