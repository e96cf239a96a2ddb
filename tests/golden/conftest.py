import os

import pytest

from tests.golden.lab import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Lab:
    """One for all processes of a run."""
    base = tmp_path_factory.getbasetemp()
    return Lab((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "golden")
