"""Reads and writes record batches byte by byte, and the few requests that the checks need.

It shares no code with any client under test, so it can judge them: it makes the topics that clients
read, and reads what clients wrote, batch header by batch header (codec, producer id, sequence, CRC).
Blocking, one connection, old fixed versions of the protocol without tagged fields.
Needs the modules cramjam and lz4 (compression) and crc32c.
"""

import gzip
import socket
import struct
import threading
import time

import cramjam
import crc32c
import lz4.frame

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
EARLIEST = -2
LATEST = -1
XERIAL = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)


class Record:
    """One record as a client sees it; two records are equal when everything a client sees is."""

    def __init__(self, key, value, headers=(), timestamp=0, partition=0, offset=0):
        self.key, self.value, self.headers = key, value, tuple(headers)
        self.timestamp, self.partition, self.offset = timestamp, partition, offset

    def fields(self):
        return (self.partition, self.offset, self.timestamp, self.key, self.value, self.headers)

    def __eq__(self, other):
        return self.fields() == other.fields()

    def __repr__(self):
        return "record(partition %d, offset %d, timestamp %d, key %.60r, value %.60r, headers %r)" % self.fields()


class Batch:
    """The header of one record batch, and its records."""

    def __init__(self, codec, producer_id, producer_epoch, base_sequence, records):
        self.codec, self.producer_id, self.producer_epoch = codec, producer_id, producer_epoch
        self.base_sequence, self.records = base_sequence, records


class WireError(Exception):
    """The broker answered with an error code, or with bytes that are no answer."""


class Reader:
    """Takes big-endian values from the front of some bytes."""

    def __init__(self, data):
        self.data, self.position = data, 0

    def take(self, count):
        taken = self.data[self.position : self.position + count]
        if len(taken) != count:
            raise WireError("%d bytes expected at %d, %d there" % (count, self.position, len(taken)))
        self.position += count
        return taken

    def left(self):
        return len(self.data) - self.position

    def number(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def i8(self):
        return self.number("b")

    def i16(self):
        return self.number("h")

    def i32(self):
        return self.number("i")

    def i64(self):
        return self.number("q")

    def string(self):
        size = self.i16()
        return None if size < 0 else self.take(size).decode()

    def bytes(self):
        size = self.i32()
        return None if size < 0 else self.take(size)

    def array(self, element):
        return [element() for _ in range(max(self.i32(), 0))]

    def varint(self):
        shift = value = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)

    def varbytes(self):
        size = self.varint()
        return None if size < 0 else self.take(size)


def string(text):
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(text.encode())) + text.encode()


def data(content):
    return struct.pack(">i", -1) if content is None else struct.pack(">i", len(content)) + content


def array(elements):
    return struct.pack(">i", len(elements)) + b"".join(elements)


def varint(value):
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varbytes(content):
    return varint(-1) if content is None else varint(len(content)) + content


def compress(codec, content):
    if codec == "gzip":
        return gzip.compress(content)
    if codec == "snappy":
        block = bytes(cramjam.snappy.compress_raw(content))
        return XERIAL + data(block)
    if codec == "lz4":
        return lz4.frame.compress(content, block_linked=False)  # Java reads no linked blocks
    if codec == "zstd":
        return bytes(cramjam.zstd.compress(content))
    return content


def decompress(codec, content):
    if codec == "gzip":
        return gzip.decompress(content)
    if codec == "snappy" and content.startswith(XERIAL[:8]):
        reader, blocks = Reader(content[16:]), []
        while reader.left():
            blocks.append(bytes(cramjam.snappy.decompress_raw(reader.bytes())))
        return b"".join(blocks)
    if codec == "snappy":
        return bytes(cramjam.snappy.decompress_raw(content))
    if codec == "lz4":
        return lz4.frame.decompress(content)
    if codec == "zstd":
        return bytes(cramjam.zstd.decompress(content))
    return content


