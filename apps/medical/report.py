"""What became of the images that were segmented."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Group
from rich.table import Table

_COLUMNS = 6  # classes that have columns in the table; more have lines


@dataclass(frozen=True)
class Row:
    """What became of a case.

    Args:
        name: of the case.
        output: its label map.
        status: "written", "skipped" because it exists, or "failed".
        reason: why it failed.
        volumes: millilitres of each class in the label map, by name.
        seconds: by stage.
    """

    name: str
    output: Path
    status: Literal["written", "skipped", "failed"]
    reason: str = ""
    volumes: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Report:
    """What became of all cases."""

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """2 if a case failed, else 0."""
        return 2 if any(row.status == "failed" for row in self.rows) else 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON would hold it."""
        cases = [
            {
                "name": row.name,
                "output": str(row.output),
                "status": row.status,
                **({"reason": row.reason} if row.reason else {}),
                "millilitres": dict(row.volumes),
                "seconds": {stage: round(seconds, 3) for stage, seconds in row.seconds.items()},
            }
            for row in self.rows
        ]
        return {**self.settings, "cases": cases}

    def __rich__(self) -> Group:
        """A line for each case, or each of its classes if there are many; then what failed."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("label map", no_wrap=True)
        wide = len(self.classes) <= _COLUMNS
        if wide:
            for name in self.classes:
                table.add_column(f"{name} ml", justify="right")
        else:
            table.add_column("class")
            table.add_column("ml", justify="right")
        table.add_column("seconds", justify="right")
        for row in self.rows:
            if row.status == "written":
                self._add(table, row, wide)
        skipped = [row for row in self.rows if row.status == "skipped"]
        failed = [row for row in self.rows if row.status == "failed"]
        parts: list[Any] = [table] if len(skipped) + len(failed) < len(self.rows) else []
        if skipped:
            parts.append(f"{len(skipped)} of {len(self.rows)} exist and were skipped: pass --overwrite to make them anew")
        if failed:
            parts.append(f"{len(failed)} of {len(self.rows)} failed:")
        return Group(*parts, *(f"  {row.name}: {row.reason}" for row in failed))

    def _add(self, table: Table, row: Row, wide: bool) -> None:
        seconds = f"{sum(row.seconds.values()):.1f}"
        if wide:
            table.add_row(str(row.output), *(f"{row.volumes[name]:.2f}" for name in self.classes), seconds)
            return
        found = [(name, f"{row.volumes[name]:.2f}") for name in self.classes if row.volumes[name]] or [("nothing", "0")]
        for index, (name, millilitres) in enumerate(found):
            table.add_row("" if index else str(row.output), name, millilitres, "" if index else seconds)
