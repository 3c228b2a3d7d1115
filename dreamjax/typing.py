"""Names of types that many rooms share; imports nothing of the package."""

from typing import Any

JsonDict = dict[str, Any]  # an object of a JSON file, or what `--json` prints
