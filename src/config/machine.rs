//! What one shard gets on this machine: cores, memory pools, journal size.
//!
//! Pure: no async, no clock, no IO. `rt::machine` measures, this decides.
//! Promises: memory at most a quarter of what is available unless a setting says otherwise; all
//! journals together at most 5 % of the free disk, likewise; one shard at least. What cannot be is
//! refused with name, value and what there is.

use std::time::Duration;

use super::address::Cores;
use super::broker::BrokerConfig;
use super::table::Shares;
use super::units::{format_about, format_size};
use crate::model::limits;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFacts {
    /// Processors that the process may run on.
    pub cores: Vec<usize>,
    /// Processor time that the control group grants, in thousandths of a core; `None`: no limit.
    pub cpu_quota_millis: Option<u64>,
    /// Memory that the process can take, control group included.
    pub memory_available_bytes: u64,
    /// Free space of the data directory's file system.
    pub disk_free_bytes: u64,
    /// What journals of an earlier run take there already (it will be used again).
    pub journal_present_bytes: u64,
}

/// The settings of the shards, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSettings {
    /// One shard per core, in this order.
    pub cores: Vec<usize>,
    /// Memory of one shard: the sum of its pools.
    pub memory_bytes: u64,
    /// The shard's memory, divided.
    pub pools: MemoryPools,
    /// The journal of one shard, a whole number of `JOURNAL_GRAIN_BYTES`.
    pub journal_bytes: u64,
    /// Submission entries of a shard's ring.
    pub ring_depth: u32,
    /// How long an idle shard looks for work before it sleeps.
    pub spin: Duration,
    /// Size at which a group commit is full.
    pub commit_bytes: u64,
    /// How long a commit that is not full waits.
    pub commit_delay: Duration,
    /// The most journal writes at a time.
    pub writes_in_flight: u32,
    /// Size of the writes into segments.
    pub destage_bytes: u64,
    /// A log of committed offsets is not rewritten while it is smaller.
    pub offsets_log_bytes_min: u64,
    /// Shares of the task queues.
    pub shares: Shares,
    /// The largest request: the setting, or what the request pool can hold.
    pub request_bytes_max: usize,
}

/// One shard's memory by purpose. A task takes them in this order and never waits for an earlier
/// one while it holds a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPools {
    /// Frames of requests that are being read and handled.
    pub request_bytes: u64,
    /// Recent records that readers are served from.
    pub tail_bytes: u64,
    /// Aligned buffers of the journal.
    pub journal_bytes: u64,
    /// Aligned buffers of destaging and of reads from disk.
    pub disk_bytes: u64,
    /// Responses that were not sent yet.
    pub response_bytes: u64,
    /// What requests with long arrays are decoded into: beside the shard's memory, three times, for
    /// Produce, for the others, and for fetches that wait for data.
    pub element_bytes: u64,
}

