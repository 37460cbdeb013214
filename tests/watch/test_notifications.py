"""What arrives at real servers, in the formats that the services publish."""

import email
import email.policy
import json

import pytest
from sinks import http_sink

from keepwell.core.secrets import Secret
from keepwell.watch.letters import Letter
from keepwell.watch.notify import NotifyError, deliver, send

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("impatient")]
ROUTING, TOKEN = "r0utingkeyr0utingkeyr0utingkeyr0", "TabcdEFGHijkl"  # made up
SLACK = f"slack://T1JJ3T3L2/A1BRTD4JD/{TOKEN}abcdefghijk"


@pytest.fixture
def slack(sink, monkeypatch):
    from apprise.plugins.slack import NotifySlack

    monkeypatch.setattr(NotifySlack, "webhook_url", sink.url + "/services")
    monkeypatch.setattr(NotifySlack, "request_rate_per_sec", 0)
    monkeypatch.setenv("SLACK", SLACK)
    return sink


@pytest.fixture
def pagerduty(monkeypatch):
    from apprise.plugins import pagerduty

    with http_sink() as sink:
        monkeypatch.setattr(pagerduty, "PAGERDUTY_API_LOOKUP", {"us": sink.url + "/v2/enqueue"})
        monkeypatch.setenv("PAGERDUTY", f"pagerduty://{ROUTING}@events-api/db1")
        yield sink


@pytest.fixture
def mail(smtp, monkeypatch):
    port, mails = smtp
    url = f"mailto://127.0.0.1:{port}?from=keepwell@example.org&to=devops@example.org&mode=insecure"
    monkeypatch.setenv("MAIL", url)
    return mails


CHANNELS = """
[notify.slack]
url = { env = "SLACK" }
on = ["success", "warning", "failure"]
[notify.mail]
url = { env = "MAIL" }
on = ["success", "warning", "failure"]
[notify.pagerduty]
url = { env = "PAGERDUTY" }
on = ["failure"]
[contacts]
hotline = "+1-555-0100"
"""


def break_the_source(place):
    place.database.rename(place.folder / "gone.db")


def mend_the_source(place):
    (place.folder / "gone.db").rename(place.database)


def slack_payload(taken):
    """An incoming webhook's message: text, or attachments with text and a colour."""
    payload = taken.json()
    assert taken.headers["Content-Type"].startswith("application/json")
    assert set(payload) <= {"username", "mrkdwn", "attachments", "text", "blocks", "icon_url", "icon_emoji", "channel"}
    assert payload.get("text") or payload["attachments"]
    return payload


def pagerduty_event(taken):
    """An event of the Events API v2."""
    event = taken.json()
    assert taken.path == "/v2/enqueue"
    assert event["routing_key"] == ROUTING
    assert len(event["routing_key"]) == 32
    assert event["event_action"] in {"trigger", "acknowledge", "resolve"}
    assert 0 < len(event["dedup_key"]) <= 255
    if event["event_action"] == "trigger":
        payload = event["payload"]
        assert 0 < len(payload["summary"]) <= 1024
        assert payload["source"]
        assert payload["severity"] in {"critical", "error", "warning", "info"}
        assert isinstance(payload["custom_details"], dict)
    return event


def test_success_is_quiet_and_failure_goes_to_the_pager_at_once(workplace, slack, pagerduty, mail):
    place = workplace(environment='schedule = "0 2 * * *"', more=CHANNELS)
    place.run()
    place.verify()
    assert pagerduty.taken == []
    assert len(slack.taken) == len(mail) == 1
    assert "backup of production is done" in json.dumps(slack_payload(slack.taken[0]))
    break_the_source(place)
    place.run()
    event = pagerduty_event(pagerduty.taken[0])
    assert event["event_action"] == "trigger"
    assert event["payload"]["severity"] == "critical"
    assert "app failed" in event["payload"]["summary"]
    assert "Lead Management System" in event["payload"]["summary"]
    details = event["payload"]["custom_details"]
    assert details["alert"] == "backup-incomplete:production"
    assert "keepwell doctor" in details["do now"]
    assert "production as of" in details["still safe"]
    assert len(slack.taken) == len(mail) == 2
    mend_the_source(place)
    place.run()
    assert pagerduty_event(pagerduty.taken[1])["event_action"] == "resolve"
    assert pagerduty.taken[1].json()["dedup_key"] == event["dedup_key"]
    assert len(pagerduty.taken) == 2


def test_a_mail_says_what_since_when_what_is_still_safe_and_what_to_do(workplace, slack, pagerduty, mail):
    place = workplace(environment='schedule = "0 2 * * *"', more=CHANNELS)
    proven = place.backup()
    place.verify()
    break_the_source(place)
    place.run()
    message = email.message_from_bytes(mail[-1].content, policy=email.policy.default)
    assert mail[-1].to == ["devops@example.org"]
    assert "Lead Management System: app failed in production/" in message["Subject"]
    body = message.get_body(("plain", "html")).get_content()
    for line in ("What:", "Since:", "Still safe:", "Do now:", "keepwell alerts ack backup-incomplete:production"):
        assert line in body
    assert proven.backup in body
    assert "+1-555-0100" in body


def test_slack_gets_the_same_with_the_colour_of_a_failure(workplace, slack, pagerduty, mail):
    place = workplace(environment='schedule = "0 2 * * *"', more=CHANNELS)
    break_the_source(place)
    place.uploads.rename(place.folder / "also-gone")
    with pytest.raises(Exception, match=r"dev\.db"):
        place.run()
    payload = slack_payload(slack.taken[-1])
    assert "backup of production failed" in json.dumps(payload)
    assert "NO backup" in json.dumps(payload)
    assert payload["attachments"][0]["color"].lower() not in {"", "#3aa3e3"}


