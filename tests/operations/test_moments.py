"""The plan of a recovery: which backup, how much log, and what is said where a moment cannot be reached."""

import datetime as dt
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwell.core.errors import BackupNotFound, Damaged, UsageError
from keepwell.core.wal import Fork, parse_lsn, show_lsn
from keepwell.operations.logpath import Base, descendants, path
from keepwell.operations.moments import plan, recoverable, show_time
from keepwell.sources.base import Recovery
from support.made_log import MINUTE, NOW, SEGMENT, History, Made

SECOND = dt.timedelta(seconds=1)


@pytest.fixture
def life():
    return History().commit(3).backup().commit(5).backup().commit(5)


class TestATime:
    def test_the_newest_backup_that_ended_before_it_is_used(self, life):
        for base, commits in zip(life.bases, [life.commits[3:8], life.commits[8:12]], strict=True):
            for lsn, _, time in commits[:-1]:
                found = life.plan(time=time + SECOND)
                assert found.base == base
                assert found.moment.lsn == lsn
                assert found.recovery == Recovery(time=time + SECOND, timeline="1")

    def test_it_says_when_that_is_not_the_newest_backup(self, life):
        found = life.plan(time=life.commits[4][2] + SECOND)
        assert "production/1 is used" in found.remarks[0]
        assert not life.plan(time=life.commits[10][2]).remarks

    def test_the_log_goes_to_the_transaction_after_it_which_the_server_must_see_to_stop(self, life):
        found = life.plan(time=life.commits[4][2] + SECOND)
        assert found.log == ((1, life.bases[0].start, life.commits[5][1]),)
        assert found.bytes == life.commits[5][1] - life.bases[0].start

    def test_before_the_oldest_backup_the_earliest_is_named(self, life):
        with pytest.raises(UsageError, match="before the end of the oldest backup") as refused:
            life.plan(time=life.commits[0][2])
        (option,) = [word for word in refused.value.hint.split("'") if word.startswith("2026")]
        assert life.plan(time=dt.datetime.fromisoformat(option)).base == life.bases[0]

    def test_after_the_last_transaction_it_is_refused_and_the_nearest_works(self, life):
        with pytest.raises(UsageError, match="does not go on to") as refused:
            life.plan(time=life.time + SECOND)
        option = refused.value.hint.split("'")[1]
        found = life.plan(time=dt.datetime.fromisoformat(option))
        assert found.moment.lsn == life.commits[-1][0]

    def test_the_last_transaction_itself_becomes_a_position_since_no_later_one_would_stop_the_server(self, life):
        found = life.plan(time=life.time)
        assert found.recovery == Recovery(lsn=life.commits[-1][0], timeline="1")

    def test_a_checkpoint_after_it_shows_that_nothing_was_committed_in_between(self, life):
        time = life.time + 10 * MINUTE
        life.checkpoint(time + MINUTE)
        assert life.plan(time=time).recovery == Recovery(lsn=life.commits[-1][0], timeline="1")

    def test_where_nothing_at_all_happened_since_the_backup_its_end_is_the_moment(self):
        life = History().commit().backup()
        time = life.time + 10 * MINUTE
        life.checkpoint(time + MINUTE)
        assert life.plan(time=time).recovery == Recovery(immediate=True, timeline="1")

    def test_a_time_without_zone_is_refused(self, life):
        with pytest.raises(UsageError, match="time zone"):
            life.plan(time=NOW.replace(tzinfo=None))

    def test_in_the_gap_the_last_moment_before_it_is_named(self, life):
        life.lose(life.commits[5][1], life.bases[1].start)
        with pytest.raises(UsageError, match="is missing in the vault") as refused:
            life.plan(time=life.commits[6][2] + SECOND)
        assert show_lsn(life.commits[5][1]) in refused.value.message
        found = life.plan(time=dt.datetime.fromisoformat(refused.value.hint.split("'")[1]))
        assert found.moment.lsn == life.commits[5][0]

    def test_behind_the_gap_the_next_backup_is_as_good_as_ever(self, life):
        life.lose(life.commits[5][1], life.bases[1].start)
        assert life.plan(time=life.commits[9][2]).base == life.bases[1]

    def test_a_backup_that_was_named_is_used_or_refused_but_never_exchanged(self, life):
        time = life.commits[10][2]
        assert life.plan(time=time).base == life.bases[1]
        assert life.plan(time=time, exact="production/1").base == life.bases[0]
        with pytest.raises(UsageError, match="before the end"):
            life.plan(time=life.commits[4][2], exact="production/2")

    def test_long_logs_are_searched_by_halving(self):
        life = History().commit().backup()
        for _ in range(200):
            life.commit().idle()
        for index in (3, 77, 150, 199):
            life.reads.clear()
            lsn, _, time = life.commits[index]
            assert life.plan(time=time + SECOND).moment.lsn == lsn
            assert len(life.reads) < 30

    def test_stretches_without_any_transaction_do_not_lead_astray(self):
        life = History().commit().backup()
        for _ in range(6):
            life.commit(2).bulk(3).checkpoint(life.time - 30 * MINUTE).idle(2)
        life.commit()
        for lsn, _, time in life.commits[1:-1]:
            assert life.plan(time=time + SECOND).moment.lsn == lsn

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.sampled_from(["commit", "idle", "bulk", "checkpoint", "backup", "promote"]), max_size=25), st.data()
    )
    def test_in_any_life_every_moment_is_found_or_refused_rightly(self, events, data):
        life = History().commit().backup()
        for event in events:
            getattr(life, event)()
        time = data.draw(st.datetimes(NOW.replace(tzinfo=None), life.time.replace(tzinfo=None)))
        time = time.replace(tzinfo=dt.UTC)
        usable = [base for base in life.bases if base.ready <= time]
        if not usable:
            with pytest.raises(UsageError, match="before the end"):
                life.plan(time=time)
            return
        before = [lsn for lsn, _, at in life.commits if at <= time and lsn >= usable[-1].stop]
        found = life.plan(time=time)
        assert found.base == usable[-1]
        assert (found.moment.lsn if found.moment else None) == (before[-1] if before else None)
        assert int(found.recovery.timeline) == life.timeline


