"""`python -m tests.recipes [NAME …]` writes summaries, `python -m tests.recipes --table` prints the documents' rows."""

import sys

from tests import pods

if sys.argv[1:] == ["--table"]:
    print("\n".join(pods.row(name) for name in pods.RECIPES))
else:
    pods.write(sys.argv[1:])
