"""`python -m tests.recipes [NAME …]` writes summaries, `python -m tests.recipes --table` prints the documents' rows."""

import sys

from tests import recipes

if sys.argv[1:] == ["--table"]:
    print("\n".join(recipes.row(name) for name in recipes.RECIPES))
else:
    recipes.write(sys.argv[1:])
