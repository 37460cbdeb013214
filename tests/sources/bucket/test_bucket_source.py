"""The source `bucket` against a bucket in memory that misbehaves on cue."""

import datetime as dt
import hashlib
import json
import tarfile

import pytest

from keepwell.core.clock import UTC
from keepwell.core.errors import (
    Damaged,
    ObjectExists,
    ObjectMissing,
    SourceError,
    StoreDenied,
    TargetNotEmpty,
    UsageError,
)
from keepwell.core.objects import ObjectChanged, ObjectState, Opened
from keepwell.core.streams import Context, Discard, MemoryStreams
from keepwell.sources import bucket
from keepwell.sources.base import RestoreRequest
from keepwell.sources.bucket import Spec, Target
from keepwell.sources.bucket.entries import OBJECTS

OLD = dt.datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


class Bucket:
    """Objects in memory, by name: (content, attributes, modified, etag)."""

    url = "s3://uploads"
    md5_etags = True

    def __init__(self, **objects):
        self.held = {}
        self.reads = []
        self.listed_only = []
        self.before_open = lambda name: None
        for name, content in objects.items():
            self.write(name, content)

    def write(self, name, content, attributes=None, etag=None, modified=OLD):
        tag = etag or hashlib.md5(content).hexdigest()
        self.held[name] = (content, attributes or {"Content-Type": "text/plain"}, modified, tag)

    def state(self, name):
        content, _, modified, etag = self.held[name]
        return ObjectState(name, len(content), modified, etag)

    def list(self):
        yield from sorted([*map(self.state, self.held), *self.listed_only], key=lambda state: state.name)

    def look(self, name):
        if name not in self.held:
            raise ObjectMissing(name)
        return self.state(name)

    def open(self, state):
        self.before_open(state.name)
        self.reads.append(state.name)
        now = self.look(state.name)
        if now.etag != state.etag:
            raise ObjectChanged(state.name)
        content, attributes, _, _ = self.held[state.name]
        return Opened(now, attributes, iter([content[:3], content[3:]] if content else []))

    def put(self, name, content, size, state, attributes):
        if name in self.held:
            raise ObjectExists(name)
        self.write(name, b"".join(content), dict(attributes))


def taken(objects, sink=None, cache=None, **spec):
    streams = sink or MemoryStreams()
    facts = bucket.capture(Spec(objects, **spec), streams, Context(cache=cache))
    return facts, streams


def names(streams):
    return [json.loads(line)["name"] for line in bytes(streams.data[OBJECTS]).splitlines()]


def test_what_was_read_once_is_not_read_again_until_its_etag_or_time_changes(tmp_path):
    objects = Bucket(a=b"first", b=b"second", empty=b"")
    _, first = taken(objects, cache=tmp_path)
    objects.write("b", b"changed")
    objects.write("a", b"first", {"Content-Type": "text/html"}, modified=OLD + dt.timedelta(hours=1))
    objects.write("c", b"new")
    objects.reads.clear()
    again = MemoryStreams()
    again.pieces = first.pieces
    facts, _ = taken(objects, again, tmp_path)
    assert sorted(objects.reads) == ["a", "b", "c"]
    objects.reads.clear()
    third = MemoryStreams()
    third.pieces = again.pieces
    later, _ = taken(objects, third, tmp_path)
    assert objects.reads == []
    assert (later["reused_files"], later["reused"]) == (4, later["bytes"])
    assert later["digest"] == facts["digest"]
    assert third.data[OBJECTS] == again.data[OBJECTS]


def test_what_the_vault_no_longer_has_is_read_again(tmp_path):
    objects = Bucket(a=b"first")
    taken(objects, cache=tmp_path)
    objects.reads.clear()
    facts, _ = taken(objects, cache=tmp_path)
    assert objects.reads == ["a"]
    assert facts["reused"] == 0


def test_an_object_that_was_just_written_is_read_again_next_time(tmp_path):
    objects = Bucket()
    objects.write("a", b"now", modified=dt.datetime.now(UTC))
    _, first = taken(objects, cache=tmp_path)
    again = MemoryStreams()
    again.pieces = first.pieces
    taken(objects, again, tmp_path)
    assert objects.reads == ["a", "a"]


def test_an_object_that_changes_while_it_is_read_is_read_again_as_it_is_then():
    objects = Bucket(a=b"before")
    changes = [b"meanwhile", b"after"]
    objects.before_open = lambda name: changes and objects.write(name, changes.pop(0))
    facts, streams = taken(objects)
    assert bytes(streams.data["content"]) == b"after"
    assert (facts["bytes"], facts["verified"]) == (5, 1)


def test_an_object_that_never_rests_fails_the_source_and_is_named():
    objects = Bucket(busy=b"0")
    objects.before_open = lambda name: objects.write(name, objects.held[name][0] + b"1")
    with pytest.raises(SourceError, match="busy in s3://uploads could not be read the same"):
        taken(objects)


