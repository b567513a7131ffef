"""Asks a broker that has just been started, until it serves every partition: one Produce and one Fetch for all."""

import struct
import time

import wire
from machine import Failure
from wire import Record

LIMIT_SECONDS = 600
PAUSE_SECONDS = 0.01
FETCH_BYTES = 4096


def await_all(session, topic, partitions, started):
    """(seconds until the first answer, seconds until every partition gave back what it was given)"""
    connection, answered = None, None
    batch = wire.encode_batch([Record(None, b"served?", (), int(time.time() * 1000))], "none")
    missing, offsets = set(range(partitions)), {}
    while missing:
        if session.server.ended() or time.monotonic() - started > LIMIT_SECONDS:
            raise Failure("%d of %d partitions are not served; see %s" % (len(missing), partitions, session.server.log))
        try:
            connection = connection or wire.Connection(session.bootstrap, 60)
            connection.request(18, 0, b"")
            answered = answered or time.monotonic() - started
            unwritten = missing - set(offsets)
            offsets.update(produced(connection, topic, unwritten, batch) if unwritten else {})
            missing -= fetched(connection, topic, {partition: offsets[partition] for partition in missing & set(offsets)})
        except (OSError, wire.WireError):
            connection = None
        if missing:
            time.sleep(PAUSE_SECONDS)
    connection.close()
    return answered, time.monotonic() - started


def produced(connection, topic, partitions, batch):
    """{partition: offset} of those that took the batch."""
    rows = wire.array([struct.pack(">i", partition) + wire.data(batch) for partition in sorted(partitions)])
    body = wire.string(None) + struct.pack(">hi", -1, 30000) + wire.array([wire.string(topic) + rows])
    reader = connection.request(0, 7, body)

    def answer():
        index, code, offset = reader.i32(), reader.i16(), reader.i64()
        reader.take(16)
        return index, code, offset

    topics = reader.array(lambda: (reader.string(), reader.array(answer)))
    return {index: offset for _, answers in topics for index, code, offset in answers if code == 0}


def fetched(connection, topic, offsets):
    """The partitions that gave back a batch at their offset."""
    if not offsets:
        return set()
    rows = wire.array([struct.pack(">iqi", partition, offset, FETCH_BYTES) for partition, offset in offsets.items()])
    body = struct.pack(">iiiib", -1, 500, 1, 32 << 20, 0) + wire.array([wire.string(topic) + rows])
    reader = connection.request(1, 4, body)
    reader.i32()

    def answer():
        index, code = reader.i32(), reader.i16()
        reader.take(16)
        reader.array(lambda: reader.take(16))
        content = reader.bytes() or b""
        return index if code == 0 and content else None

    return {index for _, answers in reader.array(lambda: (reader.string(), reader.array(answer))) for index in answers
            if index is not None}
