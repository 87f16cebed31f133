"""`python -m spectune` is the `spectune` command."""

import sys

from spectune.cli import main

sys.exit(main())
