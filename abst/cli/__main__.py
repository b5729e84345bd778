"""``python -m abst.cli`` is the command ``abst``."""

import sys

from abst.cli import main

sys.exit(main())
