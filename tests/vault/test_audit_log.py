"""The audit log (docs/format.md, section 13): whatever is done to the chain is found, and many may append at once."""

import datetime as dt
import threading

import pytest
import vaultkit as kit
from hypothesis import given
from hypothesis import strategies as st

from keepwell.core.errors import StoreDenied
from keepwell.core.progress import Silent
from keepwell.vault import audit, audittrim, auditverify
from keepwell.vault.audit import Head
from keepwell.vault.auditverify import Anchor

DAY = dt.timedelta(days=1)


def say(vault, text, known=audit.NOTHING):
    return audit.append(vault.store, vault.keyring, {"event": "begun", "text": text}, known)[0]


def chain(length):
    vault = kit.open_vault(kit.new_store())
    entries, head = [], audit.NOTHING
    for number in range(length):
        entries.append(say(vault, f"action {number}", head))
        head = entries[-1].head
    return vault, entries


def anchors_of(*heads):
    return [Anchor(head, f"witness {head.number}") for head in heads]


def problems(vault, *heads):
    return [finding.problem for finding in auditverify.verify(vault, anchors_of(*heads)).findings]


@pytest.fixture(scope="module")
def long():
    """A chain over several segments, as it is: the objects and the entries."""
    vault, entries = chain(230)
    return dict(vault.store.objects), entries


def of(long):
    store = kit.new_store()
    store.objects = dict(long[0])
    store.flush()
    return kit.open_vault(store), long[1]


def test_a_chain_that_nobody_touched_passes_and_counts_its_anchors(long):
    vault, entries = of(long)
    verdict = auditverify.verify(vault, anchors_of(entries[-1].head, entries[99].head))
    assert (verdict.findings, verdict.entries, verdict.head, verdict.anchors) == ([], 230, entries[-1].head, 2)
    assert [info.name for info in vault.store.list(audit.PREFIX)][100] == "logs/audit/00000001/0000000101"


@given(data=st.data())
def test_any_single_change_is_found(long, data):
    vault, entries = of(long)
    objects = vault.store.objects
    name = audit.name_of(data.draw(st.integers(1, 230), label="number"))
    other = audit.name_of(data.draw(st.integers(1, 230).filter(lambda n: audit.name_of(n) != name), label="other"))
    kind = data.draw(st.sampled_from(["edit", "shorten", "drop", "swap", "repeat", "cut off", "made anew"]))
    raw, made = objects[name]
    if kind == "edit":
        at = data.draw(st.integers(0, len(raw) - 1))
        objects[name] = (raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :], made)
    elif kind == "shorten":
        objects[name] = (raw[: data.draw(st.integers(0, len(raw) - 1))], made)
    elif kind == "drop":
        del objects[name]
    elif kind == "swap":
        objects[name], objects[other] = objects[other], objects[name]
    elif kind == "repeat":
        objects[name] = objects[other]
    elif kind == "cut off":
        for gone in range(audit.number_of(name), 231):
            del objects[audit.name_of(gone)]
    else:  # by somebody who has the key, and not the anchors
        number = audit.number_of(name)
        previous = audit.sha256_of(objects[audit.name_of(number - 1)][0]) if number > 1 else ""
        objects[name] = (audit.encode(vault.keyring, number, previous, {"event": "begun", "text": "forged"}), made)
    assert problems(vault, entries[-1].head)


def test_what_is_wrong_is_named(long):
    vault, entries = of(long)
    for number in (7, 8, 229, 230):
        vault.store.delete(audit.name_of(number))
    found = problems(vault, entries[-1].head)
    assert found == [
        "entries 7 to 8 are missing",
        "entries 229 to 230 are missing at the end: witness 230 has seen entry 230, and the log ends with 228",
    ]


def test_a_cut_end_that_was_written_over_by_another_machine_is_found_by_who_saw_it(long):
    vault, entries = of(long)
    for number in range(225, 231):
        vault.store.delete(audit.name_of(number))
    for number in range(225, 231):
        say(vault, f"after the cut {number}", entries[100].head)
    assert problems(vault) == []
    assert problems(vault, entries[-1].head) == [
        "entry 230 is another one than the one that witness 230 has seen",
    ]


