"""Schedules for systemd, cron and Kubernetes: these programs themselves read what is written."""

import datetime as dt
import os
import re
import shutil
import subprocess
import time

import kubernetes_validate
import pytest
import yaml

from keepwell.cli import main
from keepwell.core.errors import TargetNotEmpty, UsageError
from keepwell.engine import export_cron, export_kubernetes, export_systemd
from keepwell.engine.agenda import agenda, by_hand
from keepwell.engine.calendar import Plan, begins, plans
from keepwell.engine.export import Place, put, skipped
from keepwell.policy.schedule import next_due, zone
from support import workplace

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
PRODUCTION = 'schedule = "30 2 * * *"\ntimezone = "Europe/Berlin"\njitter = "10m"'
MORE = """\
[environments.stag_ing]
schedule = "*/15 1-3 */2 * sun-tue"
site = "eu"
[environments.stag_ing.sources.app]
type = "postgres"
url = {{ env = "DATABASE_URL" }}
[environments.development.sources.app]
type = "sqlite"
path = "a %d b.db"
[schedules]
retries = {retries}
[[copies]]
name = "near"
store = "file://{folder}/near"
after_backup = true
"""
NO_SYSTEMD = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")


@pytest.fixture
def place(tmp_path):
    found = workplace.Workplace(tmp_path / "100% of it")
    found.folder.mkdir()
    found.write_policy(environment=PRODUCTION, more=MORE.format(folder=tmp_path, retries=2))
    return found


def at(program="/bin/true", **more):
    return Place(program, **more)


@NO_SYSTEMD
def test_systemd_has_nothing_to_say_against_the_units(place, tmp_path):
    found = export_systemd.export(place.loaded, at(user="root"), NOW)
    put(found, tmp_path / "units", "keepwell")
    paths = [str(tmp_path / "units" / name) for name in found.files]
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {name.partition(".")[0] for name in found.files} == {
        f"keepwell-{name}"
        for name in (
            *("backup-production", "verify-production", "drill-production", "backup-stag_ing", "verify-stag_ing"),
            *("drill-stag_ing", "prune", "check", "watch"),
        )
    }


@NO_SYSTEMD
@pytest.mark.parametrize(
    ("cron", "timezone", "begin"),
    [
        ("30 2 * * *", "Europe/Berlin", "2027-03-20"),
        ("0 2 * * *", "Australia/Lord_Howe", "2026-10-01"),
        ("0,30 1-3 * * *", "America/New_York", "2026-10-30"),
        ("*/20 5 1-7 */2 mon", "UTC", "2026-11-22"),
        ("0 9 1 1,4,7,10 *", "Europe/Berlin", "2026-11-22"),
        ("5/25 4 * 2 0,6", "UTC", "2026-11-22"),
    ],
)
def test_systemd_computes_the_times_that_serve_does(cron, timezone, begin):
    start = dt.datetime.fromisoformat(f"{begin}T00:00:00+00:00")
    lines = export_systemd.on_calendar(cron, timezone)
    extra = [f"{due:%Y-%m-%d %H:%M:%S} UTC" for due in skipped(Plan("backup", "x", cron, timezone), start)]
    due, mine = start, []
    for _ in range(12):
        due = next_due(cron, due, timezone)
        mine.append(due)
    theirs = set()
    for line in [*lines, *extra[:1]]:
        said = subprocess.run(
            ["systemd-analyze", "calendar", "--iterations=12", f"--base-time={start:%Y-%m-%d %H:%M:%S} UTC", line],
            capture_output=True, text=True, check=True, env=os.environ | {"TZ": "UTC"},
        ).stdout  # fmt: skip
        for day, clock in re.findall(r"(?:Next elapse|Iter. #\d+): \w+ (\S+) (\S+) UTC", said):
            theirs.add(dt.datetime.fromisoformat(f"{day}T{clock}+00:00"))
    assert sorted(theirs)[:12] == mine


def test_a_service_runs_the_copies_that_follow_and_tries_again_only_what_may_pass(place):
    found = export_systemd.export(place.loaded, at("/opt/keep well/keepwell"), NOW)
    service = found.files["keepwell-backup-production.service"].splitlines()
    policy = str(place.folder / "keepwell.toml").replace("%", "%%")
    assert [line for line in service if line.startswith("ExecStart")] == [
        f'ExecStart="/opt/keep well/keepwell" --policy "{policy}" backup production',
        f'ExecStart="/opt/keep well/keepwell" --policy "{policy}" copy near',
    ]
    assert {"Restart=on-failure", "StartLimitBurst=3", "RestartPreventExitStatus=2 4 5 7", "SuccessExitStatus=3"} < set(
        service
    )
    timer = found.files["keepwell-backup-production.timer"].splitlines()
    assert {"RandomizedDelaySec=600", "FixedRandomDelay=true", "Persistent=true"} < set(timer)
    assert "EnvironmentFile=/etc/keepwell/environment" in service
    for text in found.cannot:
        assert any(text in line for line in service)