class TestAPosition:
    def test_the_newest_backup_before_it_is_used(self, life):
        lsn = life.commits[5][0]
        found = life.plan(lsn=lsn)
        assert (found.base, found.recovery) == (life.bases[0], Recovery(lsn=lsn, timeline="1"))
        assert life.plan(lsn=life.commits[9][0]).base == life.bases[1]

    def test_before_the_oldest_backup_it_is_refused_and_the_earliest_works(self, life):
        with pytest.raises(UsageError, match="before the end") as refused:
            life.plan(lsn=life.bases[0].stop - 8)
        option = refused.value.hint.split("--lsn ")[1].rstrip(".")
        assert life.plan(lsn=parse_lsn(option)).recovery == Recovery(immediate=True, timeline="1")

    @pytest.mark.parametrize("far", [0, 8, 1 << 30])
    def test_behind_the_last_record_it_is_refused_and_the_nearest_works(self, life, far):
        with pytest.raises(UsageError, match="does not go on to") as refused:
            life.plan(lsn=life.log.at + far)
        option = refused.value.hint.split("--lsn ")[1].rstrip(".")
        assert parse_lsn(option) == life.commits[-1][0]
        life.plan(lsn=parse_lsn(option))

    def test_in_the_gap_it_is_refused(self, life):
        life.lose(life.commits[5][1], life.bases[1].start)
        with pytest.raises(UsageError, match="is missing in the vault"):
            life.plan(lsn=life.commits[6][0])


