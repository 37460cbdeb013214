"""What the demo and the benchmarks rely on: the sample in PostgreSQL is whole, the same each time, and changes as told."""

import psycopg
import pytest

from keepwell.core.errors import SourceError, TargetNotEmpty, UsageError
from keepwell.demo import sample

pytestmark = pytest.mark.slow
ROWS = 600


def ask(url, sql):
    with psycopg.connect(url) as connection:
        return connection.execute(sql).fetchall()


def one(url, sql):
    return ask(url, sql)[0][0]


@pytest.fixture(scope="module")
def filled(postgres):
    url = postgres()
    assert sample.fill_postgres(url, ROWS) == {
        "users": 3,
        "leads": 600,
        "activities": 2400,
        "closed_deals": 60,
    }
    return url


def test_the_sample_has_everything_that_makes_a_database_hard_to_back_up(filled):
    kinds = dict(
        ask(
            filled,
            "SELECT relkind::text, count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace GROUP BY 1",
        )
    )
    assert kinds["p"] == 1, "one partitioned table"
    assert kinds["m"] == 1, "one materialized view"
    assert kinds["v"] == 1, "one view"
    assert kinds["S"] == 5, "sequences, those of identity columns included"
    assert one(filled, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'activities'::regclass") == 25
    assert one(filled, "SELECT count(*) FROM pg_attribute WHERE attgenerated = 's' AND attnum > 0") == 2
    assert one(filled, "SELECT count(*) FROM pg_attribute WHERE attidentity IN ('a', 'd')") == 3
    assert one(filled, "SELECT count(*) FROM pg_type WHERE typtype = 'e'") == 3
    assert one(filled, "SELECT count(*) FROM pg_index WHERE indpred IS NOT NULL") == 1
    assert one(filled, "SELECT count(*) FROM pg_index WHERE indexprs IS NOT NULL") >= 3
    assert one(filled, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 2
    assert one(filled, "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conparentid = 0") == 4
    assert one(filled, "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conparentid = 0") >= 5
    assert one(filled, "SELECT count(*) FROM pg_description d JOIN pg_class c ON c.oid = objoid AND c.relkind <> 'i' "
               "WHERE relnamespace = 'public'::regnamespace") >= 6  # fmt: skip
    assert one(filled, "SELECT count(*) FROM users WHERE avatar IS NOT NULL") > 0


def test_large_objects_are_the_contracts_that_deals_refer_to(filled):
    sizes = ask(filled, "SELECT octet_length(lo_get(contract)) FROM closed_deals WHERE contract IS NOT NULL")
    assert len(sizes) == one(filled, "SELECT count(*) FROM pg_largeobject_metadata") == 1
    assert all(4_000 < size < 61_000 for (size,) in sizes)


def test_every_won_lead_has_its_deal_and_no_other(filled):
    sql = "SELECT id FROM leads WHERE status = 'won' EXCEPT SELECT lead_id FROM closed_deals"
    assert ask(filled, sql) == []
    assert one(filled, "SELECT count(*) FROM leads WHERE status = 'won'") == ROWS // 10
    assert one(filled, "SELECT count(*) FROM closed_deals WHERE amount <= 0") == 0


def test_notes_with_line_breaks_and_accents_arrive_as_they_were_written(filled):
    assert one(filled, r"SELECT count(*) FROM leads WHERE notes LIKE E'%\n- %'") > 0
    assert one(filled, r"SELECT count(*) FROM leads WHERE notes LIKE '%\\%'") == 0
    assert one(filled, "SELECT count(*) FROM leads WHERE first_name ~ '[^[:ascii:]]'") > 0


def test_partitions_have_their_months_and_the_default_one_is_empty(filled):
    assert one(filled, "SELECT count(*) FROM activities_other") == 0
    low, high = ask(filled, "SELECT min(happened_at)::text, max(happened_at)::text FROM activities_2026_03")[0]
    assert low < high
    assert one(filled, "SELECT count(DISTINCT tableoid) FROM activities") == 23


def test_the_application_can_go_on_working_after_the_fill(postgres):
    url = postgres()
    sample.fill_postgres(url, ROWS)
    with psycopg.connect(url) as connection:
        reference, full_name = connection.execute(
            "INSERT INTO leads (first_name, last_name, email, company, source, owner_id) "
            "VALUES ('A', 'B', 'a@example.com', 'C', 'event', 1) RETURNING reference, full_name"
        ).fetchone()
        assert (reference, full_name) == ("LD-0000601", "A B")
        assert connection.execute(
            "INSERT INTO activities (lead_id, user_id, kind, subject, body) VALUES (1, 1, 'note', '', '') RETURNING id"
        ).fetchone() == (2401,)


def test_one_seed_makes_one_sample_and_another_seed_another(filled, postgres):
    again, other = postgres(), postgres()
    sample.fill_postgres(again, ROWS)
    sample.fill_postgres(other, ROWS, seed=2)
    expected, different = sample.fingerprint_postgres(filled), sample.fingerprint_postgres(other)
    assert sample.fingerprint_postgres(again) == expected
    assert [name for name in expected if different[name] == expected[name]] == ["sequences"]
    assert {name: rows for name, (rows, _) in expected.items()} == {
        "public.activities": 2400,
        "public.closed_deals": 60,
        "public.leads": 600,
        "public.monthly_revenue": expected["public.monthly_revenue"][0],
        "public.users": 3,
        "large objects": 1,
        "sequences": 5,
    }


@pytest.mark.parametrize("how", ["recent", "random"])
def test_a_day_changes_the_same_rows_wherever_it_passes(postgres, how):
    results, fingerprints = [], []
    for _ in range(2):
        url = postgres()
        sample.fill_postgres(url, ROWS)
        results.append(sample.change_postgres(url, 0.1, how))
        results[-1] = (results[-1], sample.change_postgres(url, 0.1, how))
        fingerprints.append(sample.fingerprint_postgres(url))
    assert results[0] == results[1]
    assert fingerprints[0] == fingerprints[1]


def test_a_recent_day_appends_half_and_changes_the_newest_rows_only(postgres):
    url = postgres()
    sample.fill_postgres(url, ROWS)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE before AS SELECT id, notes FROM leads")
    changes = sample.change_postgres(url, 0.1)
    assert changes.appended == {"users": 1, "leads": 30, "activities": 120, "closed_deals": 3}
    assert changes.changed == {"leads": 30, "activities": 120}
    touched = ask(
        url, "SELECT min(id), max(id), count(*) FROM leads JOIN before b USING (id) WHERE b.notes <> leads.notes"
    )
    assert touched == [(571, 600, 30)]
    assert one(url, "SELECT count(*) FROM leads") == 630
    day = "created_at BETWEEN '2026-11-21 20:00+00' AND '2026-11-22 20:00+00'"
    assert one(url, f"SELECT bool_and({day}) FROM leads WHERE id > 600") is True


def test_a_random_day_changes_its_share_everywhere_and_appends_nothing(postgres):
    url = postgres()
    sample.fill_postgres(url, ROWS)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE before AS SELECT id, notes FROM leads")
    changes = sample.change_postgres(url, 0.1, "random")
    assert changes.appended == {}
    assert changes.changed == {"leads": 60, "activities": 240}
    low, high = ask(url, "SELECT min(id), max(id) FROM leads JOIN before b USING (id) WHERE b.notes <> leads.notes")[0]
    assert low < 100
    assert high > 500


def test_the_fingerprint_sees_one_changed_letter_and_a_lost_large_object(postgres):
    url = postgres()
    sample.fill_postgres(url, 20)
    before = sample.fingerprint_postgres(url)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE leads SET company = company || '.' WHERE id = 7")
        connection.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    after = sample.fingerprint_postgres(url)
    assert [name for name in before if before[name] != after[name]] == ["public.leads", "large objects"]


def test_the_fingerprint_does_not_depend_on_where_rows_lie_or_how_the_server_writes_them(postgres):
    url = postgres()
    sample.fill_postgres(url, 20)
    before = sample.fingerprint_postgres(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CLUSTER leads USING leads_email_lower_idx")
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET timezone = 'America/Lima'")
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET bytea_output = 'escape'")
    assert sample.fingerprint_postgres(url) == before


def test_the_sample_is_not_made_over_tables_that_exist(postgres):
    url = postgres()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE leads (precious int)")
    with pytest.raises(TargetNotEmpty, match="already has the tables leads") as caught:
        sample.fill_postgres(url, 10)
    assert "createdb" in caught.value.hint
    assert ask(url, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace") == [
        ("leads",)
    ]


def test_a_database_without_the_sample_cannot_be_changed(postgres):
    with pytest.raises(SourceError, match="has no sample"):
        sample.change_postgres(postgres())


def test_a_wrong_share_or_way_is_refused_before_anything_changes(filled):
    before = sample.fingerprint_postgres(filled)
    for share, how in ((0, "recent"), (1.5, "random"), (0.1, "sometimes")):
        with pytest.raises(UsageError):
            sample.change_postgres(filled, share, how)
    assert sample.fingerprint_postgres(filled) == before


@pytest.mark.parametrize(
    "work", [lambda url: sample.fill_postgres(url, 1), sample.change_postgres, sample.fingerprint_postgres]
)
@pytest.mark.parametrize("url", ["postgresql//user:hunter2@host/db", "postgresql://user:hunter2@127.0.0.1:1/db"])
def test_an_address_that_does_not_answer_is_an_error_without_its_password(work, url):
    with pytest.raises(SourceError) as caught:
        work(url)
    assert "hunter2" not in str(caught.value) + caught.value.hint + repr(caught.value)


def test_progress_tells_the_rows_of_each_table(postgres):
    class Watching:
        def __init__(self):
            self.begun, self.done, self.ended = {}, {}, []

        def begin(self, task, total=None, unit="bytes"):
            assert unit == "rows"
            self.begun[task] = total

        def advance(self, task, amount=1):
            self.done[task] = self.done.get(task, 0) + amount

        def end(self, task):
            self.ended.append(task)

        def note(self, text):
            pass

        def warn(self, text):
            pytest.fail(text)

    watching = Watching()
    sample.fill_postgres(postgres(), 100, progress=watching)
    assert watching.begun == watching.done
    assert watching.done["filling activities"] == 400
    assert watching.ended == ["filling users", "filling leads", "filling activities", "filling closed_deals"]
