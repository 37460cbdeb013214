"""keepwell: backups that count only when they are proven."""

import os

__version__ = "0.1.0"

# NumPy's linear algebra is not used here; without this it starts a thread a core, which spin and hold memory.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