class TestAName:
    def test_it_is_looked_for_after_every_backup(self):
        life = History().commit().backup().commit().point("one").commit().backup().commit().point("two").commit()
        assert life.plan(name="two").base == life.bases[1]
        found = life.plan(name="one")
        assert (found.base, found.recovery) == (life.bases[0], Recovery(name="one", timeline="1"))
        assert "production/1 is used" in found.remarks[0]

    def test_of_two_of_one_name_the_server_takes_the_first_after_the_backup_and_this_is_said(self):
        life = History().commit().backup().commit().point("twice").commit().point("twice").commit()
        found = life.plan(name="twice")
        assert found.log[-1][2] == life.commits[2][0]
        assert "there are others of that name" in found.remarks[0]

    def test_the_nearest_name_is_suggested(self):
        life = History().commit().backup().point("before the move").commit()
        with pytest.raises(UsageError) as refused:
            life.plan(name="before the mvoe")
        assert 'Did you mean "before the move"?' in refused.value.hint

    def test_where_there_are_none_it_says_how_to_make_one(self, life):
        with pytest.raises(UsageError, match="none at all") as refused:
            life.plan(name="x")
        assert "pg_create_restore_point" in refused.value.hint


class TestTheEnd:
    def test_without_a_target_everything_is_replayed(self, life):
        found = life.plan()
        assert (found.base, found.recovery, found.moment.time) == (life.bases[1], Recovery(timeline="1"), life.time)
        assert found.log == ((1, life.bases[1].start, life.log.at),)

    def test_a_gap_behind_the_newest_backup_is_refused_by_name(self, life):
        life.lose(life.commits[9][1], life.commits[11][0])
        with pytest.raises(
            Damaged, match=f"{show_lsn(life.commits[9][1])} to {show_lsn(life.commits[11][0])}"
        ) as refused:
            life.plan()
        found = life.plan(time=dt.datetime.fromisoformat(refused.value.hint.split("'")[1]))
        assert found.moment.lsn == life.commits[9][0]
        assert life.plan(immediate=True)

    def test_immediate_needs_no_log(self, life):
        life.lose(0, life.log.at)
        assert life.plan(immediate=True).log == ((1, life.bases[1].start, life.bases[1].stop),)

    def test_without_any_log_only_the_backup_itself_can_be_reached_and_this_is_said(self, life):
        found = plan(life.bases, lambda system: None, Recovery())
        assert found.recovery == Recovery(immediate=True, timeline="1")
        assert "no log after this backup" in found.remarks[0]
        for wanted in ({"time": life.time}, {"lsn": life.log.at}):
            with pytest.raises(UsageError, match="no log of the cluster"):
                plan(life.bases, lambda system: None, Recovery(**wanted))

    def test_log_may_begin_with_the_segment_after_the_backup(self, life):
        stop = life.bases[1].stop
        life.lose(0, stop - stop % SEGMENT + SEGMENT)
        assert life.plan().moment.time == life.time

    def test_but_not_where_the_backup_was_taken_from_a_standby(self, life):
        stop = life.bases[1].stop
        life.bases[1] = Base(**{**vars(life.bases[1]), "standby": True})
        life.lose(0, stop - stop % SEGMENT + SEGMENT)
        with pytest.raises(Damaged, match="is missing"):
            life.plan()

    def test_two_targets_at_once_are_refused(self, life):
        with pytest.raises(UsageError, match="one place"):
            life.plan(lsn=life.log.at, immediate=True)

    def test_unknown_backups_are_refused(self, life):
        with pytest.raises(BackupNotFound):
            life.plan(exact="production/9")

    def test_log_that_is_no_log_is_damage_and_says_where(self, life):
        at = life.commits[9][0] - life.log.start
        life.log.data[at : at + 4] = struct.pack("<I", 5)
        with pytest.raises(Damaged, match=show_lsn(life.commits[9][0])):
            life.plan()


