"""GitHub's workflows: they parse, and the targets, files and options that they name are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
JOB_KEYS = {"name", "runs-on", "needs", "if", "permissions", "environment", "strategy", "steps"}
STEP_KEYS = {"name", "uses", "with", "run"}


def workflow(path: Path) -> dict[str, Any]:
    """`on` is true to a reader of YAML 1.1."""
    found = yaml.safe_load(path.read_text())
    return {"on" if key is True else key: value for key, value in found.items()}


def steps(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(job, step) for job in workflow(path)["jobs"].values() for step in job["steps"]]


def test_there_are_two():
    assert [path.stem for path in WORKFLOWS] == ["release", "test"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_the_form_of_one(path):
    found = workflow(path)
    assert found["on"]
    assert found["permissions"] == {"contents": "read"}
    for job in found["jobs"].values():
        assert job.keys() <= JOB_KEYS
        assert job["runs-on"] == "ubuntu-latest"
        assert job.get("needs", next(iter(found["jobs"]))) in found["jobs"]
        for step in job["steps"]:
            assert step.keys() <= STEP_KEYS
            assert ("run" in step) != ("uses" in step)
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@[\w./]+", step["uses"])
        matrix = job.get("strategy", {}).get("matrix", {})
        known = {*matrix, *(key for row in matrix.get("include", ()) for key in row)}
        assert set(re.findall(r"matrix\.(\w+)", str(job))) <= known


def test_every_version_of_python_that_the_package_names_is_tried():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    versions = [name.rpartition(" ")[2] for name in named if re.search(r"Python :: 3\.\d+$", name)]
    jobs = workflow(ROOT / ".github" / "workflows" / "test.yml")["jobs"]
    assert jobs["tested-versions"]["strategy"]["matrix"]["python"] == versions


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_calls_is_there(path):
    """A target of make, a file that may be run, or a script with options that it knows."""
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    calls = 0
    for job, step in steps(path):
        words = step.get("run", "").split()
        if words[:1] == ["make"]:
            assert set(words[1:]) <= targets
        elif words[:1] == [".ci/run"]:
            assert os.access(ROOT / words[0], os.X_OK)
        elif words[:1] == ["python"]:
            assert words[1:] == [".ci/smoke.py", "--versions", "${{", "matrix.versions", "}}"]
            shown = subprocess.run(
                [sys.executable, str(ROOT / words[1]), "--help"], capture_output=True, text=True, check=True
            )
            for version in job["strategy"]["matrix"]["versions"]:
                assert re.search(rf"--versions \{{.*\b{version}\b", shown.stdout)
        elif words:
            assert words[0] == "grep"
            tag = "v" + tomllib.loads((ROOT / words[-1]).read_text())["project"]["version"]
            for name, expected in ((tag, 0), ("v999", 1)):
                found = subprocess.run(
                    step["run"], shell=True, cwd=ROOT, env=os.environ | {"GITHUB_REF_NAME": name}
                )
                assert found.returncode == expected
        calls += bool(words)
    assert calls >= 1


def test_forms_for_issues_parse():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.stem != "config":
            assert {"name", "description", "body"} <= form.keys()
            assert all({"type", "attributes"} <= part.keys() for part in form["body"])