/// Why the settings do not fit the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// A core was asked for that the process may not use.
    #[error(
        "setting `cores` names core {core}, which this process may not use: allowed are {allowed:?}"
    )]
    CoreNotAllowed {
        /// The core.
        core: usize,
        /// What would be allowed.
        allowed: Vec<usize>,
    },
    /// The process may use no core at all.
    #[error("no core was found that this process may use: check its CPU affinity and cpuset")]
    NoCore,
    /// Not enough memory for the smallest shards.
    #[error(
        "{shards} shards need {} of memory each, and a quarter of the {} that are available is \
         less: use fewer `cores`, or set `memory.per.shard`",
        format_size(MEMORY_PER_SHARD_MIN), format_about(*available)
    )]
    TooLittleMemory {
        /// The number of shards.
        shards: usize,
        /// What is available.
        available: u64,
    },
    /// More memory was asked for than there is.
    #[error(
        "setting `memory.per.shard` = `{}` is not possible: {shards} shards need {} together, and \
         {} are available",
        format_size(*wanted), format_size(wanted.saturating_mul(*shards)), format_about(*available)
    )]
    TooMuchMemory {
        /// For each shard.
        wanted: u64,
        /// The number of shards.
        shards: u64,
        /// What is available.
        available: u64,
    },
    /// A buffer that the shard's memory does not hold four times.
    #[error(
        "setting `{name}` = `{}` is not possible: with {} of memory a shard it is at most {}; \
         lower it, or raise `memory.per.shard`",
        format_size(*wanted), format_about(*memory), format_size(*limit)
    )]
    TooLargeBuffer {
        /// The setting.
        name: &'static str,
        /// Its value.
        wanted: u64,
        /// Memory of a shard.
        memory: u64,
        /// What would be possible.
        limit: u64,
    },
    /// The smallest journals would take more than their part of a small disk.
    #[error(
        "the smallest journals of {shards} shards need {} of disk, more than 5 % of the {} that \
         are free: free some space, use fewer `cores`, or set `journal.size`",
        format_size(*needed), format_about(*free)
    )]
    SmallDisk {
        /// The number of shards.
        shards: usize,
        /// What the journals need.
        needed: u64,
        /// What is free, journals of an earlier run included.
        free: u64,
    },
    /// Not enough disk for the journals that were asked for.
    #[error(
        "the journals of {shards} shards need {} of disk, and {} are free: free some space, or use \
         fewer `cores`, or a smaller `journal.size`",
        format_size(*needed), format_about(*free)
    )]
    TooLittleDisk {
        /// The number of shards.
        shards: usize,
        /// What the journals need.
        needed: u64,
        /// What is free, journals of an earlier run included.
        free: u64,
    },
}

/// The smallest memory of a shard.
pub const MEMORY_PER_SHARD_MIN: u64 = 32 << 20;
/// The journal of one shard, unless the disk is small.
pub const JOURNAL_BYTES_DEFAULT: u64 = 1 << 30;
/// The smallest journal.
pub const JOURNAL_BYTES_MIN: u64 = 16 << 20;
/// Journals are a whole number of these.
pub const JOURNAL_GRAIN_BYTES: u64 = 4 << 20;
const FREE_DISK_DIVISOR: u64 = 20;
const MEMORY_DIVISOR: u64 = 4;
const ELEMENTS_DIVISOR: u64 = 32;
/// Room for the arrays of a request of 16,384 elements.
const ELEMENT_BYTES_MIN: u64 = 8 << 20;

/// Resolves `auto` and `all`, and checks that the rest is possible here.
pub fn resolve(
    config: &BrokerConfig,
    machine: &MachineFacts,
) -> Result<ShardSettings, MachineError> {
    let cores = choose_cores(&config.cores, machine)?;
    let shards = cores.len();
    let shard_count = u64::try_from(shards).expect("a machine has fewer than 2^64 cores");
    let memory_bytes = choose_memory(config.memory_per_shard, machine, shards, shard_count)?;
    let pools = divide(memory_bytes);
    let request_pool = usize::try_from(pools.request_bytes).unwrap_or(usize::MAX);
    Ok(ShardSettings {
        cores,
        memory_bytes,
        pools,
        journal_bytes: choose_journal(config.journal_size, machine, shards, shard_count)?,
        ring_depth: config.ring_depth,
        spin: config.spin,
        commit_bytes: buffer(config, "commit.bytes", config.commit_bytes, &pools)?,
        commit_delay: config.commit_delay,
        writes_in_flight: config.writes_in_flight,
        destage_bytes: buffer(config, "destage.size", config.destage_size, &pools)?,
        offsets_log_bytes_min: limits::OFFSETS_LOG_BYTES_MIN,
        shares: config.shares,
        request_bytes_max: config.socket_request_max_bytes.min(request_pool),
    })
}

/// A size of which four must fit their pool, so that writes overlap. The default gives way to a
/// small memory; a value that was set is refused.
fn buffer(
    config: &BrokerConfig,
    name: &'static str,
    wanted: u64,
    pools: &MemoryPools,
) -> Result<u64, MachineError> {
    const GRAIN: u64 = 4096;
    let pool = match name {
        "commit.bytes" => pools.journal_bytes,
        _ => pools.disk_bytes,
    };
    let limit = pool / 4 / GRAIN * GRAIN;
    if wanted > limit && config.settings().text(name).is_some() {
        return Err(MachineError::TooLargeBuffer {
            name,
            wanted,
            memory: pools.total(),
            limit,
        });
    }
    Ok(wanted.min(limit))
}