def test_objects_deleted_during_the_listing_are_told_and_the_others_kept():
    objects = Bucket(gone=b"x", stays=b"y")
    objects.before_open = lambda name: objects.held.pop("gone", None)
    told = []
    context = Context()
    context.progress = type(
        "Told", (), {"begin": print, "advance": print, "end": print, "note": lambda _, t: told.append(t)}
    )()
    streams = MemoryStreams()
    facts = bucket.capture(Spec(objects), streams, context)
    assert names(streams) == ["stays"]
    assert told == ["gone was deleted during the backup and is not in it"]
    assert facts["files"] == 1


def test_content_that_is_not_that_of_its_md5_is_read_twice_and_told():
    objects = Bucket(good=b"as it should be")
    objects.write("odd", b"content", etag="0" * 32)
    facts, _ = taken(objects)
    assert objects.reads.count("odd") == 2
    assert facts["verified"] == 1
    assert "ETag of odd is not the MD5" in facts["warnings"][0]


def test_bytes_that_come_differently_each_time_fail_the_source():
    objects = Bucket(torn=b"0123456789")
    real, count = objects.open, iter(range(100))

    def torn(state):
        opened = real(state)
        return Opened(opened.state, opened.attributes, iter([b"%010d" % next(count)]))

    objects.open = torn
    with pytest.raises(SourceError, match="damaged on the way"):
        taken(objects)


def test_a_bucket_whose_etags_are_no_md5_is_read_once_and_warned_of():
    objects = Bucket()
    for number in range(80):
        objects.write(f"{number:02}", b"%d" % number, etag=f"{number:032x}")
    facts, _ = taken(objects)
    assert len(objects.reads) < 80 + 3 + 24
    assert ["no MD5" in text for text in facts["warnings"]] == [True]


def test_a_marker_of_a_folder_is_kept_as_one_and_a_name_that_cannot_be_asked_for_is_an_error(tmp_path):
    objects = Bucket(a=b"x")
    objects.listed_only = [ObjectState("folder", 0, OLD, '"e"')]
    facts, streams = taken(objects)
    assert (facts["files"], facts["markers"]) == (1, 1)
    bucket.restore(facts, streams, Target(tmp_path / "out"), RestoreRequest(), Context())
    assert (tmp_path / "out/folder").is_dir()
    objects.listed_only = [ObjectState("a", 4, OLD, '"e"'), ObjectState("lead", 5, OLD, '"e"')]
    with pytest.raises(SourceError, match="2 objects in s3://uploads cannot be read: 'lead', 'a'"):
        taken(objects)
    assert taken(objects, exclude=("lead", "a"), allow_empty=True)[0]["excluded"] == 3


def test_nothing_to_back_up_is_an_error_unless_it_is_allowed():
    with pytest.raises(SourceError, match="there is nothing in s3://uploads"):
        taken(Bucket())
    with pytest.raises(SourceError, match="of 1 objects in s3://uploads none was left"):
        taken(Bucket(a=b""), include=("*.jpg",))
    assert taken(Bucket(), allow_empty=True)[0]["files"] == 0


def test_a_bucket_that_refuses_is_the_fault_of_the_source_and_not_of_the_vault():
    objects = Bucket(a=b"")

    def refuse(_state):
        raise StoreDenied("no", hint="Ask.")

    objects.open = refuse
    with pytest.raises(SourceError, match="no") as raised:
        taken(objects)
    assert raised.value.hint == "Ask."


def test_patterns_choose_objects_by_name_and_by_what_is_above_them():
    objects = Bucket(**{n: n.encode() for n in ("img/a.jpg", "img/tmp/b.jpg", "doc/c.pdf", "d.tmp")})
    _, streams = taken(objects, include=("img", "*.pdf"), exclude=("tmp/",))
    assert names(streams) == ["doc/c.pdf", "img/a.jpg"]


AWKWARD = ("a", "a/b", "x/" + "n" * 300, "keepwell-objects.jsonl", "sp ace/ümlaut%20?", "back\\slash")


