"""Looks at a real vault: what is noticed, once; what people answer; signs of life; what is true of several watchers."""

import contextlib
import datetime as dt
import threading

import pytest
from sinks import http_sink

from keepwell.core.errors import StoreError, UsageError
from keepwell.watch import answers
from keepwell.watch.book import Book, BookError
from keepwell.watch.look import Watcher
from keepwell.watch.runs import ending_of_verify, watched

pytestmark = pytest.mark.slow
DAILY = 'schedule = "0 2 * * *"\nkeep = { daily = "10y", weekly = "10y", monthly = "10y" }'


def told(look):
    return [f"{event.kind} {event.alert.key}" for event in look.events]


@pytest.fixture
def place(workplace):
    made = workplace(environment=DAILY)
    made.run()
    return made


def test_nothing_is_told_of_a_vault_that_is_well(place):
    look = place.look()
    assert look.open == []
    assert told(look) == []
    assert look.seen.vault_known


def test_a_missing_backup_is_told_once_and_a_backup_ends_it(place):
    assert told(place.look(after={"hours": 50})) == ["opened backup-missing:production"]
    assert told(place.look(after={"minutes": 1})) == []
    place.run()
    assert told(place.look()) == ["over backup-missing:production"]


def test_a_store_that_is_down_for_three_days_is_one_alert_and_one_all_clear(place):
    vault, away = place.folder / "vault", place.folder / "unmounted"
    vault.rename(away)
    heard = []
    for hour in range(72):
        heard += told(place.look(after={"hours": 1}))
        if hour % 24 == 3:
            with pytest.raises(StoreError):
                place.run()
    away.rename(vault)
    heard += told(place.look(after={"minutes": 1}))
    place.run()
    for _ in range(3):
        heard += told(place.look(after={"hours": 1}))
    news = [line for line in heard if not line.startswith("reminder")]
    assert news == ["opened store-unreachable:store", "over store-unreachable:store"]
    assert len(heard) - len(news) == 2


def test_what_is_still_safe_is_known_also_while_the_store_is_down(place):
    proven = place.verify()
    place.look()
    (place.folder / "vault").rename(place.folder / "unmounted")
    look = place.look(after={"minutes": 1})
    from keepwell.watch.letters import safe

    assert proven.backup in safe(look.seen, None)
    assert "as last known" in safe(look.seen, None)


def test_a_source_that_is_gone_is_one_alert_however_long_it_lasts(place):
    place.database.rename(place.folder / "gone")
    heard = []
    for _ in range(4):
        place.clock.advance(days=1)
        place.run()
        heard += told(place.look(after={"hours": 2}))
    (place.folder / "gone").rename(place.database)
    place.run()
    heard += told(place.look(after={"minutes": 1}))
    with place.book.look() as pages:
        news = [f"{e['kind']} {e['alert']}" for e in pages.events() if e["kind"] in {"opened", "over", "worse"}]
    assert news == [] or set(news) == {"opened backup-incomplete:production", "over backup-incomplete:production"}
    assert [line for line in heard if not line.startswith("reminder")] == [
        "opened backup-incomplete:production",
        "over backup-incomplete:production",
    ]


def test_a_watch_that_stood_still_for_a_week_is_one_alert_and_one_all_clear(place):
    heard = told(place.look(steady=True))
    heard += told(place.look(after={"days": 7}, steady=True))
    place.run()
    for _ in range(5):
        heard += told(place.look(after={"minutes": 30}, steady=True))
    assert heard == ["opened watch-away:watch", "over watch-away:watch"]


def test_a_clock_that_jumps_is_one_alert_and_nothing_is_late_because_of_it(place):
    place.look()
    place.clock.advance(days=3)
    place.store_clock_apart = dt.timedelta(days=-3)
    heard = told(place.look()) + told(place.look(after={"minutes": 5}))
    place.clock.advance(days=-3)
    place.store_clock_apart = dt.timedelta(0)
    heard += told(place.look()) + told(place.look(after={"minutes": 5}))
    assert heard == ["opened clock-off:clock", "over clock-off:clock"]


def test_an_altered_backup_is_told_of(place):
    (metadata,) = (place.folder / "vault").glob("production/*/*/*/metadata.json")
    metadata.chmod(0o600)
    metadata.write_bytes(metadata.read_bytes().replace(b"complete", b"compleat"))
    look = Watcher(place.loaded).look(place.context())
    assert any(line.startswith("opened backup-damaged:production/") for line in told(look))


