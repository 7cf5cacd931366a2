"""Event files as TensorBoard reads them: TFRecord frames around `Event` messages, written by hand.

The format is small and frozen (tensorflow/core/lib/io/record_writer.cc, tensorflow/core/util/event.proto), and the
packages that write it are large. Only scalars are written; knows no jobs and no database.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

_VERSION = b"brain.Event:2"
_BATCH = 500  # records whose checksums are computed together
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_MASK_DELTA = 0xA282EAD8  # record_writer.cc: a checksum of data that holds checksums would be weak, so it is masked


def file_name(*, started_at: float, name: str) -> str:
    """A name that TensorBoard takes for an event file."""
    return f"events.out.tfevents.{int(started_at):010d}.{name}"


def event_file(rows: Iterable[tuple[float, int, Mapping[str, float]]], *, started_at: float) -> Iterator[bytes]:
    """The bytes of an event file, in pieces.

    Args:
        rows: (seconds since 1970, step, value by tag); started_at: likewise, of the file.
    """
    yield from _frames([_double(1, started_at) + _bytes(3, _VERSION)])
    messages = (_event(moment, step, values) for moment, step, values in rows)
    while batch := list(islice(messages, _BATCH)):
        yield from _frames(batch)


# --- messages ---------------------------------------------------------------------------------------------------------


def _event(moment: float, step: int, values: Mapping[str, float]) -> bytes:
    """Event{wall_time = 1, step = 2, summary = 5{value = 1{tag = 1, simple_value = 2}}}."""
    summary = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in values.items())
    return _double(1, moment) + b"\x10" + _varint(step) + _bytes(5, summary)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    try:
        data = struct.pack("<f", value)
    except OverflowError:  # no float32 is so large
        data = struct.pack("<f", math.copysign(math.inf, value))
    return bytes([field << 3 | 5]) + data


# --- frames -----------------------------------------------------------------------------------------------------------


def _frames(records: Sequence[bytes]) -> Iterator[bytes]:
    """Length, its checksum, the record, its checksum."""
    lengths = [struct.pack("<Q", len(record)) for record in records]
    of_lengths, of_records = (_masked(crc32c(parts)).astype("<u4") for parts in (lengths, records))
    yield b"".join(
        piece
        for i, record in enumerate(records)
        for piece in (lengths[i], of_lengths[i].tobytes(), record, of_records[i].tobytes())
    )


def _masked(crc: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Rotated right by 15 bits, plus a constant; the sum wraps."""
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(_MASK_DELTA)


def _table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> np.uint32(1) ^ np.uint32(_POLYNOMIAL), table >> np.uint32(1))
    return table.astype(np.uint32)


_TABLE = _table()


def crc32c(records: Sequence[bytes]) -> NDArray[np.uint32]:
    """CRC-32C of each record. Byte by byte, but of all records at once: pure Python alone would take minutes."""
    lengths = np.array([len(record) for record in records])
    data = np.zeros((int(lengths.max(initial=0)), len(records)), dtype=np.uint8)  # [bytes, records]
    for i, record in enumerate(records):
        data[: len(record), i] = np.frombuffer(record, dtype=np.uint8)
    crc = np.full(len(records), 0xFFFFFFFF, dtype=np.uint32)
    for place, column in enumerate(data):
        fed = _TABLE[(crc ^ column) & np.uint32(0xFF)] ^ crc >> np.uint32(8)
        crc = np.where(place < lengths, fed, crc)
    return crc ^ np.uint32(0xFFFFFFFF)
