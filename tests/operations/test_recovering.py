"""Plans over the metadata of backups and the archive of a vault."""

import dataclasses
import datetime as dt

import pytest

from keepwell.core.errors import BackupNotFound, UsageError
from keepwell.core.wal import show_lsn
from keepwell.operations.recovering import bases_of, plan_for, windows_of
from keepwell.sources.base import Recovery
from keepwell.vault.catalog import Backup
from keepwell.vault.layout import BackupId
from support.made_log import NOW, History


class Archive:
    """`vault.wal.WalArchive` over a life that was made up."""

    def __init__(self, life):
        self.life = life

    def coverage(self):
        return self.life


def backup_of(base, *, status="complete", proven=False, source="app", environment="production"):
    ident = BackupId(environment, f"{base.time:%Y%m%dT%H%M%SZ}", "0000")
    wal = {
        "system": base.system,
        "timeline": base.timeline,
        "start": show_lsn(base.start),
        "stop": show_lsn(base.stop),
        "segment_size": base.segment_size,
        "standby": base.standby,
        "time": base.time.isoformat(),
    }
    document = {"sources": {source: {"status": status, "wal": wal}, "files": {"status": "complete"}}}
    return Backup(ident, "daily", base.time, "complete", 1, document, proven=proven)


@pytest.fixture
def life():
    return History().commit(3).backup().commit(5).backup().commit(5).promote().commit(2)


def test_bases_are_the_complete_physical_backups_of_the_source(life):
    one, two = life.bases
    backups = [
        backup_of(one),
        backup_of(two, status="failed"),
        backup_of(two, source="other"),
        backup_of(two, environment="staging"),
    ]
    (found,) = bases_of(backups, "production", "app")
    assert found == dataclasses.replace(one, backup=str(backups[0].id))


def test_latest_means_the_newest_from_which_the_moment_can_be_reached(life):
    backups = [backup_of(base) for base in life.bases]
    for text in ("production", "production@latest"):
        wanted = Recovery(time=life.commits[4][2] + dt.timedelta(seconds=1))
        found = plan_for(backups, text, "app", wanted, lambda system: Archive(life))
        assert found.backup == str(backups[0].id)
        assert found.moment.lsn == life.commits[4][0]


def test_an_id_means_that_backup_and_no_other(life):
    backups = [backup_of(base) for base in life.bases]
    archives = lambda system: Archive(life)  # noqa: E731 - as its users write it
    found = plan_for(backups, str(backups[0].id), "app", Recovery(), archives)
    assert (found.backup, found.moment.time) == (str(backups[0].id), life.time)
    with pytest.raises(UsageError, match="before the end"):
        plan_for(backups, str(backups[1].id), "app", Recovery(time=life.commits[4][2]), archives)


def test_proven_means_proven_backups_only(life):
    backups = [backup_of(life.bases[0], proven=True), backup_of(life.bases[1])]
    found = plan_for(backups, "production@proven", "app", Recovery(), lambda system: Archive(life))
    assert found.backup == str(backups[0].id)


def test_a_backup_without_the_source_is_refused(life):
    backups = [backup_of(life.bases[0]), backup_of(life.bases[1], source="other")]
    with pytest.raises(BackupNotFound, match="no physical backup of app") as refused:
        plan_for(backups, str(backups[1].id), "app", Recovery(), lambda system: Archive(life))
    assert str(backups[0].id) in refused.value.hint
    with pytest.raises(UsageError, match="no physical backup of third"):
        plan_for(backups, "production", "third", Recovery(), lambda system: Archive(life))


def test_windows_are_those_of_one_cluster(life):
    other = dataclasses.replace(life.bases[1], system="78", time=NOW)
    backups = [*(backup_of(base) for base in life.bases), backup_of(other)]
    (window,) = windows_of(backups, "production", "app", "77", Archive(life))
    assert (window.begin, window.end) == (life.bases[0].ready, life.time)
    assert len(window.backups) == 2
