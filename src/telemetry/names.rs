//! Every metric of the broker: name, help, and how shards add up to the total.
//!
//! Pure: no async, no clock, no IO.
//! Names follow Prometheus: base units (bytes, seconds), counters without `_total` here, because
//! `exposition.rs` appends it.

macro_rules! metrics {
    ($(#[$doc:meta])* $table:ident { $($variant:ident, $name:literal, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $table {
            $(#[doc = $help] $variant,)*
        }

        impl $table {
            /// Every one, in the order of the text.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its name in the text.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("corelog_", $name),)*
                }
            }

            /// Its help in the text.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $help,)*
                }
            }

            /// Its place in a shard's table.
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

metrics! {
    /// Only grow; the total is the sum.
    Counter {
        ConnectionsAccepted, "connections_accepted", "Connections accepted since the start";
        ConnectionsRefused, "connections_refused",
            "Connections closed for what they sent, or beyond a limit of connections";
        BytesReceived, "received_bytes", "Bytes of requests read from clients";
        BytesSent, "sent_bytes", "Bytes of responses written to clients";
        ProducedBatches, "produced_batches", "Record batches appended for producers";
        ProducedRecords, "produced_records", "Records appended for producers";
        ProducedBytes, "produced_bytes", "Bytes of record batches appended for producers";
        DuplicateBatches, "duplicate_batches", "Record batches that were already in the log";
        RefusedBatches, "refused_batches", "Record batches refused with an error";
        RecompressedBatches, "recompressed_batches", "Record batches compressed anew by the broker";
        FetchedMemoryBytes, "fetched_memory_bytes", "Bytes of records sent from the tail in memory";
        FetchedFileBytes, "fetched_file_bytes", "Bytes of records sent from segment files";
        MeshCalls, "mesh_calls", "Calls from this shard to another one";
        Commits, "commits", "Durable journal writes";
        JournalBytes, "journal_written_bytes", "Bytes written to the journal, padding included";
        DestagedBytes, "destaged_bytes", "Bytes written from the tail to segment files";
        SegmentsRolled, "segments_rolled", "Segments sealed";
        SegmentsReused, "segments_reused", "Segments that took the blocks of a deleted one";
        SegmentsDeleted, "segments_deleted", "Segments deleted by retention or DeleteRecords";
        ScrubbedBytes, "scrubbed_bytes", "Bytes of sealed segments read to look for damage";
        ScrubbedSegments, "scrubbed_segments", "Sealed segments looked through for damage";
        ScrubDamages, "scrub_damage_found",
            "Damaged stretches of sealed segments found, in every pass anew";
        Rebalances, "group_rebalances", "Rebalances of consumer groups completed";
        LoopStalls, "loop_stalls", "Times that one task held the shard's loop for 50 ms or more";
        LoopStallMicros, "loop_stall_microseconds",
            "Time that tasks held the shard's loop in such stalls";
    }
}

metrics! {
    /// Go up and down; the total is the sum, or the maximum where `Gauge::is_maximum` says so.
    Gauge {
        Connections, "connections", "Open connections";
        Partitions, "partitions", "Partitions whose home is this shard";
        Groups, "groups", "Consumer groups coordinated on this shard";
        Producers, "producers",
            "Idempotent producers remembered, once for each partition they write";
        InFlightRequests, "in_flight_requests", "Requests read and not yet answered";
        FetchSessions, "fetch_sessions", "Fetch sessions of consumers";
        FetchSessionPartitions, "fetch_session_partitions", "Partitions in all fetch sessions";
        WaitingFetches, "waiting_fetches", "Fetches waiting for data";
        JournalUsedBytes, "journal_used_bytes", "Bytes of the journal that are not free for reuse";
        JournalCapacityBytes, "journal_capacity_bytes", "Size of the journal";
        JournalWritesInFlightMax, "journal_writes_in_flight_max",
            "Most journal writes at a time since the start";
        OpenFiles, "open_segment_files", "Open segment and index files";
        DeletedWaitingBytes, "deleted_waiting_bytes",
            "Bytes of deleted segments that are not given back to the file system yet";
        DiskFull, "disk_full", "1 while appends are refused because the disk is full";
        OfflinePartitions, "offline_partitions", "Partitions offline after an error";
        DamagedPartitions, "damaged_partitions",
            "Partitions with damage in a sealed segment, served but for that";
        LoopLongestMicros, "loop_longest_hold_microseconds",
            "Longest time that one task held the shard's loop";
    }
}

impl Gauge {
    /// Whether the total over shards is the maximum and not the sum.
    pub const fn is_maximum(self) -> bool {
        matches!(
            self,
            Self::LoopLongestMicros | Self::DiskFull | Self::JournalWritesInFlightMax
        )
    }
}

metrics! {
    /// Values with quantiles over the last one to two minutes; the total merges the shards' values.
    Summary {
        FlushLatency, "flush_latency_seconds", "Time of one durable journal write";
        CommitBytes, "commit_size_bytes", "Bytes of one group commit, padding included";
        CommitEntries, "commit_entries", "Record batches and control entries in one group commit";
        JournalWait, "journal_wait_seconds", "Time that an append waited for room in the journal";
        ColdReadLatency, "cold_read_latency_seconds",
            "Time to find and read, or to find for sendfile, the records of one fetch in a segment";
        ProduceLatency, "produce_ack_latency_seconds",
            "Time from a Produce request's last byte to its answer";
    }
}

impl Summary {
    /// Values are recorded in microseconds and shown in seconds.
    pub const fn is_time(self) -> bool {
        !matches!(self, Self::CommitBytes | Self::CommitEntries)
    }
}

metrics! {
    /// The memory pools, each with its own bound.
    Pool {
        Request, "request", "Frames of requests being read and handled";
        Tail, "tail", "Recent record batches";
        Disk, "disk", "Journal blocks, writes to segment files and reads of them";
        Response, "response", "Responses not yet sent";
    }
}

impl Pool {
    /// Its value of the label `pool`.
    pub fn label(self) -> &'static str {
        self.name().trim_start_matches("corelog_")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_plain() {
        let names = Counter::ALL.iter().map(|metric| metric.name());
        let names = names.chain(Gauge::ALL.iter().map(|metric| metric.name()));
        let names: Vec<_> = names
            .chain(Summary::ALL.iter().map(|metric| metric.name()))
            .collect();
        let unique: HashSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        for name in names {
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{name}"
            );
            assert!(!name.ends_with("_total"), "{name}");
        }
    }

    #[test]
    fn indexes_are_dense() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.index(), index);
        }
        assert_eq!(Pool::Tail.label(), "tail");
    }
}