impl MemoryPools {
    fn total(&self) -> u64 {
        self.request_bytes
            + self.tail_bytes
            + self.journal_bytes
            + self.disk_bytes
            + self.response_bytes
    }
}

impl ShardSettings {
    /// What settings that say `auto`, `all` or too much have come to, by name.
    pub fn in_force(&self) -> Vec<(&'static str, String)> {
        let cores: Vec<String> = self.cores.iter().map(ToString::to_string).collect();
        let mut values = vec![
            ("cores", cores.join(",")),
            (
                "socket.request.max.bytes",
                self.request_bytes_max.to_string(),
            ),
        ];
        for (name, bytes) in [
            ("memory.per.shard", self.memory_bytes),
            ("journal.size", self.journal_bytes),
            ("commit.bytes", self.commit_bytes),
            ("destage.size", self.destage_bytes),
        ] {
            values.push((name, format_size(bytes)));
        }
        values
    }
}

fn choose_cores(wanted: &Cores, machine: &MachineFacts) -> Result<Vec<usize>, MachineError> {
    let cores = match wanted {
        Cores::List(list) => {
            if let Some(core) = list.iter().find(|core| !machine.cores.contains(core)) {
                return Err(MachineError::CoreNotAllowed {
                    core: *core,
                    allowed: machine.cores.clone(),
                });
            }
            list.clone()
        }
        Cores::All => {
            let granted = machine.cpu_quota_millis.map_or(usize::MAX, |quota| {
                usize::try_from(quota.div_ceil(1000))
                    .unwrap_or(usize::MAX)
                    .max(1)
            });
            machine.cores.iter().copied().take(granted).collect()
        }
    };
    if cores.is_empty() {
        Err(MachineError::NoCore)
    } else {
        Ok(cores)
    }
}

fn choose_memory(
    wanted: Option<u64>,
    machine: &MachineFacts,
    shards: usize,
    shard_count: u64,
) -> Result<u64, MachineError> {
    if let Some(wanted) = wanted {
        let available = machine.memory_available_bytes;
        if wanted.saturating_mul(shard_count) > available {
            return Err(MachineError::TooMuchMemory {
                wanted,
                shards: shard_count,
                available,
            });
        }
        return Ok(wanted);
    }
    let bytes = machine.memory_available_bytes / MEMORY_DIVISOR / shard_count;
    if bytes < MEMORY_PER_SHARD_MIN {
        let available = machine.memory_available_bytes;
        return Err(MachineError::TooLittleMemory { shards, available });
    }
    Ok(bytes)
}

fn choose_journal(
    wanted: Option<u64>,
    machine: &MachineFacts,
    shards: usize,
    shard_count: u64,
) -> Result<u64, MachineError> {
    let free = machine
        .disk_free_bytes
        .saturating_add(machine.journal_present_bytes);
    // those that are there need no room: a full disk must not keep a broker from starting
    let present = machine.journal_present_bytes;
    let kept = JOURNAL_BYTES_MIN.min(present / shard_count);
    let fair = (free / FREE_DISK_DIVISOR / shard_count).max(kept);
    if wanted.is_none() && fair < JOURNAL_BYTES_MIN {
        let needed = JOURNAL_BYTES_MIN.saturating_mul(shard_count);
        return Err(MachineError::SmallDisk {
            shards,
            needed,
            free,
        });
    }
    let bytes = wanted.unwrap_or(fair.min(JOURNAL_BYTES_DEFAULT));
    let bytes = bytes / JOURNAL_GRAIN_BYTES * JOURNAL_GRAIN_BYTES;
    let needed = bytes.saturating_mul(shard_count);
    // half of the space must stay for the records themselves
    if needed > (free / 2).max(present) {
        return Err(MachineError::TooLittleDisk {
            shards,
            needed,
            free,
        });
    }
    Ok(bytes)
}

