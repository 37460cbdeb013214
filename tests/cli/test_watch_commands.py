"""keepwell watch, alerts, and status for foreign monitors, as a person or a monitor calls them."""

import json
import sqlite3
from contextlib import closing

import pytest
from test_documents import documented, same_keys

pytestmark = pytest.mark.slow


@pytest.fixture
def broken(ready):
    """One good backup, then a source is gone, and the backup after that failed."""
    assert ready("backup").code == 0
    (ready.project.folder / "dev.db").rename(ready.project.folder / "gone.db")
    assert ready("backup").code == 3
    return ready


def test_watch_once_says_what_is_not_well_in_the_documented_form(broken):
    ran = broken("watch", "--once", "--json")
    assert ran.code == 0, ran.err
    document = ran.json()
    same_keys(document, documented("watch"))
    assert [alert["alert"] for alert in document["alerts"]] == ["backup-incomplete:production"]
    assert document["told"] == [{"kind": "opened", "alert": "backup-incomplete:production"}]
    assert broken("watch", "--once", "--json").json()["told"] == []


def test_alerts_are_listed_acknowledged_and_over(broken):
    broken("watch", "--once")
    (entry,) = broken("alerts", "list", "--json").json()
    same_keys([entry], documented("alerts list, alerts ack"))
    assert entry["severity"] == "failure"
    assert "keepwell doctor" in broken("alerts", "list").out
    ran = broken("alerts", "ack", "production", "--note", "mending it", "--json")
    assert ran.json()[0]["acknowledged"].endswith(": mending it")
    (broken.project.folder / "gone.db").rename(broken.project.folder / "dev.db")
    assert broken("backup").code == 0
    broken("watch", "--once")
    assert broken("alerts", "list", "--json").json() == []
    (over,) = broken("alerts", "list", "--all", "--json").json()
    assert over["stage"] == "over"


def test_an_alert_that_is_not_open_cannot_be_acknowledged(ready):
    ran = ready("alerts", "ack", "nonsense", "--json")
    assert ran.code == 2
    assert "no open alert" in ran.json()["error"]["message"]


def test_status_shows_open_alerts(broken):
    broken("watch", "--once")
    assert "1 open alert" in broken("status").out
    (entry,) = broken("status", "--json").json()
    assert [alert["alert"] for alert in entry["alerts"]] == ["backup-incomplete:production"]


def test_status_exits_0_unless_it_is_asked(broken):
    assert broken("status").code == 0
    assert broken("status", "--exit-code").code == 1


def test_the_exit_code_is_0_when_all_is_well_and_when_somebody_is_on_it(broken):
    broken("watch", "--once")
    broken("alerts", "ack", "backup-incomplete")
    assert broken("status", "--exit-code").code == 0


def test_nagios_reads_one_line_with_its_own_exit_codes(broken):
    ran = broken("status", "--nagios")
    assert ran.code == 2
    line, end = ran.out.split("\n")
    assert end == ""
    assert line.startswith("KEEPWELL CRITICAL - app failed in production/")
    text, _, numbers = line.partition(" | ")
    assert "|" not in text
    assert numbers.startswith("'production_age'=")
    assert ran.err == "" or "Warning" not in ran.err


def test_nagios_hears_of_a_wrong_policy_as_unknown(ready):
    ready.project.policy.write_text("version = 2")
    ran = ready("status", "--nagios")
    assert ran.code == 3
    assert ran.out.startswith("KEEPWELL UNKNOWN - ")


def test_nagios_is_well_with_a_good_backup(ready):
    ready("backup")
    ran = ready("status", "--nagios")
    assert (ran.code, ran.out.split(" | ")[0]) == (0, "KEEPWELL OK - all is well")


def test_silences_are_listed_and_ended(broken):
    made = broken("alerts", "silence", "production", "--for", "2h", "--json").json()
    assert made["silence"] == "production"
    assert "silenced until" in broken("alerts", "list").out
    assert broken("status", "--exit-code").code == 0
    assert broken("alerts", "silence", "production", "--end").code == 0
    assert "silenced" not in broken("alerts", "list").out
    assert broken("alerts", "silence", "production").code == 2
    assert broken("alerts", "silence", "production", "--for", "long").code == 2


def test_deeds_are_recorded(ready):
    made = ready("alerts", "record", "drill", "production", "--json").json()
    assert (made["deed"], made["subject"]) == ("drill", "production")
    assert ready("alerts", "record", "drill", "nowhere").code == 2


def test_a_test_without_channels_says_how_to_add_one(ready):
    ran = ready("alerts", "test", "--json")
    assert ran.code == 2
    assert "[notify.slack]" in ran.json()["error"]["hint"]


def test_a_channel_that_does_not_take_the_test_is_exit_1(ready, monkeypatch):
    text = ready.project.policy.read_text()
    ready.project.policy.write_text(text + '\n[notify.own]\nurl = { env = "OWN" }\n')
    ran = ready("alerts", "test", "--json")
    assert ran.code == 1
    (entry,) = ran.json()
    assert entry["sent"] is False
    assert "OWN" in entry["error"]


def test_a_run_by_hand_is_watched(ready):
    assert ready("backup").code == 0
    assert ready("verify", "production").code == 0
    assert ready("check").code == 0
    with closing(sqlite3.connect(ready.project.folder / ".keepwell" / "watch.db")) as book:
        found = [(verb, json.loads(text)["outcome"]) for verb, text in book.execute("select verb, document from runs")]
    assert found == [("backup", "done"), ("verify", "done"), ("check", "done")]


def test_listening_makes_no_sense_for_one_look(ready):
    assert ready("watch", "--once", "--listen", ":0").code == 2


def test_one_alert_is_asked_for_as_well_as_many(broken):
    assert broken("alert", "list", "--json").json() == broken("alerts", "list", "--json").json()