def test_what_is_of_a_site_is_for_the_machines_there(place):
    found = export_systemd.export(place.loaded, at(sites=("eu",)), NOW)
    assert {name.partition(".")[0] for name in found.files} == {
        "keepwell-backup-stag_ing", "keepwell-verify-stag_ing", "keepwell-drill-stag_ing"
    }  # fmt: skip
    assert any("watch" in text for text in found.cannot)


def test_the_lines_of_cron_are_true_to_the_schedules_and_say_where_they_are_not(place):
    found = export_cron.export(place.loaded, at("/usr/bin/keepwell"), NOW)
    lines = found.files["keepwell"].splitlines()
    assert all(line.startswith(("#", "SHELL=", "PATH=", "MAILTO=", "CRON_TZ=")) or " keepwell " in line or not line for line in lines)  # fmt: skip
    (line,) = (line for line in lines if " backup production" in line)
    assert line.startswith("30 2 * * * keepwell sleep ")
    assert 0 <= int(line.split()[7].rstrip(";")) < 600
    assert "100\\% of it" in line
    assert line.endswith(" copy near")
    before = [text for text in lines[: lines.index(line)] if text.startswith("CRON_TZ")]
    assert before[-1] == "CRON_TZ=Europe/Berlin"
    (staging,) = (line for line in lines if " backup stag_ing" in line)
    assert staging.startswith(f"0,15,30,45 1,2,3 {','.join(map(str, range(1, 32, 2)))} * 0,1,2 ")
    assert any("Debian" in text and "Europe/Berlin and UTC" in text for text in found.cannot)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cron") or os.geteuid() != 0, reason="needs cron, and root to start it")
@pytest.mark.skipif(os.path.exists("/run/crond.pid"), reason="a cron runs here already")
def test_a_real_cron_reads_the_file_and_runs_it(tmp_path):
    place = workplace.Workplace(tmp_path / "100% of it")
    place.folder.mkdir()
    place.write_policy(environment='schedule = "* * * * *"')
    note = tmp_path / "ran"
    program = tmp_path / "keep well"
    program.write_text(f'#!/bin/sh\necho "$@" >> {note}\n')
    program.chmod(0o755)
    prefix = f"keepwell-test-{os.getpid()}"
    found = export_cron.export(place.loaded, Place(str(program), "root", prefix=prefix), NOW)
    folder = os.path.realpath("/etc/cron.d")
    path = f"{folder}/{prefix}"
    process = None
    try:
        with open(path, "w") as file:
            file.write(found.files[prefix])
        process = subprocess.Popen(["cron", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 70
        while not (note.exists() and " backup production\n" in note.read_text()):
            assert time.monotonic() < deadline, "cron did not run the backup within a minute"
            time.sleep(0.2)
    finally:
        os.unlink(path)
        if process is not None:
            process.terminate()
            process.wait(10)
    assert f"--policy {place.folder}/keepwell.toml --quiet backup production" in note.read_text().splitlines()


def test_kubernetes_gets_cronjobs_of_the_published_form(place):
    found = export_kubernetes.export(place.loaded, at(), NOW)
    text = found.files["keepwell.yaml"]
    config, claim, *jobs = yaml.safe_load_all(text)
    assert config["data"]["keepwell.toml"] == (place.folder / "keepwell.toml").read_text().rstrip("\n") + "\n"
    assert claim["kind"] == "PersistentVolumeClaim"
    assert len(jobs) == len(plans(place.loaded.policy)) + 1
    names = [job["metadata"]["name"] for job in jobs]
    assert len(set(names)) == len(names)
    for job in jobs:
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", job["metadata"]["name"])
        spec = job["spec"]
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["startingDeadlineSeconds"] >= 10
        pod = spec["jobTemplate"]["spec"]["template"]["spec"]
        assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
        assert subprocess.run(["sh", "-nc", container["command"][2]], check=False).returncode == 0
        wants = {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "keepwell", "key": "DATABASE_URL"}}}
        assert wants in container["env"]
    first = jobs[0]["spec"]
    assert (first["schedule"], first["timeZone"], first["startingDeadlineSeconds"]) == (
        "30 2 * * *",
        "Europe/Berlin",
        604800,
    )
    assert first["jobTemplate"]["spec"]["backoffLimit"] == 2
    assert any("summer time" in text for text in found.cannot)
    assert any("uploads" in text and "mount" in text for text in found.cannot)


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_kubernetes_itself_would_take_the_files(place, version):
    """As its published schemas say; those before 1.29 ask for `onPodConditions` where the server does not."""
    for document in yaml.safe_load_all(export_kubernetes.export(place.loaded, at(), NOW).files["keepwell.yaml"]):
        kubernetes_validate.validate(document, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**document, "spec": {**document["spec"], "shedule": "* * * * *"}}, version, strict=True
        )