def test_a_failed_run_is_told_at_once_also_without_channels(place):
    place.database.rename(place.folder / "gone")
    place.uploads.rename(place.folder / "also-gone")
    with pytest.raises(Exception, match=r"dev\.db"):
        place.run()
    assert place.open().keys() == {"run-failed:production/backup"}


def test_a_failure_that_is_tried_again_is_told_to_nobody(place):
    place.database.rename(place.folder / "gone")
    place.uploads.rename(place.folder / "also-gone")
    with pytest.raises(Exception, match=r"dev\.db"):
        place.run(will_retry=True)
    assert place.open() == {}
    assert told(place.look()) == []


def test_a_run_that_was_asked_for_wrongly_or_stopped_by_hand_never_was(place):
    for error in (UsageError("no such thing"), KeyboardInterrupt()):
        with contextlib.suppress(UsageError, KeyboardInterrupt):
            with watched(place.loaded, place.context(), "verify", "production"):
                raise error
    assert place.open() == {}
    with place.book.look() as pages:
        assert [verb for _, verb, *_ in pages.runs()] == ["backup"]


def test_a_run_whose_process_died_is_told_of(place):
    with place.book.turn() as pages:
        import platform

        gone = {"outcome": "running", "host": platform.node(), "pid": 2**22 + 1, "born": 0.0}
        pages.begin_run("prune", None, place.clock.now(), gone)
    assert told(place.look()) == ["opened run-failed:prune"]


def test_a_run_on_another_machine_is_believed_to_live(place):
    with place.book.turn() as pages:
        pages.begin_run("prune", None, place.clock.now(), {"outcome": "running", "host": "elsewhere", "pid": 1})
    assert told(place.look()) == []


def test_a_proof_that_fails_is_one_alert(place, monkeypatch):
    context = place.context()
    with watched(place.loaded, context, "verify", "production") as run:
        result = place.verify(after_restore=spoil)
        run.ended(ending_of_verify(result))
    assert not result.passed
    place.look()
    assert place.open().keys() == {"proof-failed:production"}
    with watched(place.loaded, context, "verify", "production") as run:
        run.ended(ending_of_verify(place.verify()))
    place.look()
    assert place.open() == {}


def spoil(name, at):
    if name == "uploads":
        (at.path / "logo.svg").write_text("other")


def test_several_that_notice_at_the_same_moment_tell_once(place):
    place.clock.advance(hours=50)
    heard, start = [], threading.Barrier(4)

    def look():
        watcher = Watcher(place.loaded)
        start.wait()
        heard.extend(told(watcher.look(place.context())))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == ["opened backup-missing:production"]


def test_only_to_look_changes_nothing(place):
    place.clock.advance(hours=50)
    look = place.look(tell=False)
    assert [alert.key for alert in look.open] == ["backup-missing:production"]
    assert place.open() == {}


def test_acknowledged_and_silenced_alerts_do_not_press(place):
    place.look(after={"hours": 50})
    (alert,) = answers.acknowledged(place.loaded, place.context(), "production", "on it")
    assert alert.acknowledged.endswith(": on it")
    assert place.look(tell=False).pressing == []
    answers.silence(place.loaded, place.context(), "backup-missing:*", dt.timedelta(hours=1))
    assert [s.pattern for s in answers.silences(place.loaded, place.context())] == ["backup-missing:*"]
    answers.end_silence(place.loaded, place.context(), "backup-missing:*")
    assert answers.silences(place.loaded, place.context()) == []


def test_what_is_not_open_cannot_be_acknowledged(place):
    with pytest.raises(UsageError, match="no open alert fits") as error:
        answers.acknowledged(place.loaded, place.context(), "nonsense")
    assert error.value.hint == "None is open."
    with pytest.raises(UsageError):
        answers.end_silence(place.loaded, place.context(), "nonsense")


def test_an_audit_log_whose_end_was_cut_off_is_told_of_by_who_only_watches(place):
    place.run()
    place.look(after={"hours": 2})
    last = max((place.folder / "vault" / "logs" / "audit").glob("*/*"))
    last.unlink()
    place.look(after={"hours": 2})
    assert f"entry {int(last.name)} is missing at its end" in place.open()["audit-broken:vault"].text


