"""`python -m tests.pods [NAME …]`."""

import sys

from tests.pods import write

write(sys.argv[1:])
