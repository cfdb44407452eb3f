"""What holds for the tests of all applications."""

import pytest
import torch


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """Compute in one thread, fixtures too: networks this small lose more by waiting for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return (yield)
    finally:
        torch.set_num_threads(threads)