def encode_batch(records, codec, producer_id=-1, producer_epoch=-1, base_sequence=-1):
    first = records[0].timestamp
    body = b""
    for delta, record in enumerate(records):
        headers = b"".join(varbytes(name.encode()) + varbytes(value) for name, value in record.headers)
        encoded = b"\0" + varint(record.timestamp - first) + varint(delta)
        encoded += varbytes(record.key) + varbytes(record.value) + varint(len(record.headers)) + headers
        body += varint(len(encoded)) + encoded
    checked = struct.pack(">hiqq", CODECS.index(codec), len(records) - 1, first, max(r.timestamp for r in records))
    checked += struct.pack(">qhii", producer_id, producer_epoch, base_sequence, len(records)) + compress(codec, body)
    return struct.pack(">qiibI", 0, len(checked) + 9, -1, 2, crc32c.crc32c(checked)) + checked


def decode_batches(content, partition):
    """Every whole batch in `content`; bytes of a cut last batch are left out, as a client leaves them."""
    batches, reader = [], Reader(content)
    while reader.left() >= 12:
        base_offset, length = reader.i64(), reader.i32()
        if reader.left() < length:
            break
        batch = Reader(reader.take(length))
        _leader_epoch, magic, crc = batch.i32(), batch.i8(), batch.number("I")
        if magic != 2:
            raise WireError("batch at offset %d has magic %d" % (base_offset, magic))
        if crc32c.crc32c(batch.data[batch.position :]) != crc:
            raise WireError("batch at offset %d: CRC does not match" % base_offset)
        attributes, _last_delta, first, max_timestamp = batch.i16(), batch.i32(), batch.i64(), batch.i64()
        codec, append_time = CODECS[attributes & 7], attributes & 8
        producer_id, epoch, sequence, count = batch.i64(), batch.i16(), batch.i32(), batch.i32()
        inner, records = Reader(decompress(codec, batch.take(batch.left()))), []
        for _ in range(count):
            record = Reader(inner.take(inner.varint()))
            record.i8()
            timestamp = max_timestamp if append_time else first + record.varint()
            if append_time:
                record.varint()
            offset, key, value = base_offset + record.varint(), record.varbytes(), record.varbytes()
            headers = [(record.varbytes().decode(), record.varbytes()) for _ in range(record.varint())]
            records.append(Record(key, value, headers, timestamp, partition, offset))
        if inner.left():
            raise WireError("batch at offset %d: %d bytes after its last record" % (base_offset, inner.left()))
        batches.append(Batch(codec, producer_id, epoch, sequence, records))
    return batches


