"""Fixtures, and the rule about skipping: where CI is set, only a missing ../shared/data excuses a test."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from llm_expo.testing import tiny_pair

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A tiny float32 pair: the folders of theta0 and theta1."""
    return tiny_pair(tmp_path)


@pytest.fixture
def shared_data() -> Path:
    """Public data beside the project, for tests that check it against something it did not make."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is absent")
    return SHARED_DATA


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.skipped and os.environ.get("CI") and "../shared/data" not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped where it ought to have run: {report.longrepr}"
    return report
