"""Records that grow row by row: a run that was interrupted goes on where it stopped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowrob import records


class Record:
    """What a benchmark measured so far; the same command goes on with what is missing.

    Args:
        path: of the JSON file; None keeps it in memory.
        script: its name, for the command that the record gives.
        settings: what must be alike to go on.
        content: what the record holds beside settings and rows.

    Raises:
        OSError: the file cannot be written: said before the work, not after it.
        SystemExit: the file was made with other settings. It may have cost hours: nothing is lost.
    """

    def __init__(self, path: Path | None, script: str, settings: Mapping, **content: Any):
        self.path, self.started, self.before = path, time.monotonic(), 0.0
        records.check_writable(path)
        self.command = records.command_line(f"python benchmarks/{script}", sys.argv[1:])
        own = {"settings": settings, **content, "rows": [], "commands": []}
        self.content: dict[str, Any] = json.loads(records.as_json(own))
        if path and path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["settings"] != self.content["settings"]:
                raise SystemExit(
                    f"{path} holds other settings: {found['settings']}; name another file, or "
                    "remove that one"
                )
            self.content |= found
            self.before = found["duration_s"]

    @property
    def rows(self) -> list[dict]:
        """Those measured so far."""
        return self.content["rows"]

    def has(self, **key: Any) -> bool:
        """Whether a row with these entries was measured."""
        return any(key.items() <= row.items() for row in self.rows)

    def needs(self, weights: Any, **key: Any) -> bool:
        """Whether the row with these entries is missing, or of other weights and now dropped."""
        same = [row for row in self.rows if key.items() <= row.items()]
        if same and same[0]["weights"] == weights:
            return False
        self.content["rows"] = [row for row in self.rows if row not in same]
        return True

    def add(self, *rows: dict) -> None:
        """Keep these, and write."""
        self.rows.extend(rows)
        self.keep()

    def keep(self) -> None:
        """Write the file, with the circumstances of this run and the seconds of all."""
        self.content |= records.circumstances(self.started, self.command)
        self.content["duration_s"] = round(self.before + self.content["duration_s"], 1)
        self.content["commands"] = list(dict.fromkeys([*self.content["commands"], self.command]))
        records.write_json(self.path, self.content)
