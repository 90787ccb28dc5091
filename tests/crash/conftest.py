"""The laboratory's processes are measured by nothing but the laboratory."""

import pytest


@pytest.fixture(autouse=True)
def _no_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its own system calls would be counted, struck and traced among those of the store.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
