"""A portable copy in a bucket: one object of the file's own bytes."""

import hashlib

import pytest

from keepwell.vault import attachments
from support import workplace
from support.servers import moto_server

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("part", [4 << 30, 1 << 20], ids=["whole", "in parts"])
def test_a_portable_copy_goes_into_a_bucket_as_it_is(tmp_path, monkeypatch, part):
    monkeypatch.setattr(attachments, "PART_SIZE", part)
    with moto_server() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        place = workplace.Workplace(tmp_path / "work")
        place.folder.mkdir()
        place.fill()
        blob = "CREATE TABLE blobs AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 3000) "
        place.sql(blob + "SELECT randomblob(1000) AS b FROM n")
        place.write_policy(app='portable = ["manual"]')
        text = (place.folder / "keepwell.toml").read_text()
        (place.folder / "keepwell.toml").write_text(text.replace(f"file://{place.folder}/vault", f"{server.url}/leads"))
        place.init()
        result = place.backup()
        assert result.portable == ("database.db.gz",)

        vault = place.vault()
        (backup,) = vault.backups()
        copies = [name for name in backup.extras if not name.endswith(".sha256")]
        assert len(copies) == (1 if part > 1 << 30 else 3)
        content = b"".join(vault.store.get(name) for name in copies)
        line = vault.store.get(f"{backup.folder}database.db.gz.sha256").decode()
        assert line == f"{hashlib.sha256(content).hexdigest()}  database.db.gz\n"
        assert place.verify().proven
