"""What a vault must hold, said anew from docs/reference/policy.md: nothing here comes from keepwell but the words."""

import datetime as dt
import zoneinfo
from dataclasses import dataclass, field, replace

LADDER = ("daily", "weekly", "monthly")


@dataclass(frozen=True)
class Taken:
    id: str
    environment: str
    tier: str
    time: dt.datetime
    complete: bool
    proven: bool = False


def days(number):
    return dt.timedelta(days=number)


@dataclass
class Model:
    """One vault. `keep` has for each environment and tier (age or None, count or None)."""

    keep: dict
    there: dict = field(default_factory=dict)

    def of(self, environment):
        return sorted((b for b in self.there.values() if b.environment == environment), key=lambda b: b.time)

    def take(self, backup):
        self.there[backup.id] = backup

    def prove_newest(self, environment):
        newest = self.of(environment)[-1]
        if newest.complete:
            self.there[newest.id] = replace(newest, proven=True)

    def prune(self, now):
        """Lets go of what nothing keeps; the ids that went."""
        stays = {b.id for name in self.keep for b in self._stays(self.of(name), self.keep[name], now)}
        gone = self.there.keys() - stays
        self.there = {ident: backup for ident, backup in self.there.items() if ident in stays}
        return gone

    def wanted(self, near, now):
        """The backups of another vault that this one's rules would keep."""
        return [b for name in self.keep for b in self._stays(near.of(name), self.keep[name], now)]

    def _stays(self, backups, rules, now):
        found = set()
        for fits in (lambda b: True, lambda b: b.complete, lambda b: b.proven):
            found |= set([b for b in backups if fits(b)][-1:])
        for tier, (age, count) in rules.items():
            own = [b for b in backups if b.tier == tier]
            higher = LADDER[LADDER.index(tier) + 1 :] if tier in LADDER else ()
            standing = [b for b in backups if b.tier == tier or b.tier in higher]
            for group, concerned in ((own, own), (standing, [b for b in standing if b.tier != tier])):
                if age is not None:
                    found |= {b for b in concerned if now - b.time <= age}
                if count is not None:
                    whole = [b for b in group if b.complete]
                    found |= {b for b in whole[-count:] if b in concerned}
                    # An incomplete one is a place of its own only as long as there are places left.
                    for backup in (b for b in concerned if not b.complete):
                        newer = [b for b in whole if b.time > backup.time]
                        broken = [b for b in group if not b.complete and b.time >= backup.time]
                        if max(len(newer) + 1, len(broken)) <= count:
                            found.add(backup)
        return found


def tier_of(time, earlier, timezone):
    """First of the month: monthly. First of the week: weekly. Of those that are whole and still there."""
    local = zoneinfo.ZoneInfo(timezone)
    whole = [(b.time.astimezone(local), b.tier) for b in earlier if b.complete]
    day = time.astimezone(local)
    monday = day.date() - days(day.weekday())
    if not any(t == "monthly" and (then.year, then.month) == (day.year, day.month) for then, t in whole):
        return "monthly"
    if not any(
        t in {"weekly", "monthly"} and monday <= then.date() <= monday + days(6) and then.date() <= day.date()
        for then, t in whole
    ):
        return "weekly"
    return "daily"