@pytest.mark.parametrize(("codes", "ran", "end"), [((3, 0), 2, 0), ((3, 1), 2, 1), ((6, 0), 1, 6)])
def test_in_a_container_a_backup_with_warnings_is_done_and_one_that_failed_keeps_its_code(
    place, tmp_path, codes, ran, end
):
    place.write_policy(environment='schedule = "0 2 * * *"')
    *_, job = [
        job
        for job in yaml.safe_load_all(export_kubernetes.export(place.loaded, at(), NOW).files["keepwell.yaml"])
        if job["metadata"]["name"] == "keepwell-backup-production"
    ]
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    program = tmp_path / "keepwell"
    program.write_text(
        f'#!/bin/sh\necho x >> {tmp_path}/calls\ncase "$3" in backup) exit {codes[0]};; *) exit {codes[1]};; esac\n'
    )
    program.chmod(0o755)
    done = subprocess.run(container["command"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert (done.returncode, len((tmp_path / "calls").read_text().split())) == (end, ran)


def test_an_export_replaces_earlier_ones_and_nothing_else(place, tmp_path):
    folder = tmp_path / "units"
    put(export_systemd.export(place.loaded, at(), NOW), folder, "keepwell")
    (folder / "keepwell.service").write_text("[Service]\n# somebody's own\n")
    place.write_policy(more='[schedules]\ndrill = "never"')
    assert put(export_systemd.export(place.loaded, at(), NOW), folder, "keepwell") == [
        f"keepwell-{name}.{kind}"
        for name in ("backup-stag_ing", "drill-production", "drill-stag_ing", "verify-stag_ing")
        for kind in ("service", "timer")
    ]
    (folder / "keepwell-prune.timer").write_text("mine\n")
    before = (folder / "keepwell-check.timer").read_text()
    with pytest.raises(TargetNotEmpty, match=r"keepwell-prune\.timer"):
        put(export_systemd.export(place.loaded, at(), NOW), folder, "keepwell")
    assert (folder / "keepwell-prune.timer").read_text() == "mine\n"
    assert (folder / "keepwell-check.timer").read_text() == before


@pytest.mark.parametrize("wrong", [{"user": "root\nx"}, {"prefix": "../x"}, {"image": "a b"}, {"secrets": "relative"}])
def test_what_would_break_out_of_a_file_is_refused(wrong):
    with pytest.raises(UsageError, match="cannot be used there"):
        at(**wrong).check()


def test_the_agenda_has_what_begins_next_with_its_jitter(place):
    policy = place.loaded.policy
    for hours in range(0, 48, 5):
        now = NOW + dt.timedelta(hours=hours, minutes=32)
        found = agenda(policy, now)
        assert [(entry.kind, entry.target) for entry in found if entry.begins is None] == [("copy", "near")]
        timed = [entry for entry in found if entry.begins]
        assert [entry.begins for entry in timed] == sorted(entry.begins for entry in timed)
        for entry in timed:
            assert entry.begins == begins(entry.plan, entry.due) > now
            # Between now and then nothing of this plan begins.
            due = next_due(entry.plan.cron, now - dt.timedelta(days=1), entry.plan.timezone)
            while due < entry.due:
                assert begins(entry.plan, due) <= now
                due = next_due(entry.plan.cron, due, entry.plan.timezone)
    assert by_hand(policy) == ("development",)
    assert zone("Europe/Berlin") is not None


def test_the_command_says_what_to_give(place, capsys):
    policy = str(place.folder / "keepwell.toml")
    assert main(["--policy", policy, "schedule", "export"]) == 2
    assert "--systemd" in capsys.readouterr().err
    assert main(["--policy", policy, "schedule", "list", "--site", "eux"]) == 2
    assert 'Did you mean "eu"?' in capsys.readouterr().err
    assert main(["--policy", policy, "schedule", "list"]) == 0
    assert "development has no schedule" in capsys.readouterr().out
