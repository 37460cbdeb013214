"""The commands: which module runs each, and the help text of each. Reading this imports nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    module: str
    """In this package; imported only when the command runs."""
    section: str
    line: str


_SETUP, _TAKE, _BACK, _LOOK = "Set up", "Every day", "The worst day", "Look after it"

COMMANDS: dict[str, Entry] = {
    "init": Entry("init", _SETUP, "Write a policy, make the vault and its key."),
    "doctor": Entry("doctor", _SETUP, "Look at programs, rights, store, keys and clock; say what to mend."),
    "key": Entry("key", _SETUP, "Add, remove, list and export keys of the vault."),
    "schema": Entry("schema", _SETUP, "Print the JSON Schema of keepwell.toml, for editors."),
    "demo": Entry("demo", _SETUP, "See the whole story on a sample database; needs nothing."),
    "backup": Entry("backup", _TAKE, "Take a backup of an environment."),
    "verify": Entry("verify", _TAKE, "Restore a backup into a sandbox and compare: the proof."),
    "status": Entry("status", _TAKE, "The newest proven backup of each environment, against the objectives."),
    "wal": Entry("", _TAKE, "PostgreSQL's write-ahead log, for recovery to any moment."),
    "list": Entry("listing", _TAKE, "List the backups in the vault."),
    "show": Entry("show", _BACK, "What is in one backup."),
    "restore": Entry("restore", _BACK, "Bring data back, into a new place; never overwrites."),
    "drill": Entry("drill", _BACK, "Rehearse a recovery, timed against the objectives."),
    "export": Entry("export", _BACK, "Write a copy that needs no keepwell: database.sql.gz and metadata.json."),
    "serve": Entry("serve", _LOOK, "Do it all by itself, as the policy says, until stopped."),
    "worker": Entry("worker", _LOOK, "Do runs of a site, one of several machines that share the work."),
    "schedule": Entry("", _LOOK, "What runs next; the schedules for systemd, cron or Kubernetes."),
    "watch": Entry("watch", _LOOK, "Look whether all is well, and tell people where it is not."),
    "alerts": Entry("", _LOOK, "What is not well: list, acknowledge, silence; try the channels."),
    "audit": Entry("", _LOOK, "Who did what, and whether that record is whole."),
    "logs": Entry("logs", _LOOK, "What runs said, also those that failed."),
    "check": Entry("check", _LOOK, "Read the vault: is all of it there and unharmed?"),
    "copy": Entry("copy", _LOOK, "Bring the copies of the vault in other stores up to date."),
    "store": Entry("", _LOOK, "Set what the strategy demands of a bucket."),
    "prune": Entry("prune", _LOOK, "Delete backups that the policy no longer keeps."),
    "version": Entry("version", _LOOK, "Print the versions of keepwell and of what it stands on."),
}

ALIASES = {"alert": "alerts"}
"""Other names of groups, which no help lists."""

KEY_COMMANDS: dict[str, Entry] = {
    "list": Entry("key_list", "Commands", "List the key slots of the vault."),
    "add": Entry("key_add", "Commands", "Add a way in: a passphrase or a new key file."),
    "remove": Entry("key_remove", "Commands", "Remove a key slot."),
    "export": Entry("key_export", "Commands", "Write a new key file, of a writer unless told otherwise."),
}

WAL_COMMANDS: dict[str, Entry] = {
    "receive": Entry("wal_receive", "Commands", "Receive the log as the server writes it: seconds of data at risk."),
    "push": Entry("wal_push", "Commands", "Store one finished segment: for archive_command."),
    "fetch": Entry("wal_fetch", "Commands", "Bring one segment back: for restore_command."),
    "status": Entry(
        "wal_status", "Commands", "To which moments recovery is possible, gaps, and how far behind the log is."
    ),
}

ALERTS_COMMANDS: dict[str, Entry] = {
    "list": Entry("alerts_list", "Commands", "The open alerts, and what is silenced."),
    "ack": Entry("alerts_ack", "Commands", "Say that you are on it: no reminders, no escalation."),
    "silence": Entry("alerts_silence", "Commands", "Tell nobody for a while."),
    "record": Entry("alerts_record", "Commands", "Record a drill, a review, or that a key was tried."),
    "test": Entry("alerts_test", "Commands", "Send a message through the channels."),
}

STORE_COMMANDS: dict[str, Entry] = {
    "protect": Entry(
        "store_protect", "Commands", "Encryption, versions, no public access, TLS, lifecycle, object lock."
    ),
}

AUDIT_COMMANDS: dict[str, Entry] = {
    "list": Entry("audit_list", "Commands", "Who did what, from where, and what came of it."),
    "verify": Entry("audit_verify", "Commands", "Is an entry changed, dropped, reordered, or cut off at the end?"),
    "export": Entry("audit_export", "Commands", "The entries as JSON lines."),
}

SCHEDULE_COMMANDS: dict[str, Entry] = {
    "list": Entry("schedule_list", "Commands", "What runs next, and when."),
    "export": Entry("schedule_export", "Commands", "Write timers of systemd, a file for cron, or CronJobs."),
}

GROUPS: dict[str, dict[str, Entry]] = {
    "alerts": ALERTS_COMMANDS,
    "audit": AUDIT_COMMANDS,
    "key": KEY_COMMANDS,
    "schedule": SCHEDULE_COMMANDS,
    "store": STORE_COMMANDS,
    "wal": WAL_COMMANDS,
}

ABOUT = """Backups that count only when they are proven.

One policy file, keepwell.toml, says what to protect, where to keep it, and how fast it must be back."""

FOOT = """A backup is named by its id (production/20261122T020003Z-7f3a), or as
production@latest, production@proven, production@2026-11-22; a bare environment
means its latest.

On the worst day:  keepwell status,  keepwell restore production@proven --to …"""
