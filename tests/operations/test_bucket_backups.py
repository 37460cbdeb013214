"""Uploads in a bucket from backup to proof to restore: S3 as moto tells it, Azure as azurite does, GCS as fake-gcs-server."""

import json
import tarfile

import boto3
import pytest
from botocore.config import Config

from keepwell.core.errors import SourceError, TargetNotEmpty, UsageError
from keepwell.operations.ailments import examine_source
from keepwell.operations.export import ExportRequest, export
from keepwell.operations.restore import RestoreRequest, restore
from keepwell.stores.objects import BucketObjects
from support import workplace
from support.gcs import gcs_server
from support.servers import BUCKET, azurite_server, moto_server

pytestmark = pytest.mark.slow
BUCKET_SOURCE = """
[environments.production.sources.images]
type = "bucket"
store = "{url}"
exclude = ["*.tmp"]
options = {options}
"""
ODD = ("up/ü x%20?.txt", "up/a", "up/a/b", "up/back\\slash")


def the_place(tmp_path, server, url, monkeypatch):
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    place = workplace.Workplace(tmp_path / "work")
    place.folder.mkdir()
    place.fill()
    options = f'{{ endpoint = "{server.endpoint}" }}'
    place.write_policy(more=BUCKET_SOURCE.format(url=url, options=options))
    place.init()
    return place


def test_uploads_in_s3_are_backed_up_by_etag_proven_and_restored_with_their_metadata(tmp_path, monkeypatch):
    with moto_server() as server:
        client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}), **server.boto)

        def put(name, body=b"hello", **more):
            client.put_object(Bucket=BUCKET, Key=name, Body=body, **more)

        for name in ODD:
            put(name, name.encode(), ContentType="image/png", Metadata={"owner": "ada"}, CacheControl="max-age=3")
        put("up/", b"")  # the prefix's own marker
        put("up/folder/", b"")
        put("up/large.bin", bytes(range(256)) * 20_000)
        put("up/left.tmp")
        put("elsewhere")
        place = the_place(tmp_path, server, f"{server.url}/up", monkeypatch)
        place.backup()
        place.clock.advance(days=1)
        put("up/a", b"changed", ContentType="text/plain")
        client.delete_object(Bucket=BUCKET, Key="up/a/b")
        second = place.backup()
        assert second.sources["images"].error == ""
        facts = second.sources["images"].facts
        assert (facts["files"], facts["excluded"], facts["markers"]) == (4, 1, 1)
        assert (facts["reused_files"], facts["verified"]) == (0, 4)  # all were written within two seconds of the first
        place.clock.advance(days=1)
        third = place.backup().sources["images"].facts
        assert (third["reused_files"], third["verified"]) == (4, 0)
        assert third["digest"] == facts["digest"]

        proof = place.verify(level="checks")
        assert proof.proven, [source.findings for source in proof.sources.values()]

        back = f"{server.url}/restored/here"
        result = restore(place.loaded, RestoreRequest("production@latest", "images", to=back), place.context()).sources[
            "images"
        ]
        assert result.report.files == 4
        assert result.report.warnings == ["1 empty markers of folders were not made: only consoles show them"]
        head = client.head_object(Bucket=BUCKET, Key="restored/here/ü x%20?.txt")
        assert (head["ContentType"], head["Metadata"], head["CacheControl"]) == (
            "image/png",
            {"owner": "ada"},
            "max-age=3",
        )
        again = BucketObjects(back, {"endpoint": server.endpoint})
        assert {state.name: state.size for state in again.list()} == {
            "a": 7,
            "back\\slash": 13,
            "large.bin": 256 * 20_000,
            "ü x%20?.txt": 15,
        }
        with pytest.raises(TargetNotEmpty, match="is in it"):
            restore(place.loaded, RestoreRequest("production@latest", to=back), place.context())
        with pytest.raises(UsageError, match="app is no bucket"):
            restore(place.loaded, RestoreRequest("production@latest", "app", to=back + "2"), place.context())

        first = str(place.vault().backups()[0].id)
        restore(
            place.loaded, RestoreRequest(first, "images", to=str(tmp_path / "one"), paths=("a/b",)), place.context()
        )
        assert (tmp_path / "one/a/b").read_text() == "up/a/b"
        everything = restore(place.loaded, RestoreRequest(first, to=str(tmp_path / "all")), place.context())
        assert everything.clean
        assert (tmp_path / "all/images/large.bin").stat().st_size == 256 * 20_000
        made = export(
            place.loaded, ExportRequest("production@latest", to=tmp_path / "tar", source="images"), place.context()
        )
        with tarfile.open(made.file) as archive:
            assert json.loads(archive.extractfile("keepwell-objects.jsonl").read().splitlines()[0])["name"] == "a"

        source = place.loaded.policy.environments["production"].sources["images"]
        found = list(examine_source(source, place.folder))
        assert [state for state, _, _ in found] == ["ok", "warn"]
        assert "versioning is off" in found[1][1]
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        assert [state for state, _, _ in examine_source(source, place.folder)] == ["ok", "ok"]
        put("up/dd//e")
        with pytest.raises(SourceError, match="has an object called 'up/dd//e', which cannot be read"):
            place.backup(sources=("images",))
        text = (place.folder / "keepwell.toml").read_text()
        (place.folder / "keepwell.toml").write_text(text.replace("keepwell-test/up", "no-such-bucket/up"))
        result = place.backup()
        assert "has no bucket 'no-such-bucket'" in result.sources["images"].error
        assert result.sources["app"].status == "complete"
        server.stop()
        with pytest.raises(SourceError, match="cannot be reached"):
            place.backup(sources=("images",))


@pytest.mark.parametrize("started", [azurite_server, gcs_server])
def test_uploads_elsewhere_come_back_with_their_metadata(started, tmp_path, monkeypatch):
    with started() as server:
        there = BucketObjects(server.url + "/up", server.options)
        state = None
        for number in range(30):
            name = f"{number:02}/ü {number}"
            there.put(name, iter([b"%d" % number * 1000]), 2000, state, {"Content-Type": "a/b", "owner": "ada"})
        place = the_place(tmp_path, server, server.url + "/up", monkeypatch)
        place.backup()
        assert place.verify().proven
        place.clock.advance(days=1)
        later = place.backup().sources["images"].facts
        assert (later["files"], later["reused_files"]) == (30, 0)
        place.clock.advance(days=1)
        assert place.backup().sources["images"].facts["reused_files"] == 30
        back = server.url + "/back"
        restore(place.loaded, RestoreRequest("production@latest", "images", to=back), place.context())
        objects = BucketObjects(back, server.options)
        opened = objects.open(objects.look("07/ü 7"))
        assert (b"".join(opened.blocks), opened.attributes["owner"]) == (b"7" * 1000, "ada")
        source = place.loaded.policy.environments["production"].sources["images"]
        assert "not verified" in list(examine_source(source, place.folder))[1][1]
