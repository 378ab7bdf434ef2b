"""Run the first Python block of README.md, so that what a newcomer copies is known to run."""

import pathlib
import re
import sys

readme = pathlib.Path(__file__).parent.parent / "README.md"
block = re.search(r"^```python\n(.*?)^```", readme.read_text(encoding="utf-8"), re.M | re.S)
if block is None:
    sys.exit("README.md has no Python block")
exec(compile(block[1], str(readme), "exec"), {"__name__": "__main__"})
