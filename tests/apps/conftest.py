"""What holds for the tests of all applications."""

import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The command line takes over the logging of its process."""
    logger = logging.getLogger("geovit")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """Compute in one thread, fixtures too: networks this small lose more by waiting for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return (yield)
    finally:
        torch.set_num_threads(threads)
