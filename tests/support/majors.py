"""The versions of PostgreSQL that tests run on: Debian's and the embedded wheel's, and for some all that keepwell knows, which
`tests/setup.sh` fetches. KEEPWELL_TEST_POSTGRES names others for both.
"""

import os

_OWN = os.environ.get("KEEPWELL_TEST_POSTGRES")
MAJORS = tuple(map(int, (_OWN or "15 18").split()))
NAMES = [f"postgres{major}" for major in MAJORS]
EVERY = tuple(map(int, (_OWN or "14 15 16 17 18").split()))
EVERY_NAMES = [f"postgres{major}" for major in EVERY]