def test_every_name_comes_back_in_a_folder_with_its_metadata_and_its_time(tmp_path):
    objects = Bucket()
    for number, name in enumerate(AWKWARD):
        objects.write(name, name.encode(), {"Content-Type": "image/png", "who": str(number)})
    facts, streams = taken(objects)
    target = Target(tmp_path / "out")
    report = bucket.restore(facts, streams, target, RestoreRequest(), Context())
    assert (report.files, report.bytes) == (6, facts["bytes"])
    assert report.warnings == [
        "3 objects have names that are no paths here; keepwell-objects.jsonl in the folder says which files they are"
    ]
    lines = [json.loads(line) for line in (target.path / "keepwell-objects.jsonl").read_text().splitlines()]
    assert [(line["name"], line["attributes"]["who"]) for line in lines] == [
        (name, str(AWKWARD.index(name))) for name in sorted(AWKWARD)
    ]
    for line in lines:
        file = target.path / line.get("file", line["name"])
        assert file.read_bytes() == line["name"].encode()
        assert file.stat().st_mtime == OLD.timestamp()
    assert bucket.examine(target, facts, Context()) == []
    now = bucket.capture(bucket.respec(target, facts, None), Discard(), Context())
    assert bucket.compare(facts, now, streams=streams, target=target) == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "img/a").write_bytes(b"X"), "the content is not what was backed up"),
        (lambda folder: (folder / "img/a").unlink(), "the object is missing"),
        (
            lambda folder: (folder / "keepwell-objects.jsonl").write_text(
                (folder / "keepwell-objects.jsonl").read_text().replace("text/plain", "text/html")
            ),
            "the metadata is not what was backed up",
        ),
    ],
)
def test_the_round_trip_names_the_object_that_is_not_what_was_backed_up(tmp_path, damage, problem):
    facts, streams = taken(Bucket(**{"img/a": b"x"}))
    target = Target(tmp_path / "out")
    bucket.restore(facts, streams, target, RestoreRequest(), Context())
    damage(target.path)
    now = bucket.capture(bucket.respec(target, facts, None), Discard(), Context())
    assert [(f.what, f.problem) for f in bucket.compare(facts, now, streams=streams, target=target)] == [
        ("img/a", problem)
    ]


def test_one_object_or_prefix_comes_back_by_its_path_and_a_wrong_one_is_told_with_what_is_near(tmp_path):
    facts, streams = taken(Bucket(**{"img/a": b"1", "img/b": b"2", "doc/c": b"3", "img": b"4"}))
    report = bucket.restore(
        facts, streams, Target(tmp_path / "out"), RestoreRequest(paths=("img/", "doc/c")), Context()
    )
    assert report.files == 4
    report = bucket.restore(facts, streams, Target(tmp_path / "one"), RestoreRequest(paths=("img/b",)), Context())
    assert {p.name for p in (tmp_path / "one").rglob("*") if p.is_file()} == {"b", "keepwell-objects.jsonl"}
    with pytest.raises(UsageError, match="img/x") as raised:
        bucket.restore(facts, streams, Target(tmp_path / "no"), RestoreRequest(paths=("img/x",)), Context())
    assert "img/a" in raised.value.hint


def test_objects_go_back_into_an_empty_bucket_only_with_their_metadata(tmp_path):
    there = Bucket(**{"img/a": b"1", "img/b": b"2" * 2_000_000})
    there.write("c", b"3", {"Content-Type": "x/y", "owner": "me"})
    facts, streams = taken(there)
    back = Bucket()
    bucket.restore(facts, streams, Target(objects=back), RestoreRequest(), Context())
    assert {n: v[:2] for n, v in back.held.items()} == {n: v[:2] for n, v in there.held.items()}
    with pytest.raises(TargetNotEmpty, match="c is in it"):
        bucket.restore(facts, streams, Target(objects=back), RestoreRequest(), Context())


def test_content_that_was_altered_in_the_vault_never_arrives_anywhere(tmp_path):
    facts, streams = taken(Bucket(a=b"right"))
    streams.data["content"][0] ^= 1
    back = Bucket()
    for target in (Target(tmp_path / "out"), Target(objects=back)):
        with pytest.raises(Damaged, match="a came out of the vault with other bytes"):
            bucket.restore(facts, streams, target, RestoreRequest(), Context())
    assert back.held == {}
    assert not (tmp_path / "out/a").exists()


@pytest.mark.parametrize("name", ["../up", "a//b", "/root", "a/./b"])
def test_a_list_that_leads_out_of_the_target_is_refused(tmp_path, name):
    facts, streams = taken(Bucket(a=b"x"))
    streams.data[OBJECTS] = bytearray(bytes(streams.data[OBJECTS]).replace(b'"name":"a"', f'"name":"{name}"'.encode()))
    with pytest.raises(Damaged, match="leads elsewhere"):
        bucket.restore(facts, streams, Target(tmp_path / "out"), RestoreRequest(), Context())


def test_the_export_is_a_tar_of_every_object_the_same_each_time(tmp_path):
    facts, streams = taken(Bucket(**{name: name.encode() for name in AWKWARD}))
    first = bucket.export(facts, streams, tmp_path / "one", Context())
    second = bucket.export(facts, streams, tmp_path / "two", Context())
    assert first.sha256 == second.sha256
    with tarfile.open(first.path) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    lines = [json.loads(line) for line in (tmp_path / "out/keepwell-objects.jsonl").read_text().splitlines()]
    assert {line["name"]: (tmp_path / "out" / line.get("file", line["name"])).read_bytes() for line in lines} == {
        name: name.encode() for name in AWKWARD
    }