/// Requests 3/10, tail 3/10, journal 1/10, disk buffers 2/10, responses 1/10.
fn divide(memory_bytes: u64) -> MemoryPools {
    const GRAIN: u64 = 4096;
    let part = |tenths: u64| memory_bytes / 10 * tenths / GRAIN * GRAIN;
    MemoryPools {
        request_bytes: part(3),
        tail_bytes: part(3),
        journal_bytes: part(1),
        disk_bytes: part(2),
        response_bytes: part(1),
        element_bytes: (memory_bytes / ELEMENTS_DIVISOR).max(ELEMENT_BYTES_MIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::{Settings, Source};

    const GIB: u64 = 1 << 30;

    fn machine() -> MachineFacts {
        MachineFacts {
            cores: vec![0, 1, 2, 3],
            cpu_quota_millis: None,
            memory_available_bytes: 16 * GIB,
            disk_free_bytes: 200 * GIB,
            journal_present_bytes: 0,
        }
    }

    fn config(flags: &[(&str, &str)]) -> BrokerConfig {
        let mut settings = Settings::default();
        for (name, value) in flags {
            settings
                .set(name, value, Source::Flag, "--set")
                .expect("valid");
        }
        BrokerConfig::new(settings).expect("valid")
    }

    #[test]
    fn a_full_disk_starts_with_the_journals_that_are_there() {
        let full = MachineFacts {
            disk_free_bytes: 0,
            journal_present_bytes: 4 * (32 << 20),
            ..machine()
        };
        assert_eq!(choose_journal(Some(32 << 20), &full, 4, 4), Ok(32 << 20));
        assert_eq!(choose_journal(None, &full, 4, 4), Ok(JOURNAL_BYTES_MIN));
        assert!(choose_journal(Some(48 << 20), &full, 4, 4).is_err());
        assert!(choose_journal(None, &full, 64, 64).is_err());
    }

    #[test]
    fn defaults_take_a_quarter_of_the_memory_and_one_gib_of_journal_a_shard() {
        let settings = resolve(&config(&[]), &machine()).expect("fits");
        assert_eq!(settings.cores, [0, 1, 2, 3]);
        assert_eq!(settings.memory_bytes, GIB);
        assert_eq!(settings.journal_bytes, GIB);
    }

    #[test]
    fn a_cpu_quota_bounds_the_shards_and_counts_begun_cores() {
        let small = MachineFacts {
            cpu_quota_millis: Some(1500),
            ..machine()
        };
        assert_eq!(resolve(&config(&[]), &small).expect("fits").cores, [0, 1]);
        let tiny = MachineFacts {
            cpu_quota_millis: Some(100),
            ..machine()
        };
        assert_eq!(resolve(&config(&[]), &tiny).expect("fits").cores, [0]);
        let asked = config(&[("cores", "1-3")]);
        assert_eq!(resolve(&asked, &tiny).expect("explicit").cores, [1, 2, 3]);
    }

    #[test]
    fn a_core_outside_the_affinity_is_refused() {
        let error = resolve(&config(&[("cores", "0,7")]), &machine()).expect_err("no core 7");
        assert_eq!(
            error,
            MachineError::CoreNotAllowed {
                core: 7,
                allowed: vec![0, 1, 2, 3]
            }
        );
    }

    #[test]
    fn journals_together_stay_below_five_percent_of_the_free_disk() {
        let small = MachineFacts {
            disk_free_bytes: 20 * GIB,
            ..machine()
        };
        let settings = resolve(&config(&[]), &small).expect("fits");
        assert!(settings.journal_bytes * 4 <= GIB, "{settings:?}");
        assert!(settings.journal_bytes.is_multiple_of(JOURNAL_GRAIN_BYTES));
    }

    #[test]
    fn journals_of_an_earlier_run_count_as_free() {
        let first = MachineFacts {
            disk_free_bytes: 40 * GIB,
            ..machine()
        };
        let before = resolve(&config(&[]), &first).expect("fits").journal_bytes;
        let second = MachineFacts {
            disk_free_bytes: 40 * GIB - 4 * before,
            journal_present_bytes: 4 * before,
            ..machine()
        };
        assert_eq!(
            resolve(&config(&[]), &second).expect("fits").journal_bytes,
            before
        );
    }

    #[test]
    fn a_disk_without_room_for_the_smallest_journals_is_refused_with_figures() {
        let full = MachineFacts {
            disk_free_bytes: 1000 << 20,
            ..machine()
        };
        let error = resolve(&config(&[]), &full).expect_err("too small");
        assert!(
            error
                .to_string()
                .contains("need 64MiB of disk, more than 5 % of the 1000.0 MiB that are free"),
            "{error}"
        );
        let set = config(&[("journal.size", "16MiB")]);
        let settings = resolve(&set, &full).expect("a value that was set counts");
        assert_eq!(settings.journal_bytes, 16 << 20);
        let large = config(&[("journal.size", "200MiB")]);
        let error = resolve(&large, &full).expect_err("nothing left for records");
        assert!(error.to_string().contains("need 800MiB of disk"), "{error}");
    }

    #[test]
    fn memory_that_is_not_there_is_refused_with_value_and_figures() {
        let set = config(&[("memory.per.shard", "900GiB")]);
        let error = resolve(&set, &machine()).expect_err("too much");
        let text = error.to_string();
        assert!(text.contains("`memory.per.shard` = `900GiB`"), "{text}");
        assert!(text.contains("16.0 GiB are available"), "{text}");
    }

    #[test]
    fn buffers_that_do_not_fit_are_refused_when_set_and_give_way_by_default() {
        let small = ("memory.per.shard", "32MiB");
        let settings = resolve(&config(&[small]), &machine()).expect("defaults give way");
        assert_eq!(settings.commit_bytes, (32 << 20) / 10 / 4 / 4096 * 4096);
        let shown = settings.in_force();
        assert!(
            shown.contains(&("commit.bytes", "816KiB".to_owned())),
            "{shown:?}"
        );
        for (name, value) in [("commit.bytes", "4MiB"), ("destage.size", "2MiB")] {
            let error = resolve(&config(&[small, (name, value)]), &machine());
            let text = error.expect_err("too large").to_string();
            assert!(text.contains(&format!("`{name}` = `{value}`")), "{text}");
        }
        let fits = config(&[small, ("commit.bytes", "64KiB")]);
        assert_eq!(
            resolve(&fits, &machine()).expect("fits").commit_bytes,
            64 << 10
        );
    }

    #[test]
    fn too_little_memory_is_refused_unless_it_is_set() {
        let poor = MachineFacts {
            memory_available_bytes: 256 << 20,
            ..machine()
        };
        assert!(matches!(
            resolve(&config(&[]), &poor),
            Err(MachineError::TooLittleMemory { shards: 4, .. })
        ));
        let set = config(&[("memory.per.shard", "32MiB")]);
        assert_eq!(
            resolve(&set, &poor).expect("explicit").memory_bytes,
            32 << 20
        );
    }

    #[test]
    fn pools_are_block_aligned_and_never_exceed_the_shards_memory() {
        for bytes in [MEMORY_PER_SHARD_MIN, 100_000_001, GIB, 77 * GIB] {
            let pools = divide(bytes);
            let all = [
                pools.request_bytes,
                pools.tail_bytes,
                pools.journal_bytes,
                pools.disk_bytes,
                pools.response_bytes,
            ];
            assert!(
                all.iter()
                    .all(|part| part.is_multiple_of(4096) && *part > 0)
            );
            assert!(all.iter().sum::<u64>() <= bytes);
        }
    }

    #[test]
    fn the_largest_request_fits_the_request_pool() {
        let settings = resolve(&config(&[("memory.per.shard", "100MiB")]), &machine());
        let settings = settings.expect("fits");
        assert_eq!(
            u64::try_from(settings.request_bytes_max),
            Ok(settings.pools.request_bytes)
        );
    }
}
