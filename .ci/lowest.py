"""Print the lowest version that pyproject.toml allows of each dependency, as pip's constraints.

python .ci/lowest.py > lowest.txt && make test PIP_ARGS="-c lowest.txt"
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
for text in sum(project["optional-dependencies"].values(), project["dependencies"]):
    if bound := re.match(r"([\w-]+)>=([\d.]+)", text):  # flowrob[test] has none
        print(f"{bound[1]}=={bound[2]}")