class Connection:
    """One connection to a broker. Every method raises WireError on an error code."""

    def __init__(self, bootstrap, timeout=30):
        host, port = bootstrap.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout)
        self.lock = threading.Lock()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def request(self, key, version, body):
        with self.lock:
            frame = struct.pack(">hhi", key, version, 7) + string("check") + body
            self.socket.sendall(data(frame))
            size = struct.unpack(">i", self.receive(4))[0]
            reader = Reader(self.receive(size))
            reader.i32()
            return reader

    def receive(self, count):
        received = bytearray()
        while len(received) < count:
            part = self.socket.recv(count - len(received))
            if not part:
                raise WireError("the broker closed the connection")
            received += part
        return bytes(received)

    def retry(self, attempt, codes, seconds=20):
        """Repeats `attempt`, which returns (code, result), while the code is one of `codes`."""
        end = time.monotonic() + seconds
        while True:
            code, result = attempt()
            if code == 0:
                return result
            if code not in codes or time.monotonic() > end:
                raise WireError("error code %d" % code)
            time.sleep(0.1)

    # --- topics ---------------------------------------------------------------------------------

    def create_topic(self, topic, partitions, **configs):
        """Creates the topic and waits until every partition has a leader. `configs` with _ for the dots."""
        pairs = [string(name.replace("_", ".")) + string(str(value)) for name, value in configs.items()]
        body = array([string(topic) + struct.pack(">ih", partitions, 1) + array([]) + array(pairs)])
        reader = self.request(19, 2, body + struct.pack(">i?", 20000, False))
        reader.i32()
        for _, code, message in reader.array(lambda: (reader.string(), reader.i16(), reader.string())):
            if code:
                raise WireError("create topic %s: error code %d, %s" % (topic, code, message))
        self.retry(lambda: (0 if len(self.partitions(topic) or []) == partitions else 5, None), [5])

    def metadata(self, topic=None):
        topics = struct.pack(">i", -1) if topic is None else array([string(topic)])
        reader = self.request(3, 4, topics + b"\0")
        reader.i32()
        brokers = reader.array(lambda: (reader.i32(), reader.string(), reader.i32(), reader.string()))
        cluster, _controller = reader.string(), reader.i32()

        def partition():
            code, index, leader = reader.i16(), reader.i32(), reader.i32()
            reader.array(reader.i32)
            reader.array(reader.i32)
            return code, index, leader

        topics = reader.array(lambda: (reader.i16(), reader.string(), reader.i8(), reader.array(partition)))
        return cluster, brokers, topics

    def partitions(self, topic):
        """The partitions of the topic that have a leader, or None if there is no such topic."""
        for code, _name, _internal, partitions in self.metadata(topic)[2]:
            if code == 0:
                return sorted(index for code, index, _leader in partitions if code == 0)
            if code not in (3, 5):
                raise WireError("metadata of %s: error code %d" % (topic, code))
        return None

    def offset(self, topic, partition, timestamp):
        return self.lookup(topic, partition, timestamp)[1]

    def lookup(self, topic, partition, timestamp):
        """(timestamp, offset) of the first record that is not older; (-1, -1) if there is none."""
        body = struct.pack(">i", -1) + array([string(topic) + array([struct.pack(">iq", partition, timestamp)])])

        def attempt():
            reader = self.request(2, 1, body)
            answer = reader.array(
                lambda: (reader.string(), reader.array(lambda: (reader.i32(), reader.i16(), reader.i64(), reader.i64())))
            )
            _index, code, found, offset = answer[0][1][0]
            return code, (found, offset)

        return self.retry(attempt, [3, 5, 6])

    def config(self, topic, name):
        """The value of one setting of the topic, and whether the topic itself sets it."""
        body = array([struct.pack(">b", 2) + string(topic) + array([string(name)])])
        reader = self.request(32, 1, body + b"\0")
        reader.i32()
        code, message = (reader.i32() and reader.i16()), reader.string()
        if code:
            raise WireError("describe configs of %s: error code %d, %s" % (topic, code, message))
        reader.i8()
        reader.string()
        if reader.i32() < 1:
            raise WireError("describe configs of %s: no %s" % (topic, name))
        _name, value, _read_only, source = reader.string(), reader.string(), reader.i8(), reader.i8()
        return value, source == 1

    # --- records --------------------------------------------------------------------------------

    def new_producer(self):
        """{producer_id, producer_epoch} of a new idempotent producer."""
        def attempt():
            reader = self.request(22, 0, string(None) + struct.pack(">i", 60000))
            reader.i32()
            return reader.i16(), {"producer_id": reader.i64(), "producer_epoch": reader.i16()}

        return self.retry(attempt, [14, 15, 16])

    def append(self, topic, partition, records, codec="none", **producer):
        """Appends one batch with acks=all and returns its base offset."""
        batch = data(encode_batch(records, codec, **producer))
        partitions = array([struct.pack(">i", partition) + batch])
        body = string(None) + struct.pack(">hi", -1, 20000) + array([string(topic) + partitions])

        def attempt():
            reader = self.request(0, 7, body)

            def answer():
                index, code, base_offset = reader.i32(), reader.i16(), reader.i64()
                reader.i64()
                reader.i64()
                return index, code, base_offset

            _index, code, base_offset = reader.array(lambda: (reader.string(), reader.array(answer)))[0][1][0]
            return code, base_offset

        return self.retry(attempt, [3, 5, 6])

    def fetch(self, topic, partition, offset):
        """(high watermark, bytes of record batches) from `offset` on."""
        wanted = array([struct.pack(">iqi", partition, offset, 8 << 20)])
        body = struct.pack(">iiiib", -1, 500, 1, 8 << 20, 0) + array([string(topic) + wanted])
        reader = self.request(1, 4, body)
        reader.i32()

        def answer():
            reader.i32()
            code, high_watermark, _stable = reader.i16(), reader.i64(), reader.i64()
            reader.array(lambda: (reader.i64(), reader.i64()))
            return code, high_watermark, reader.bytes() or b""

        code, high_watermark, content = reader.array(lambda: (reader.string(), reader.array(answer)))[0][1][0]
        if code:
            raise WireError("fetch of %s-%d at %d: error code %d" % (topic, partition, offset, code))
        return high_watermark, content

    def read_partition(self, topic, partition):
        """Every batch from the log start to the end that was the end when this began."""
        offset, end = self.offset(topic, partition, EARLIEST), self.offset(topic, partition, LATEST)
        batches = []
        stop = time.monotonic() + 60
        while offset < end:
            _, content = self.fetch(topic, partition, offset)
            for batch in decode_batches(content, partition):
                if batch.records[-1].offset >= offset:
                    batches.append(batch)
                    offset = batch.records[-1].offset + 1
            if time.monotonic() > stop:
                raise WireError("%s-%d: no record at offset %d, end is %d" % (topic, partition, offset, end))
        return batches

    def read(self, topic):
        """Every batch of every partition of the topic."""
        return [b for partition in self.partitions(topic) or [] for b in self.read_partition(topic, partition)]

    # --- groups ---------------------------------------------------------------------------------

    def await_coordinator(self, group):
        def attempt():
            return self.request(10, 0, string(group)).i16(), None

        self.retry(attempt, [14, 15, 16])

    def commit(self, group, topic, offsets):
        """Commits `offsets` {partition: offset} for a group that has no members."""
        self.await_coordinator(group)
        rows = array([struct.pack(">iq", p, o) + string("by hand") for p, o in offsets.items()])
        body = string(group) + struct.pack(">i", -1) + string("") + struct.pack(">q", -1)

        def attempt():
            reader = self.request(8, 2, body + array([string(topic) + rows]))
            topics = reader.array(lambda: (reader.string(), reader.array(lambda: (reader.i32(), reader.i16()))))
            return max(code for _, partitions in topics for _, code in partitions), None

        self.retry(attempt, [14, 15, 16])

    def committed(self, group, topic, partitions):
        """{partition: committed offset}, without the partitions that have none."""
        self.await_coordinator(group)
        body = string(group) + array([string(topic) + array([struct.pack(">i", p) for p in partitions])])
        reader = self.request(9, 1, body)

        def partition():
            index, offset, _metadata, code = reader.i32(), reader.i64(), reader.string(), reader.i16()
            if code:
                raise WireError("offset fetch of %s: error code %d" % (group, code))
            return index, offset

        topics = reader.array(lambda: (reader.string(), reader.array(partition)))
        return {index: offset for _, answers in topics for index, offset in answers if offset >= 0}

    def groups(self):
        """The ids of all groups."""
        reader = self.request(16, 1, b"")
        reader.i32()
        code = reader.i16()
        if code:
            raise WireError("list groups: error code %d" % code)
        return [group for group, _type in reader.array(lambda: (reader.string(), reader.string()))]


