"""One writer of JSON: what is no number in JSON is null."""

from __future__ import annotations

import ast
import datetime
import io
import json
from pathlib import Path

import funnelformer
from funnelformer.base.strict_json import dump_json, json_line, json_text, write_json

SOURCES = Path(funnelformer.__file__).parent
NAN = float("nan")


def test_what_is_not_finite_is_null(tmp_path):
    value = {"a": NAN, "b": [1.5, float("inf"), (float("-inf"), {"c": NAN})], "d": "NaN"}
    wanted = {"a": None, "b": [1.5, None, [None, {"c": None}]], "d": "NaN"}
    assert json.loads(json_text(value)) == wanted
    assert json_text({"a": 1.5}) == '{"a": 1.5}'
    file = io.StringIO()
    dump_json(value, file)
    assert json.loads(file.getvalue()) == wanted
    assert file.getvalue().startswith('{\n  "a"')
    write_json(tmp_path / "x" / "a.json", value)
    assert json.loads((tmp_path / "x" / "a.json").read_text()) == wanted


def test_a_line():
    row = {"text": "é\n", "day": datetime.date(2026, 1, 2), "x": NAN}
    assert json_line(row) == '{"text": "é\\n", "day": "2026-01-02", "x": null}\n'


def test_nothing_else_writes_json():
    found = []
    for file in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            writes = isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.dump", "json.dumps")
            name = file.relative_to(SOURCES).as_posix()
            if writes and name != "base/strict_json.py":
                found.append(f"{name}:{node.lineno}")
    assert found == []
