import pytest

from geovit.core.registry import Registry

MIXERS = Registry("mixer", {"window": 1, "stripe": 2, "scan": 3})


def test_names_keep_their_order_and_find_their_entries():
    assert [(name, MIXERS[name]) for name in MIXERS] == [("window", 1), ("stripe", 2), ("scan", 3)]
    assert len(MIXERS) == 3
    assert "scan" in MIXERS
    assert "hash" not in MIXERS


def test_a_misspelt_name_is_told_the_near_ones():
    with pytest.raises(ValueError, match=r"^unknown mixer 'strip': did you mean stripe\? allowed are window, stripe, scan$"):
        MIXERS["strip"]


def test_a_strange_name_is_told_all():
    with pytest.raises(ValueError, match=r"^unknown mixer 'xyz': allowed are window, stripe, scan$"):
        MIXERS["xyz"]


def test_later_changes_of_the_source_do_not_leak_in():
    source = {"a": 1}
    registry = Registry("thing", source)
    source["b"] = 2
    assert "b" not in registry
