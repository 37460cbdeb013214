"""A plain replication connection, for tests of the receiver."""

import select
from types import SimpleNamespace

from psycopg import pq
from psycopg.conninfo import make_conninfo

from keepwell.core.errors import SourceError
from keepwell.core.wal import parse_lsn

OK = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


def _text(value):
    return None if value is None else value.decode()


class LinkError(SourceError):
    def __init__(self, message, sqlstate=""):
        super().__init__(message)
        self.sqlstate = sqlstate


class Link:
    def __init__(self, url, application="keepwell"):
        text = make_conninfo(url.reveal(), replication="true", application_name=application)
        self.pg = pq.PGconn.connect(text.encode())
        if self.pg.status != pq.ConnStatus.OK:
            raise LinkError(self.pg.error_message.decode().strip())
        self.server_version = self.pg.server_version

    def check(self, result):
        if result is None or result.status not in OK:
            state = result and result.error_field(pq.DiagnosticField.SQLSTATE)
            text = (result and result.error_message) or self.pg.error_message
            raise LinkError(text.decode().strip(), (state or b"").decode())
        return result

    def query(self, command):
        result = self.check(self.pg.exec_(command.encode()))
        return [
            {result.fname(c).decode(): _text(result.get_value(r, c)) for c in range(result.nfields)}
            for r in range(result.ntuples)
        ]

    def identify(self):
        row = self.query("IDENTIFY_SYSTEM")[0]
        return SimpleNamespace(
            system=row["systemid"], timeline=int(row["timeline"]), position=parse_lsn(row["xlogpos"])
        )

    def show(self, name):
        return next(iter(self.query(f"SHOW {name}")[0].values()))

    def timeline_history(self, timeline):
        row = self.query(f"TIMELINE_HISTORY {timeline}")[0]
        return row["filename"], row["content"].encode()

    def copy_both(self, command):
        result = self.pg.exec_(command.encode())
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            self.check(result)
        return Copy(self, result)

    def close(self):
        self.pg.finish()


class Copy:
    def __init__(self, link, result):
        self.link, self.pg = link, link.pg
        self.rows = []
        self.closed = result.status != pq.ExecStatus.COPY_BOTH

    def receive(self, timeout):
        count, data = self.pg.get_copy_data(1)
        if count == 0:
            if not select.select([self.pg.socket], [], [], timeout)[0]:
                return None
            try:
                self.pg.consume_input()
            except Exception as error:
                raise LinkError(str(error)) from None
            count, data = self.pg.get_copy_data(1)
        if count > 0:
            return data
        if count == 0:
            return None
        self.closed = True
        self._rest(end=True)
        return None

    def _rest(self, *, end):
        if end and self.pg.status == pq.ConnStatus.OK:
            try:
                self.pg.put_copy_end()
                self.pg.flush()
            except Exception:
                pass
        while (result := self.pg.get_result()) is not None:
            if result.status in (pq.ExecStatus.COPY_BOTH, pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT):
                continue
            self.link.check(result)
            self.rows += [
                {result.fname(c).decode(): result.get_value(r, c).decode() for c in range(result.nfields)}
                for r in range(result.ntuples)
            ]

    def send(self, data):
        try:
            self.pg.put_copy_data(data)
            self.pg.flush()
        except Exception as error:
            raise LinkError(str(error)) from None

    def finish(self):
        if not self.closed:
            self.closed = True
            self.pg.put_copy_end()
            self.pg.flush()
            while True:
                count, _ = self.pg.get_copy_data(0)
                if count <= 0:
                    break
            self._rest(end=False)
        return self.rows
