"""JSON files of a run folder: written whole or not at all, lines added one by one."""

import json
import os
from pathlib import Path
from typing import Any

from episodes import UserError


def must_be_new(folder: Path, advice: str) -> None:
    """Raises `UserError` where something is in the folder already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not overwritten. {advice}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file with one on each line; the last, where a killed process cut it off, is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def add_line(path: Path, record: dict[str, Any]) -> None:
    """Adds a record as a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """All of them, or none."""
    _write(path, "".join(json.dumps(record) + "\n" for record in records))


def write_json(path: Path, values: Any) -> None:
    _write(path, json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}): it is damaged, or not of this project.") from error


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
