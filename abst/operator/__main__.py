"""``python -m abst.operator`` is the command ``abst-realm``."""

import sys

from abst.operator import main

sys.exit(main())
