"""A whole life of a vault at each of the services: founded, written, proven, pruned, checked, restored."""

import pytest

from keepwell.operations.prune import PruneRequest, prune
from support import workplace
from support.gcs import gcs_server
from support.servers import azurite_server, moto_server

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("started", [moto_server, azurite_server, gcs_server])
def test_a_vault_lives_there(tmp_path, monkeypatch, started):
    with started() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        place = workplace.Workplace(tmp_path / "work")
        place.folder.mkdir()
        place.fill()
        place.write_policy(environment="keep = { daily = '7d', weekly = '7d', monthly = '7d', manual = '7d' }")
        policy = place.folder / "keepwell.toml"
        at_once = f'{server.url}/leads"\ngrace = "0s'
        policy.write_text(policy.read_text().replace(f"file://{place.folder}/vault", at_once))
        place.clock.advance(days=-50)  # a prune asks the store for the time, too
        place.init()
        place.backup()
        first = place.listed()[0]
        place.clock.advance(days=40)
        place.backup()
        assert place.verify().proven
        place.clock.advance(days=1)
        place.backup()
        pruned = prune(place.loaded, PruneRequest(), place.context())
        assert pruned.json()["deleted"]["backups"] == [str(first.id)]
        assert place.objects(first.folder) == []
        assert place.verify().proven
        assert place.check() == []
        place.restore(to=str(tmp_path / "back"))
        (database,) = (tmp_path / "back").rglob("*.db")
        assert place.sql("SELECT count(*) FROM leads", database) == [(400,)]
