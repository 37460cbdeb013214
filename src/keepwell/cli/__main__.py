"""`python -m keepwell.cli`, where the program itself is not on the path."""

import sys

from keepwell.cli import main

sys.exit(main())