class Member:
    """One member of a group of its own, with all partitions of one topic, until it is closed."""

    def __init__(self, bootstrap, group, topic, partitions):
        self.connection, self.group = Connection(bootstrap), group
        self.stopped = threading.Event()
        self.connection.await_coordinator(group)
        subscription = struct.pack(">h", 0) + array([string(topic)]) + data(None)
        join = struct.pack(">ii", 30000, 30000) + string("") + string("consumer")
        reader = self.connection.request(11, 2, string(group) + join + array([string("range") + data(subscription)]))
        reader.i32()
        code, self.generation, _protocol, _leader, self.member = (
            reader.i16(), reader.i32(), reader.string(), reader.string(), reader.string())
        if code:
            raise WireError("join of %s: error code %d" % (group, code))
        owned = array([struct.pack(">i", p) for p in partitions])
        assignment = struct.pack(">h", 0) + array([string(topic) + owned]) + data(None)
        reader = self.connection.request(14, 1, self.identity() + array([string(self.member) + data(assignment)]))
        reader.i32()
        code = reader.i16()
        if code:
            raise WireError("sync of %s: error code %d" % (group, code))
        self.thread = threading.Thread(target=self.beat, daemon=True)
        self.thread.start()

    def identity(self):
        return string(self.group) + struct.pack(">i", self.generation) + string(self.member)

    def beat(self):
        while not self.stopped.wait(3):
            self.connection.request(12, 1, self.identity())

    def close(self):
        self.stopped.set()
        self.thread.join()
        self.connection.request(13, 1, string(self.group) + string(self.member))
        self.connection.close()
