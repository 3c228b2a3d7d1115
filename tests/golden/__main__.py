"""`python -m tests.golden`."""

from tests.golden import REPOSITORY, write

for path in write():
    print(path.relative_to(REPOSITORY))
