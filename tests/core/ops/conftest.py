import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    """Give every test the same random numbers, in whatever order and company it runs."""
    torch.manual_seed(0)
