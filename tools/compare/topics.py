"""Topics of a measurement: made before the load starts, gone before the next one."""

import struct
import time

import wire

DELETE_TOPICS, CREATE_PARTITIONS = 20, 37
PARTITIONS_PER_REQUEST = 5_000  # Kafka refuses "excessively large" ones of 10,000
NOT_YET = [3, 5, 6]  # unknown, no leader, not the leader: the broker is still making it
MAKE_SECONDS = 300


def create(bootstrap, name, partitions, settings):
    """Creates the topic and waits until every partition answers: metadata alone may name a leader too early."""
    with wire.Connection(bootstrap, MAKE_SECONDS) as connection:
        pairs = [wire.string(key) + wire.string(str(value)) for key, value in settings.items()]
        first = min(partitions, PARTITIONS_PER_REQUEST)
        body = wire.array([wire.string(name) + struct.pack(">ih", first, 1) + wire.array([]) + wire.array(pairs)])
        reader = connection.request(19, 2, body + struct.pack(">i?", MAKE_SECONDS * 1000, False))
        reader.i32()
        for _, code, message in reader.array(lambda: (reader.string(), reader.i16(), reader.string())):
            if code:
                raise wire.WireError("create topic %s: error code %d, %s" % (name, code, message))
        await_open(connection, name, first)
        for count in range(first + PARTITIONS_PER_REQUEST, partitions + PARTITIONS_PER_REQUEST, PARTITIONS_PER_REQUEST):
            grow(connection, name, min(count, partitions))


def grow(connection, name, partitions):
    """Adds partitions until there are so many."""
    body = wire.array([wire.string(name) + struct.pack(">ii", partitions, -1)])
    reader = connection.request(CREATE_PARTITIONS, 0, body + struct.pack(">i?", MAKE_SECONDS * 1000, False))
    reader.i32()
    for _, code, message in reader.array(lambda: (reader.string(), reader.i16(), reader.string())):
        if code:
            raise wire.WireError("grow topic %s: error code %d, %s" % (name, code, message))
    await_open(connection, name, partitions)


def await_open(connection, name, partitions):
    asked = wire.array([struct.pack(">iq", partition, wire.LATEST) for partition in range(partitions)])
    body = struct.pack(">i", -1) + wire.array([wire.string(name) + asked])
    end = time.monotonic() + MAKE_SECONDS
    while True:
        reader = connection.request(2, 1, body)
        answer = reader.array(
            lambda: (reader.string(), reader.array(lambda: (reader.i32(), reader.i16(), reader.i64(), reader.i64()))))
        codes = {code for _index, code, _time, _offset in answer[0][1]}
        if codes == {0}:
            return
        if not codes <= {0, *NOT_YET} or time.monotonic() > end:
            raise wire.WireError("offsets of %s: error codes %s" % (name, sorted(codes)))
        time.sleep(0.1)


def log_starts(bootstrap, name):
    """The first offset of each partition."""
    with wire.Connection(bootstrap, MAKE_SECONDS) as connection:
        return [connection.offset(name, partition, wire.EARLIEST) for partition in connection.partitions(name) or []]


def delete(bootstrap, name):
    with wire.Connection(bootstrap, MAKE_SECONDS) as connection:
        body = wire.array([wire.string(name)]) + struct.pack(">i", MAKE_SECONDS * 1000)
        reader = connection.request(DELETE_TOPICS, 1, body)
        reader.i32()
        for _, code in reader.array(lambda: (reader.string(), reader.i16())):
            if code:
                raise wire.WireError("delete topic %s: error code %d" % (name, code))
