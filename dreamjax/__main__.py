"""`python -m dreamjax` is `dreamjax`."""

import sys

from dreamjax.cli.main import main

sys.exit(main())