def test_a_channel_that_fails_is_tried_again_and_is_an_alert_on_the_others(workplace, slack, pagerduty, mail):
    place = workplace(environment='schedule = "0 2 * * *"', more=CHANNELS)
    slack.always = 404
    place.run()
    assert len(slack.taken) == 1
    place.look(after={"minutes": 2})
    assert len(slack.taken) == 2
    place.look(after={"minutes": 1})
    assert "channel-failed:slack" in place.open()
    event = pagerduty_event(pagerduty.taken[0])
    assert "messages through slack do not get through" in event["payload"]["summary"]
    assert TOKEN not in json.dumps(event)
    slack.always = 200
    place.look(after={"minutes": 10})
    assert "backup of production is done" in json.dumps(slack.taken[-1].json())
    place.look(after={"minutes": 1})
    assert "channel-failed:slack" not in place.open()
    assert pagerduty.taken[-1].json()["event_action"] == "resolve"


def test_a_message_that_nobody_takes_is_given_up_after_a_day(workplace, slack, pagerduty, mail):
    place = workplace(more=CHANNELS)
    slack.always = 500
    place.run()
    for _ in range(40):
        place.clock.advance(hours=1)
        deliver(place.book, place.loaded, place.clock)
    with place.book.look() as pages:
        assert pages.waiting() == {}
        assert [e["channel"] for e in pages.events() if e["kind"] == "given up"] == ["slack"]
    assert 24 <= len(slack.taken) <= 40


def test_a_reference_that_gives_nothing_is_a_failing_channel_and_names_the_variable(
    workplace, slack, pagerduty, mail, monkeypatch
):
    place = workplace(more=CHANNELS)
    monkeypatch.delenv("SLACK")
    place.run()
    with place.book.look() as pages:
        assert "SLACK" in pages.note("channel:slack")["error"]
    assert len(mail) == 1


def test_a_message_that_was_being_sent_when_its_process_died_is_sent_again(workplace, slack, pagerduty, mail):
    place = workplace(more=CHANNELS)
    slack.always = 500
    place.run()
    slack.always = 200
    with place.book.turn() as pages:
        import datetime as dt

        claimed = pages.claim(place.clock.now() + dt.timedelta(hours=1), dt.timedelta(hours=2))
        assert claimed[1] == "slack"
    before = len(slack.taken)
    place.look(after={"minutes": 30})
    assert len(slack.taken) == before
    place.look(after={"hours": 3})
    assert len(slack.taken) > before


LETTER = Letter("failure", "title", "body", "keepwell/a/b", "production", "run-failed", {"a": "b"})


def test_an_url_that_apprise_does_not_know_is_refused_without_showing_it():
    with pytest.raises(NotifyError) as error:
        send("pager", Secret("nonsense://hunter2secret"), LETTER)
    assert "not one that Apprise knows" in error.value.message
    assert "hunter2" not in str(error.value) + error.value.hint


def test_a_refusal_never_shows_the_token(slack):
    slack.always = 403
    with pytest.raises(NotifyError) as error:
        send("slack", Secret(SLACK), LETTER)
    assert TOKEN not in str(error.value) + error.value.hint
    assert "403" in error.value.message


def test_any_service_that_apprise_speaks_will_do(sink):
    send("own", Secret(sink.url.replace("http://", "json://")), LETTER)
    payload = sink.taken[0].json()
    assert payload["title"] == "title"
    assert payload["type"] == "failure"


def test_contacts_are_told_one_after_the_other(workplace, slack, pagerduty, mail):
    place = workplace(
        environment='schedule = "0 2 * * *"',
        more=CHANNELS
        + """
primary = { name = "DevOps Lead", notify = ["slack"] }
secondary = { name = "Backend Lead", notify = ["mail"] }
escalation = { name = "CTO", notify = ["pagerduty"] }
""",
    )
    place.run()
    quiet = len(slack.taken), len(mail)
    break_the_source(place)
    place.run()
    assert (len(slack.taken), len(mail), len(pagerduty.taken)) == (quiet[0] + 1, quiet[1], 0)
    place.look(after={"minutes": 31})
    assert (len(mail), len(pagerduty.taken)) == (quiet[1] + 1, 0)
    text = email.message_from_bytes(mail[-1].content, policy=email.policy.default)["Subject"]
    assert "Backend Lead (secondary)" in text
    place.look(after={"minutes": 90})
    assert "CTO (escalation)" in pagerduty_event(pagerduty.taken[0])["payload"]["summary"]
    mend_the_source(place)
    place.run()
    assert pagerduty.taken[-1].json()["event_action"] == "resolve"
    assert "over after" in email.message_from_bytes(mail[-1].content, policy=email.policy.default)["Subject"]


def test_a_channel_of_one_environment_hears_nothing_of_others(workplace, slack, pagerduty, mail):
    more = CHANNELS.replace('on = ["failure"]', 'on = ["failure"]\nenvironments = ["staging"]')
    place = workplace(
        more=more + '\n[environments.staging.sources.app]\ntype = "sqlite"\npath = "dev.db"\n',
    )
    break_the_source(place)
    place.run()
    assert len(slack.taken) == 1
    assert pagerduty.taken == []
