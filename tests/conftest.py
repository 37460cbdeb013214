"""Makes `tests/support` importable as `support` from every test, however pytest was started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