def test_who_remembers_more_than_is_there_goes_on_behind_it_so_that_the_hole_stays(long):
    vault, entries = of(long)
    for number in range(221, 231):
        vault.store.delete(audit.name_of(number))
    entry, before = audit.append(vault.store, vault.keyring, {"event": "begun"}, entries[-1].head)
    assert (entry.number, before.number) == (231, 220)
    say(vault, "a machine that remembers nothing")
    assert problems(vault) == ["entries 221 to 230 are missing"]


def test_a_head_that_is_damaged_stops_nobody_and_is_found():
    vault, _ = chain(5)
    raw, made = vault.store.objects[audit.name_of(5)]
    vault.store.objects[audit.name_of(5)] = (raw[:-1] + bytes([raw[-1] ^ 1]), made)
    assert say(vault, "goes on").number == 6
    assert len(problems(vault)) == 1


def test_what_a_stranger_puts_under_the_greatest_number_stops_nobody_and_is_found():
    vault, entries = chain(5)
    vault.store.put("logs/audit/99999999/9999999999", b"jam")
    assert say(vault, "a machine that remembers nothing").number == 6
    assert say(vault, "one that does", entries[-1].head).number == 7
    assert problems(vault)[0] == "entries 8 to 9999999998 are missing"
    assert audittrim.trim(vault, DAY, vault.store.clock.now() + 9 * DAY, Silent()) == 0
    assert kit.check(vault, data=False).findings