class TestTimelines:
    @pytest.fixture
    def lives(self):
        return History().commit().backup().commit(3).promote().commit(3).backup().commit(2).promote().commit(2)

    def test_the_newest_is_followed_over_every_fork(self, lives):
        found = lives.plan(exact="production/1")
        assert [timeline for timeline, _, _ in found.log] == [1, 2, 3]
        assert found.log[0][2] == found.log[1][1] == lives.histories[2][0].end
        assert (found.recovery.timeline, found.moment.time) == ("3", lives.time)

    def test_current_stays_on_the_timeline_of_the_backup(self, lives):
        lives.made[1].commit(lives.time + MINUTE)
        found = lives.plan(exact="production/1", timeline="current")
        assert [timeline for timeline, _, _ in found.log] == [1]
        assert found.recovery.timeline == "1"

    def test_a_number_is_followed_where_it_leads_on_from_a_backup(self, lives):
        found = lives.plan(timeline="1")
        assert found.base == lives.bases[0]
        assert lives.plan(timeline="2").base == lives.bases[1]
        with pytest.raises(UsageError, match="timeline 9 does not lead on"):
            lives.plan(timeline="9")

    def test_a_time_is_found_on_the_way(self, lives):
        for lsn, _, time in lives.commits[1:-1]:
            found = lives.plan(time=time + SECOND)
            assert found.moment.lsn == lsn if found.base.stop <= lsn else found.moment is None

    def test_a_timeline_that_left_before_the_backup_is_none_of_it(self):
        life = History().commit().backup().commit()
        fork = life.log.at
        life.commit(3).backup()
        life.histories[2] = [Fork(1, fork)]
        life.made[2] = Made(start=fork - fork % SEGMENT)
        assert descendants(life, life.bases[0]) == [1, 2]
        assert descendants(life, life.bases[1]) == [1]
        assert path(life, life.bases[1], 1).timeline == 1

    def test_log_whose_history_is_lost_is_not_passed_over(self, lives):
        del lives.histories[3]
        with pytest.raises(Damaged, match=r"timeline 3 and not its history \(00000003"):
            lives.plan()
        assert lives.plan(timeline="2").recovery.timeline == "2"


class TestWindows:
    def test_without_gaps_there_is_one_from_the_first_backup_to_the_last_transaction(self, life):
        (window,) = recoverable(life.bases, life)
        assert (window.begin, window.end) == (life.bases[0].ready, life.time)
        assert window.backups == ("production/1", "production/2")
        assert window.gap is None

    def test_a_gap_makes_two(self, life):
        life.lose(life.commits[5][1], life.commits[7][0])
        first, second = recoverable(life.bases, life)
        assert (first.begin, first.end) == (life.bases[0].ready, life.commits[5][2])
        assert first.gap == (1, life.commits[5][1], life.commits[7][0])
        assert (second.begin, second.end) == (life.bases[1].ready, life.time)

    def test_both_ends_can_be_recovered_to(self, life):
        life.lose(life.commits[5][1], life.commits[7][0])
        for window in recoverable(life.bases, life):
            assert life.plan(time=window.begin)
            assert life.plan(time=window.end)

    def test_without_log_a_backup_is_a_single_moment(self, life):
        windows = recoverable(life.bases, None)
        assert [(w.begin, w.end) for w in windows] == [(base.time, base.time) for base in life.bases]


def test_a_base_is_read_from_the_facts_of_a_backup():
    wal = {"system": "76", "timeline": 1, "start": "0/2000028", "stop": "0/2000120", "segment_size": 1 << 24}
    base = Base.of("production/1", wal | {"time": "2026-11-22T14:30:00Z"})
    assert (base.start, base.stop, base.time) == (0x2000028, 0x2000120, NOW.replace(microsecond=0))
    assert base.ready == base.time + SECOND
    assert base.standby, "unless it is said, the segment's rest is not taken to be in the backup"
    with pytest.raises(Damaged, match="what log"):
        Base.of("production/1", {})


def test_times_are_shown_as_the_option_takes_them():
    assert dt.datetime.fromisoformat(show_time(NOW)) == NOW
