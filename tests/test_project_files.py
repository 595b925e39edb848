"""Files that only GitHub and other people's tools read, which nothing here would notice to be broken."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).parents[1]
FILES = [*sorted((TOP / ".github").rglob("*.yml")), TOP / ".pre-commit-config.yaml", TOP / "CITATION.cff"]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TOP)))
def test_it_is_yaml(file: Path) -> None:
    yaml.safe_load(file.read_text(encoding="utf-8"))


def test_workflows_call_what_there_is() -> None:
    for file in sorted((TOP / ".github/workflows").glob("*.yml")):
        jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
        lines = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
        for script in re.findall(r"bash (\S+)", "\n".join(lines)):
            assert (TOP / script).is_file(), script
        for module in re.findall(r"python -m (tests[\w.]*)", "\n".join(lines)):
            assert (TOP / module.replace(".", "/") / "__main__.py").is_file(), module


def test_forms_are_forms() -> None:
    for name in ("bug.yml", "method.yml"):
        form = yaml.safe_load((TOP / ".github/ISSUE_TEMPLATE" / name).read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form)
        names = [field["id"] for field in form["body"]]
        assert len(names) == len(set(names))
        assert all(field["type"] in ("input", "textarea") and field["attributes"]["label"] for field in form["body"])


def test_versions_agree() -> None:
    citation = yaml.safe_load((TOP / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    tested = yaml.safe_load((TOP / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    versions = tested["jobs"]["test"]["strategy"]["matrix"]["python"]
    listed = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python :: 3." in each]
    assert versions == listed
