"""Events are counted by the heads of Kafka's record batches."""

from __future__ import annotations

import struct

from bench.events import Partition, batches


def batch(base: int, records: int, *, producer: int = 7, attributes: int = 0x10) -> bytes:
    """A record batch of version 2 as Kafka writes it; what it carries does not matter here."""
    rest = struct.pack(">ibIhiqqqhii", 0, 2, 0, attributes, records - 1, 0, 0, producer, 0, 0, records) + b"records"
    return struct.pack(">qi", base, len(rest)) + rest


def test_committed_records_count_and_markers_do_not() -> None:
    partition = Partition(offset=0)

    count = partition.take(batch(0, 3) + batch(3, 1, attributes=0x30) + batch(4, 2, producer=-1, attributes=0), [])

    assert count == 5
    assert partition.offset == 6
    assert [each.records for each in partition.committed] == [3, 2]


def test_aborted_records_do_not_count_until_their_marker() -> None:
    partition = Partition(offset=0)
    aborted = batch(0, 3) + batch(3, 1, attributes=0x30)
    committed = batch(4, 2) + batch(6, 1, attributes=0x30)

    assert partition.take(aborted + committed, [(7, 0)]) == 2
    assert partition.offset == 7


def test_a_batch_that_was_cut_off_is_left_for_the_next_fetch() -> None:
    partition = Partition(offset=0)
    whole = batch(0, 3)

    assert partition.take(whole + batch(3, 4)[:-1], []) == 3
    assert partition.offset == 3
    assert len(list(batches(whole[:40]))) == 0


def test_a_batch_that_is_known_already_does_not_count_again() -> None:
    partition = Partition(offset=2)

    assert partition.take(batch(0, 2) + batch(2, 2), []) == 2
