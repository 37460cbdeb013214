"""A single value of 200 MB goes through the vault and back, and never lies in keepwell's memory as a whole."""

import json
import subprocess
import sys

import pytest

from keepwell.sources import postgres

pytestmark = pytest.mark.slow

SIZE = 200_000_000
MOST = 300 << 20
"""Bytes of memory of keepwell's own process; its share of what the whole tree may have. As hexadecimal digits, as
pg_dump writes it, the value alone has 400 MB. (pg_dump and the server hold a row as a whole: no choice of ours.)"""

_THERE_AND_BACK = """
import json, sys
from pathlib import Path
from keepwell.core.clock import SystemClock
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context, Discard
from keepwell.sources import postgres
from keepwell.sources.base import RestoreRequest
from keepwell.stores.local import LocalStore
from keepwell.vault.vault import Vault

folder, source, target = Path(sys.argv[1]), *map(Secret, json.load(sys.stdin))
store, now, context = LocalStore(folder / "vault", create=True), SystemClock().now(), Context(work=folder)
vault = Vault.create(store, now=now, key_file=folder / "key", cache=folder / "cache")
with vault.begin(environment="production", tier="manual", now=now) as session:
    then = postgres.capture(postgres.Spec(source), session.sink("app"), context)
    session.done("app", then)
    backup = session.commit(database="app", host="test", seconds=1)
streams = vault.read(backup).streams("app")
postgres.restore(then, streams, postgres.Target(target, create=True), RestoreRequest(), context)
now = postgres.capture(postgres.Spec(target), Discard(), context)
# Not getrusage: that begins with what the parent had when it forked.
status = Path("/proc/self/status").read_text()
peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
print(json.dumps({"then": then, "now": now, "peak": peak}))
"""


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bytea", f"decode(repeat(md5('x') || md5('y'), {SIZE // 32}), 'hex')"),
        # No piece of it is there twice, and with every line there is something to escape.
        ("text", f"(SELECT string_agg(md5(n::text), E'\\\\\\n') FROM generate_series(1, {SIZE // 34 + 1}) n)"),
    ],
    ids=["bytea", "text"],
)
def test_one_value_of_200_megabytes_comes_back_in_bounded_memory(request, tmp_path, kind, value):
    # Each takes a quarter of a minute: one kind on each server.
    server = request.getfixturevalue("server15" if kind == "text" else "server18")
    database = server.database(f"CREATE TABLE t (a int, b {kind}); ALTER TABLE t ALTER b SET STORAGE EXTERNAL")
    server.run(f"INSERT INTO t SELECT 1, {value}", database)
    ((size,),) = server.ask("SELECT octet_length(b) FROM t", database)
    assert size >= SIZE
    urls = [server.url(name).reveal() for name in (database, "restored_large")]
    done = subprocess.run(
        [sys.executable, "-c", _THERE_AND_BACK, str(tmp_path)],
        input=json.dumps(urls),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=280,
    )
    told = json.loads(done.stdout)
    assert postgres.compare(told["then"], told["now"]) == []
    assert told["then"]["tables"]["public.t"]["rows"] == 1
    assert told["then"]["tables"]["public.t"]["bytes"] > size
    assert told["peak"] < MOST, f"{told['peak'] >> 20} MiB"
    query = "SELECT md5(b) FROM t"
    assert server.ask(query, "restored_large") == server.ask(query, database)