def test_many_appenders_at_once_make_one_chain():
    vault, _ = chain(1)
    start = threading.Barrier(4)

    def appender(name):
        mine, head = kit.open_vault(vault.store), audit.NOTHING
        start.wait()
        for number in range(15):
            document = {"event": "begun", "text": f"{name} {number}"}
            head = audit.append(mine.store, mine.keyring, document, head, fresh=number % 2 == 1)[0].head

    threads = [threading.Thread(target=appender, args=(f"machine {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = auditverify.verify(vault, [])
    assert (verdict.findings, verdict.entries) == ([], 61)
    raws = audit.fetched(vault.store, [audit.name_of(n) for n in range(2, 62)])
    texts = [audit.decode(vault.keyring, name, raw).document["text"] for name, raw in raws]
    for machine in range(4):
        mine = [text for text in texts if text.startswith(f"machine {machine} ")]
        assert mine == [f"machine {machine} {number}" for number in range(15)]


def test_an_append_costs_one_listing_and_one_put_and_none_where_the_head_is_fresh(long):
    vault, entries = of(long)
    calls = []

    class Counted:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(vault.store, name)

    entry, _ = audit.append(Counted(), vault.keyring, {"event": "begun"}, entries[-1].head)
    assert calls == ["list", "put", "flush"]
    calls.clear()
    audit.append(Counted(), vault.keyring, {"event": "ended"}, entry.head, fresh=True)
    assert calls == ["put", "flush"]


def aged(ages):
    """A chain of one entry a day, the last one today."""
    vault = kit.open_vault(kit.new_store())
    head = audit.NOTHING
    entries = []
    for number in range(ages):
        if number:
            kit.tick(vault.store, DAY)
        head = say(vault, f"day {number}", head).head
        entries.append(head)
    return vault, entries, vault.store.clock.now()


def test_old_entries_go_in_whole_segments_and_the_rest_still_verifies():
    vault, heads, now = aged(330)
    assert audittrim.trim(vault, 90 * DAY, now, Silent()) == 200
    verdict = auditverify.verify(vault, anchors_of(heads[-1], heads[199], heads[50]))
    assert (verdict.findings, verdict.first, verdict.entries, verdict.anchors) == ([], 201, 130, 2)
    assert audittrim.trim(vault, 90 * DAY, now, Silent()) == 0
    # What is cut off the new front, or a front that is swapped for an older one, is found as before.
    assert "another one" in problems(vault, Head(200, "0" * 64))[0]
    vault.store.delete(audit.name_of(201))
    assert problems(vault) == ["entry 201 is missing"]
    kit.tick(vault.store, 100 * DAY)
    for _ in range(80):
        say(vault, "later", heads[-1])
    progress = Silent()
    assert audittrim.trim(vault, 90 * DAY, vault.store.clock.now(), progress) == 99
    assert [text.split(" of the entries")[0] for text in progress.warnings] == ["1"]
    verdict = auditverify.verify(vault, [])
    assert (verdict.findings, verdict.first) == ([], 301)
    assert len(audit.objects(vault.store)[1]) == 1


def test_without_its_checkpoint_a_shortened_log_is_found():
    vault, _, now = aged(230)
    audittrim.trim(vault, 90 * DAY, now, Silent())
    vault.store.delete(audit.checkpoint_name(101))
    assert problems(vault) == [
        "entries 1 to 100 are missing",
    ]


def test_a_prune_that_dies_at_any_step_leaves_a_log_that_verifies_and_the_next_one_ends_it():
    base, heads, now = aged(330)
    untouched = dict(base.store.objects)
    step = 0
    while True:
        vault = kit.open_vault(kit.new_store())
        vault.store.objects = dict(untouched)
        vault.store.clock.advance(now - vault.store.clock.now())
        vault.store.flush()
        left = step

        def stops(name, real=vault.store.delete, left=[left]):  # noqa: B006
            if left[0] == 0:
                raise RuntimeError("killed")
            left[0] -= 1
            real(name)

        vault.store.delete = stops
        try:
            audittrim.trim(vault, 90 * DAY, now, Silent())
            done = True
        except RuntimeError:
            done = False
        del vault.store.delete
        assert problems(vault, heads[-1]) == []
        audittrim.trim(vault, 90 * DAY, now, Silent())
        assert len(audit.objects(vault.store)[0]) == 130
        if done:
            break
        step += 67
    assert step > 150


def test_what_is_locked_stays_until_the_lock_is_over(monkeypatch):
    vault, _, now = aged(330)
    monkeypatch.setattr(
        audittrim, "held", lambda store, names, when: now + DAY if any("/00000001/" in name for name in names) else None
    )
    assert audittrim.trim(vault, 90 * DAY, now, Silent()) == 100
    assert auditverify.verify(vault, []).first == 101

    def denied(name):
        raise StoreDenied("it is locked")

    monkeypatch.undo()
    monkeypatch.setattr(vault.store, "delete", denied)
    progress = Silent()
    assert audittrim.trim(vault, 90 * DAY, now, progress) == 0
    assert progress.warnings
    assert problems(vault) == []


def copied():
    near, heads, now = aged(230)
    far = kit.open_vault(kit.new_store())
    return near, far, heads, now


def test_a_copy_has_the_log_and_loses_its_front_with_it():
    near, far, heads, now = copied()
    assert audittrim.copy(near, far, Silent()).objects == 230
    assert audittrim.copy(near, far, Silent()).objects == 0
    audittrim.trim(near, 90 * DAY, now, Silent())
    say(near, "one more", heads[-1])
    assert audittrim.copy(near, far, Silent()).objects == 2
    for vault in (near, far):
        verdict = auditverify.verify(vault, [])
        assert (verdict.findings, verdict.first, verdict.head.number) == ([], 101, 231)


def test_a_copy_shows_that_the_end_was_cut_off_and_keeps_what_it_has():
    near, far, heads, _ = copied()
    audittrim.copy(near, far, Silent())
    for number in range(225, 231):
        near.store.delete(audit.name_of(number))
    report = audittrim.copy(near, far, Silent())
    assert list(report.failed) == ["logs/audit/00000002/0000000225"]
    for _ in range(8):
        say(near, "over the cut", heads[100])
    report = audittrim.copy(near, far, Silent())
    assert "another one in the copy" in report.failed["logs/audit/00000002/0000000230"]
    assert auditverify.verify(far, anchors_of(heads[-1])).passed
