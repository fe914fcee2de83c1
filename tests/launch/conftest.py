"""A checkout and a home of its own for each test."""

import pytest
from stand_ins import Place


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)
