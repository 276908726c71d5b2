"""The files for contributors agree with the project: versions of Python and of tools, make targets, extras, paths."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
GITHUB = REPOSITORY / ".github"
if not GITHUB.is_dir():
    pytest.skip("This tree has no .github: it is not a checkout.", allow_module_level=True)


def read(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


@pytest.fixture
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def test_the_workflow_runs_the_same_script_and_every_python_that_the_package_names(setup):
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    assert "bash .ci/run" in [step.get("run") for step in jobs["all"]["steps"]]
    tested = jobs["fast"]["strategy"]["matrix"]["python-version"]
    named = re.findall(r"Python :: (3\.\d+)$", setup["metadata"]["classifiers"], re.MULTILINE)
    assert tested == named
    assert setup["options"]["python_requires"] == f">={named[0]}"
    assert f"Python {named[0]} to {named[-1]}" in read("CONTRIBUTING.md")


def test_make_targets_of_the_guide_and_of_the_workflows_exist():
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    texts = [read("CONTRIBUTING.md"), read(".ci/run"), *(path.read_text() for path in GITHUB.rglob("*.yml"))]
    texts.append(read(".github/PULL_REQUEST_TEMPLATE.md"))
    used = set(re.findall(r"(?:^|`|run: )make ([\w-]+)", "\n".join(texts), re.MULTILINE))
    assert used >= {"quality", "test", "test-fast", "dist-check"} and used <= targets


def test_pre_commit_uses_the_pinned_version_of_each_tool():
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert {"ruff-check", "ruff-format"} <= {hook["id"] for hook in hooks}
    pinned = dict(
        line.split("==") for line in read("constraints.txt").splitlines() if "==" in line and ";" not in line
    )
    for hook in hooks:
        for requirement in hook["additional_dependencies"]:
            tool, _, version = requirement.partition("==")
            assert version and pinned.get(tool, version) == version


def test_the_dockerfile_copies_what_is_there_and_installs_extras_that_exist(setup):
    text = read("Dockerfile")
    sent = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (REPOSITORY / source).exists() and source in sent
    (extras,) = re.findall(r"/source\[([\w,]+)\]", text)
    assert {"train"} <= set(extras.split(",")) <= set(setup["options.extras_require"])


@pytest.mark.parametrize("form", ["bug_report", "feature_request", "numbers_differ"])
def test_issue_forms_have_what_github_requires(form):
    content = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{form}.yml"))
    assert content["name"] and content["description"] and content["body"]
    names = [element["id"] for element in content["body"]]
    assert len(names) == len(set(names))
    for element in content["body"]:
        assert element["type"] in {"textarea", "input", "dropdown", "checkboxes"} and element["attributes"]["label"]
    assert any(element.get("validations", {}).get("required") for element in content["body"])