def test_drills_reviews_and_keys_are_overdue_after_their_time_and_recorded_ones_are_not(place):
    place.run()
    place.look(after={"days": 400})
    slot = place.vault().keyring.slot
    quarterly = {"drill-overdue:production", "review-overdue:strategy", f"key-untested:{slot}"}
    assert quarterly <= place.open().keys()
    for deed, subject in (("drill", "production"), ("review", None), ("key", slot)):
        answers.record(place.loaded, place.context(), deed, subject)
    place.look()
    assert not quarterly & place.open().keys()


@pytest.mark.parametrize(("deed", "subject"), [("dance", None), ("drill", None), ("drill", "nowhere"), ("key", None)])
def test_only_deeds_that_there_are_can_be_recorded(place, deed, subject):
    with pytest.raises(UsageError):
        answers.record(place.loaded, place.context(), deed, subject)


def test_the_memory_is_private_and_not_committed(place):
    assert place.book.path == place.folder / ".keepwell" / "watch.db"
    assert place.book.path.stat().st_mode & 0o077 == 0
    assert (place.folder / ".keepwell" / ".gitignore").read_text() == "*\n"


def test_a_memory_that_cannot_be_used_never_costs_a_backup(place):
    place.book.path.write_bytes(b"this is no database" * 100)
    result = place.run()
    assert result.status == "complete"
    assert any("watch's memory" in text for text in place.progress.warnings)
    with pytest.raises(BookError, match=r"watch\.db"):
        place.look()


def test_an_empty_book_can_be_read(tmp_path):
    with Book(tmp_path / "none.db").look() as pages:
        assert pages.alerts() == {}
    assert not (tmp_path / "none.db").exists()


@pytest.fixture
def heartbeats(monkeypatch):
    with http_sink() as sink:
        monkeypatch.setenv("BEAT_WATCH", sink.url + "/ping/watch-secret")
        monkeypatch.setenv("BEAT_BACKUP", sink.url + "/ping/backup-secret?create=1")
        yield sink


BEATS = '[watch]\nheartbeat = { env = "BEAT_WATCH" }\n[environments.production.watch]\nheartbeat = { env = "BEAT_BACKUP" }\n'


def test_a_backup_gives_signs_of_life_at_its_start_and_end(workplace, heartbeats):
    place = workplace(environment=DAILY, more=BEATS)
    result = place.run()
    start, done = heartbeats.taken
    run = start.path.partition("rid=")[2]
    assert start.path == f"/ping/backup-secret/start?create=1&rid={run}"
    assert done.path == f"/ping/backup-secret?create=1&rid={run}"
    assert result.backup.encode() in done.body
    place.database.rename(place.folder / "gone")
    place.run()
    assert heartbeats.taken[-1].path.startswith("/ping/backup-secret/fail?")
    assert b"dev.db" in heartbeats.taken[-1].body


def test_the_watchs_own_sign_is_gated_by_health(workplace, heartbeats):
    place = workplace(environment=DAILY, more=BEATS)
    place.run()
    place.look()
    assert heartbeats.taken[-1].path == "/ping/watch-secret"
    place.look(after={"hours": 50})
    assert heartbeats.taken[-1].path == "/ping/watch-secret/fail"
    assert b"no complete backup" in heartbeats.taken[-1].body
    answers.acknowledged(place.loaded, place.context(), "backup-missing")
    place.look()
    assert heartbeats.taken[-1].path == "/ping/watch-secret"


def test_a_sign_that_is_not_taken_is_an_alert_and_never_fails_a_run(workplace, heartbeats):
    place = workplace(environment=DAILY, more=BEATS)
    heartbeats.always = 503
    assert place.run().status == "complete"
    assert any("it answered 503" in text for text in place.progress.warnings)
    assert "secret" not in "".join(place.progress.warnings)
    look = place.look()
    assert look.problems == ("heartbeat of watch: it answered 503",)
    place.look()
    place.look()
    assert {"channel-failed:heartbeat of production", "channel-failed:heartbeat of watch"} <= place.open().keys()
    heartbeats.always = 200
    place.look()
    place.look()
    assert "channel-failed:heartbeat of watch" not in place.open()
