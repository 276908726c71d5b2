"""Upstream's suites run under `make test-upstream` alone, which says where they are."""

import pytest

from upstream_sources import sources_are_given, upstream_markers

collect_ignore_glob = [] if sources_are_given() else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Upstream marks tests for its own selections; here every marker has to be declared."""
    for marker in sorted(upstream_markers()):
        config.addinivalue_line("markers", f"{marker}: of upstream's suites")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Suites that cannot be had are skipped, which is no failure, even where nothing is left to run."""
    if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and sources_are_given():
        session.exitstatus = pytest.ExitCode.OK
