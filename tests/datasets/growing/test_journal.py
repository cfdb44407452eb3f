import math

import pytest

from geovit.datasets.growing.journal import DamagedJournalError, Journal, differences

ENTRIES = [{"job": {"a": 1, "names": ["ä", "ß"]}}, {"facts": {"x": 0.1 + 0.2, "y": 5e-324, "z": math.nan}}, {"part": 2}]


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal")
    for entry in ENTRIES:
        journal.append(entry)
    journal.sync()
    journal.close()
    return tmp_path / "journal"


def test_numbers_come_back_exactly(journal):
    entries = Journal.read(journal)
    assert entries[0] == ENTRIES[0]
    assert (entries[1]["facts"]["x"], entries[1]["facts"]["y"]) == (0.1 + 0.2, 5e-324)
    assert math.isnan(entries[1]["facts"]["z"])


def test_torn_anywhere_the_lines_before_stay_and_more_can_follow(journal):
    whole = journal.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole)):
        journal.write_bytes(whole[:length])
        torn = Journal(journal)
        assert len(torn.entries) == sum(end <= length for end in ends)
        torn.append({"more": 1})
        torn.close()
        assert Journal.read(journal)[-1] == {"more": 1}


def test_a_tail_of_zeros_is_dropped(journal):
    journal.write_bytes(journal.read_bytes() + bytes(4096))
    assert len(Journal.read(journal)) == 3


def test_a_change_of_any_byte_before_the_last_line_is_noticed(journal):
    whole = journal.read_bytes()
    for index in range(whole.rindex(b"\n", 0, -1)):
        changed = bytearray(whole)
        changed[index] ^= 4
        journal.write_bytes(changed)
        with pytest.raises(DamagedJournalError):
            Journal.read(journal)


def test_differences_are_told_by_name():
    one = {"a": {"b": 1, "c": [1, 2]}, "d": "x" * 100, "same": 0.1}
    other = {"a": {"b": 1.0, "c": [1, 3]}, "d": "y", "same": 0.1, "new": None, "more": 2}
    told = differences(one, other)
    assert told[:2] == ["a.b: 1, now 1.0", "a.c: [1, 2], now [1, 3]"]
    assert told[2].endswith('..., now "y"')
    assert told[3:] == ["more: null, now 2"]
    assert differences(one, dict(one)) == []
