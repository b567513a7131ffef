//! The composition root: checks the machine, brings the data directory to rest, starts one shard a
//! core, and stops them in order.
//!
//! Runs on: the main thread until the shards run; then each shard on its own. Order of a start:
//! settings -> limits, io_uring -> claim the ports -> lock the directory -> direct I/O, sizes ->
//! identity -> recovery (journals replayed into segments, see `shard::recovery`) -> shards open
//! their journals and partitions -> listeners -> the ready line. Nothing in the directory changes
//! before it is known to be ours; a start that is refused before removes what it made. Order of a
//! stop: no new connections -> what was accepted is answered -> all shards quiet -> segments closed
//! as plain Kafka directories -> checkpoint -> exit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::admin;
use crate::cluster::identity::{self, Identity};
use crate::cluster::metadata::Image;
use crate::cluster::metadata_log::MetadataLog;
use crate::config::BrokerConfig;
use crate::config::address::{Advertised, HostPort};
use crate::config::broker::LogFormat;
use crate::config::machine::{self as sizing, MachineFacts, ShardSettings};
use crate::config::units::format_about;
use crate::journal::checkpoint_file::Retired;
use crate::model::ids::ShardId;
use crate::rt::data_lock::DataLock;
use crate::rt::executor::{self, LaneShares, ShardSpec};
use crate::rt::machine::{self, DirectError, Limits, UringError};
use crate::rt::net::{PortClaim, SocketBuffers, TcpListener};
use crate::rt::signal::Termination;
use crate::rt::{self, Lane};
use crate::server;
use crate::shard::lifecycle;
use crate::shard::mesh::{self, Link};
use crate::shard::recovery::{self, Recovered};
use crate::shard::shard::{Process, Shard};
use crate::telemetry::logging;

/// What an orderly stop may take: 10 s are promised.
const STOP_TIME: Duration = Duration::from_secs(9);

/// Answers that were accepted before the stop have this long to be written.
const DRAIN_TIME: Duration = Duration::from_secs(4);

/// Why the broker did not start, or did not stop cleanly: one line with what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Log lines cannot be written.
    #[error("{0}")]
    Logging(#[from] logging::LoggingError),
    /// io_uring is not to be had.
    #[error("{0}")]
    Uring(#[from] UringError),
    /// The data directory does not take direct I/O.
    #[error("{0}")]
    Direct(#[from] DirectError),
    /// The machine or the directory said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The directory is in use.
    #[error("{0}")]
    Locked(#[from] rt::data_lock::Error),
    /// The directory loses everything with the machine.
    #[error(
        "{0} is on tmpfs, which forgets everything at a reboot: choose a directory on a disk, or \
         say --allow-volatile"
    )]
    Volatile(String),
    /// An address that cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", hint(.source))]
    Listen {
        /// The address.
        address: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Too few descriptors.
    #[error("{0}")]
    Files(#[from] machine::TooFewFiles),
    /// The settings do not fit the machine.
    #[error("{0}")]
    Sizing(#[from] sizing::MachineError),
    /// The directory is not this broker's.
    #[error("{0}")]
    Identity(#[from] identity::Error),
    /// The directory could not be brought to rest.
    #[error("{0}")]
    Recovery(#[from] recovery::Error),
    /// An executor could not be made, or a shard panicked.
    #[error("{0}")]
    Executor(#[from] executor::Error),
    /// A shard could not be opened or closed.
    #[error("{0}")]
    Shard(#[from] lifecycle::Error),
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            ": another program uses the port; stop it or choose another"
        }
        std::io::ErrorKind::AddrNotAvailable => ": the address is not one of this machine's",
        std::io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// Runs the broker until SIGTERM or SIGINT.
pub fn run(config: BrokerConfig) -> Result<(), StartError> {
    let start = rt::now();
    logging::start(&config.log_level, config.log_format == LogFormat::Json)?;
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| StartError::Io { what, source }
    };
    let termination = Termination::on_signals(STOP_TIME).map_err(io("signals"))?;
    let (open_files, _) = machine::raise_limits().map_err(io("resource limits"))?;
    machine::probe_io_uring()?;
    let listeners = claim_all(&config.listen, buffers(&config))?;
    let admin = config.admin.as_ref().map(claim_one).transpose()?;
    let lock = DataLock::acquire(&config.data_dir)?;
    let settings = match examine(&config, open_files) {
        Ok(settings) => settings,
        Err(error) => {
            lock.undo();
            return Err(error);
        }
    };
    let recovered = recover(&config, &settings)?;
    warn_of(&config);
    let shared = Shared::new(
        config,
        settings,
        recovered,
        listeners,
        admin,
        termination,
        start,
    );
    let outcome = serve(shared);
    drop(lock);
    outcome
}

/// Checks the place and the machine, and sizes the shards. Leaves the directory as it is.
fn examine(config: &BrokerConfig, open_files: Limits) -> Result<ShardSettings, StartError> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| StartError::Io { what, source }
    };
    let file_system = machine::filesystem(&config.data_dir).map_err(io("data directory"))?;
    if file_system.is_volatile() && !config.allow_volatile {
        return Err(StartError::Volatile(config.data_dir.display().to_string()));
    }
    machine::probe_direct_io(&config.data_dir)?;
    let settings = sizing::resolve(
        config,
        &facts(config, &config.data_dir).map_err(io("machine"))?,
    )?;
    let shards = u64::from(shard_count(&settings));
    if let Some(limit) = machine::check_open_files(open_files, shards)? {
        tracing::warn!(
            limit,
            "few open files: each connection takes one and each partition in use two; raise \
             LimitNOFILE= or `ulimit -Hn`"
        );
    }
    Ok(settings)
}

/// Settings that were set and do nothing, and listeners that anyone can reach.
fn warn_of(config: &BrokerConfig) {
    for (name, reason) in config.settings().without_effect() {
        tracing::warn!(
            setting = name,
            reason,
            "this setting has no effect in Corelog"
        );
    }
    let exposed: Vec<String> = config.exposed().map(ToString::to_string).collect();
    if !exposed.is_empty() {
        let address = exposed.join(",");
        tracing::warn!(
            address,
            "listening beyond this machine without any security"
        );
    }
}

/// What the machine offers a broker with these settings; `disk` is on the file system of its data.
pub(crate) fn facts(config: &BrokerConfig, disk: &Path) -> std::io::Result<MachineFacts> {
    let quota = machine::cgroup_cpu_quota().map(|cores| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a sensible number of cores before"
        )]
        let millis = (cores.clamp(0.001, 100_000.0) * 1000.0) as u64;
        millis
    });
    Ok(MachineFacts {
        cores: machine::allowed_cores()?,
        cpu_quota_millis: quota,
        memory_available_bytes: machine::available_memory()?,
        disk_free_bytes: machine::free_disk(disk)?,
        journal_present_bytes: machine::directory_size(
            &config.data_dir.join(recovery::JOURNAL_DIR),
        ),
    })
}

// ---------------------------------------------------------------------- ports

/// `localhost` is both loopbacks, whatever the hosts file says: clients try either first.
fn resolve(address: &HostPort) -> Result<Vec<SocketAddr>, StartError> {
    if address.host == "localhost" {
        let loopbacks = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ];
        return Ok(loopbacks.map(|ip| SocketAddr::new(ip, address.port)).into());
    }
    let listen = |source| StartError::Listen {
        address: address.to_string(),
        source,
    };
    let found = (address.host.as_str(), address.port)
        .to_socket_addrs()
        .map_err(listen)?;
    Ok(found.collect())
}

fn buffers(config: &BrokerConfig) -> SocketBuffers {
    SocketBuffers {
        send_bytes: config.socket_send_buffer_bytes,
        receive_bytes: config.socket_receive_buffer_bytes,
    }
}

fn claim_one(address: &HostPort) -> Result<PortClaim, StartError> {
    let found = resolve(address)?.into_iter().next();
    let listen = |source| StartError::Listen {
        address: address.to_string(),
        source,
    };
    let found = found.ok_or_else(|| listen(std::io::ErrorKind::NotFound.into()))?;
    PortClaim::new(found).map_err(listen)
}

/// Claims every address. Where several addresses share port 0, all get the port picked first. A
/// machine without IPv6 does without `[::1]`, as long as another address is there.
fn claim_all(addresses: &[HostPort], buffers: SocketBuffers) -> Result<Vec<PortClaim>, StartError> {
    let mut claims: Vec<PortClaim> = Vec::new();
    let mut missing = None;
    for address in addresses {
        for mut found in resolve(address)? {
            if found.port() == 0
                && let Some(first) = claims.first()
            {
                found.set_port(first.local_addr().port());
            }
            let claimed = PortClaim::new(found);
            match claimed.and_then(|claim| claim.set_buffers(buffers).map(|()| claim)) {
                Ok(claim) => claims.push(claim),
                Err(source) => {
                    let is_optional = found.ip() == IpAddr::from(Ipv6Addr::LOCALHOST)
                        && source.kind() != std::io::ErrorKind::AddrInUse;
                    let error = StartError::Listen {
                        address: found.to_string(),
                        source,
                    };
                    if !is_optional {
                        return Err(error);
                    }
                    missing = Some(error);
                }
            }
        }
    }
    match missing {
        Some(error) if claims.is_empty() => Err(error),
        _ => Ok(claims),
    }
}

// ---------------------------------------------------------------------- recovery

fn spec(settings: &ShardSettings, core: Option<usize>) -> ShardSpec {
    let usize_of = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let shares = settings.shares;
    ShardSpec {
        core,
        spin: settings.spin,
        ring_depth: usize::try_from(settings.ring_depth).unwrap_or(usize::MAX),
        io_memory: usize_of(settings.pools.journal_bytes + settings.pools.disk_bytes),
        shares: LaneShares {
            network: shares.network.into(),
            commit: shares.commit.into(),
            read: shares.read.into(),
            background: shares.background.into(),
        },
    }
}

fn recover(config: &BrokerConfig, settings: &ShardSettings) -> Result<Recovered, StartError> {
    let shard_count = shard_count(settings);
    let config = config.clone();
    let memory = settings.clone();
    let mut outcomes = executor::run_on_cores(vec![spec(settings, None)], move |_| {
        let (config, settings) = (config.clone(), memory.clone());
        async move { recovery::run(&config, &settings, shard_count).await }
    })?;
    Ok(outcomes.pop().expect("one executor, one outcome")?)
}

fn shard_count(settings: &ShardSettings) -> u16 {
    u16::try_from(settings.cores.len()).expect("config limits the cores to far less")
}

// ---------------------------------------------------------------------- shards

/// What the shards take over, and how they wait for each other.
struct Shared {
    process: Arc<Process>,
    image: Arc<Image>,
    claims: Mutex<Claims>,
    addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    links: Vec<Mutex<Vec<Link>>>,
    journals: Vec<Mutex<Option<Retired>>>,
    termination: Termination,
    /// Told by each shard: it accepts connections; it has answered everything.
    accepting: Vec<Termination>,
    quiet: Vec<Termination>,
    start: rt::Instant,
}

/// Taken by shard 0.
struct Claims {
    listeners: Vec<PortClaim>,
    admin: Option<PortClaim>,
}

impl Shared {
    fn new(
        config: BrokerConfig,
        settings: ShardSettings,
        recovered: Recovered,
        listeners: Vec<PortClaim>,
        admin: Option<PortClaim>,
        termination: Termination,
        start: rt::Instant,
    ) -> Self {
        let shard_count = shard_count(&settings);
        let latches = || (0..shard_count).map(|_| Termination::new()).collect();
        let data_dir = config.data_dir.clone();
        let Identity { cluster_id, .. } = recovered.identity;
        Self {
            process: Arc::new(Process {
                cluster_id,
                data_dir,
                config,
                settings,
                shard_count,
                offline: recovered.offline,
                set_aside: recovered.set_aside,
            }),
            image: Arc::new(recovered.image),
            addresses: listeners.iter().map(PortClaim::local_addr).collect(),
            admin_address: admin.as_ref().map(PortClaim::local_addr),
            claims: Mutex::new(Claims { listeners, admin }),
            links: mesh::links(shard_count)
                .into_iter()
                .map(Mutex::new)
                .collect(),
            journals: recovered
                .journals
                .into_iter()
                .map(|j| Mutex::new(Some(j)))
                .collect(),
            termination,
            accepting: latches(),
            quiet: latches(),
            start,
        }
    }
}

fn serve(shared: Shared) -> Result<(), StartError> {
    let cores = &shared.process.settings.cores;
    let specs = cores
        .iter()
        .map(|core| spec(&shared.process.settings, Some(*core)))
        .collect();
    let shared = Arc::new(shared);
    let outcomes = executor::run_on_cores(specs, {
        let shared = shared.clone();
        move |index| {
            let shared = shared.clone();
            async move {
                let id = u16::try_from(index).expect("shards are counted in u16");
                // On every line of this thread, whichever task writes it: it is left when the
                // shard ends.
                let _of_shard = tracing::error_span!("on", shard = id).entered();
                run_or_release(index, shared).await
            }
        }
    })?;
    outcomes.into_iter().collect::<Result<Vec<()>, _>>()?;
    tracing::info!(target: logging::LIFECYCLE, "stopped");
    Ok(())
}

/// Runs a broker on the machine that this thread simulates, its shards in turn, until
/// `termination`: `run` without what only a real machine can be asked.
///
/// # Errors
/// As those of a start and a stop.
pub async fn run_simulated(
    config: BrokerConfig,
    settings: ShardSettings,
    termination: Termination,
) -> Result<(), StartError> {
    let start = rt::now();
    let listeners = claim_all(&config.listen, buffers(&config))?;
    let shard_count = shard_count(&settings);
    let recovered = recovery::run(&config, &settings, shard_count).await?;
    let shared = Arc::new(Shared::new(
        config,
        settings,
        recovered,
        listeners,
        None,
        termination,
        start,
    ));
    let shards: Vec<_> = (0..usize::from(shard_count))
        .map(|index| {
            let shard = run_or_release(index, shared.clone());
            rt::spawn(Lane::Network, "shard", shard)
        })
        .collect();
    let mut outcome = Ok(());
    for shard in shards {
        outcome = outcome.and(shard.await);
    }
    outcome
}

/// Runs one shard. Nobody shall wait for one that did not start or stop.
async fn run_or_release(index: usize, shared: Arc<Shared>) -> Result<(), StartError> {
    let outcome = run_shard(index, &shared).await;
    if outcome.is_err() {
        shared.termination.request();
        shared.accepting[index].request();
        shared.quiet[index].request();
    }
    outcome
}

fn taken<T: Default>(slot: &Mutex<T>) -> T {
    std::mem::take(
        &mut *slot
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    )
}

async fn run_shard(index: usize, shared: &Arc<Shared>) -> Result<(), StartError> {
    let id = ShardId(u16::try_from(index).expect("shards are counted in u16"));
    let retired = taken(&shared.journals[index]).expect("recovery made a journal for each shard");
    let metadata_log = match index {
        0 => Some(open_metadata_log(shared).await?),
        _ => None,
    };
    let shard = Shard::open(id, &shared.process, &shared.image, retired, metadata_log).await?;
    let tasks = shard.start(taken(&shared.links[index]));
    let mut accepting = Vec::new();
    let fetch_sessions = server::fetch_session::of_shard(
        shard.config().fetch_session_slots,
        (id.0, shard.shard_count()),
        shard.settings().memory_bytes,
    );
    for listener in listeners(index, shared)? {
        let accept = server::listener::run(shard.clone(), fetch_sessions.clone(), listener);
        accepting.push(rt::spawn(Lane::Network, "listener", accept));
    }
    if index == 0
        && let Some(claim) = taken_admin(shared)
    {
        let listener = claim.into_listener().map_err(|source| StartError::Listen {
            address: "admin".to_owned(),
            source,
        })?;
        accepting.push(rt::spawn(
            Lane::Background,
            "admin",
            admin::http::run(shard.clone(), listener),
        ));
    }
    shared.accepting[index].request();
    if index == 0 {
        announce(shared).await;
    }
    shared.termination.wait().await;
    for task in accepting {
        task.cancel().await;
    }
    shard.begin_stop();
    shard.wait_until_quiet(DRAIN_TIME).await;
    shared.quiet[index].request();
    for quiet in &shared.quiet {
        quiet.wait().await;
    }
    shard.stop(tasks).await?;
    Ok(())
}

async fn open_metadata_log(shared: &Shared) -> Result<MetadataLog, StartError> {
    let directory = shared.process.data_dir.join(recovery::METADATA_DIR);
    let opened = MetadataLog::open(&directory, true).await;
    Ok(opened.map_err(recovery::Error::from)?.0)
}

fn taken_admin(shared: &Shared) -> Option<PortClaim> {
    let mut claims = shared
        .claims
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    claims.admin.take()
}

/// Shard 0 listens on the claiming sockets themselves, the others beside them.
fn listeners(index: usize, shared: &Shared) -> Result<Vec<TcpListener>, StartError> {
    let failed = |address: SocketAddr| {
        move |source| StartError::Listen {
            address: address.to_string(),
            source,
        }
    };
    if index > 0 {
        return shared
            .addresses
            .iter()
            .map(|address| {
                let listener = TcpListener::bind(*address).map_err(failed(*address))?;
                let buffers = buffers(&shared.process.config);
                listener.set_buffers(buffers).map_err(failed(*address))?;
                Ok(listener)
            })
            .collect();
    }
    let mut claims = shared
        .claims
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    std::mem::take(&mut claims.listeners)
        .into_iter()
        .map(|claim| {
            let address = claim.local_addr();
            claim.into_listener().map_err(failed(address))
        })
        .collect()
}

/// When every shard accepts: one line for people, and word to systemd.
async fn announce(shared: &Shared) {
    for accepting in &shared.accepting {
        accepting.wait().await;
    }
    if shared.termination.is_requested() {
        return;
    }
    let settings = &shared.process.settings;
    let text = |addresses: &[SocketAddr]| {
        addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let advertised = match shared.process.config.advertised() {
        Advertised::Fixed(address) => address.to_string(),
        Advertised::AsConnected => "as connected".to_owned(),
    };
    let cores: Vec<String> = settings.cores.iter().map(ToString::to_string).collect();
    let cores = cores.join(",");
    let milliseconds = u64::try_from(shared.start.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        target: logging::LIFECYCLE,
        parent: None,
        version = env!("CARGO_PKG_VERSION"),
        address = text(&shared.addresses),
        advertised,
        data_dir = %shared.process.data_dir.display(),
        cores,
        memory_per_shard = format_about(settings.memory_bytes),
        journal_per_shard = format_about(settings.journal_bytes),
        durability = "disk",
        admin = shared.admin_address.map_or_else(|| "off".to_owned(), |a| a.to_string()),
        milliseconds,
        "ready"
    );
    rt::process::notify_ready();
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;
    use crate::cluster::metadata::ApplyError;
    use crate::cluster::metadata_log;
    use crate::config::Error as ConfigError;
    use crate::config::layers::{Settings, Source};
    use crate::config::machine::MachineError;
    use crate::journal::block::BlockError;
    use crate::journal::error::JournalError;
    use crate::journal::replay::ReplayError;
    use crate::log::error as log;
    use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};
    use crate::rt::data_lock;

    fn refused() -> io::Error {
        io::Error::from_raw_os_error(libc::EIO)
    }

    fn path() -> PathBuf {
        PathBuf::from("/data/x")
    }

    /// Errors of machine, place and settings.
    fn before_the_directory() -> Vec<StartError> {
        let lock = |number| data_lock::Error::Io {
            path: path(),
            source: io::Error::from_raw_os_error(number),
        };
        let listen = |source| StartError::Listen {
            address: "localhost:9092".to_owned(),
            source,
        };
        let io = |what: &str| StartError::Io {
            what: what.to_owned(),
            source: refused(),
        };
        let limits = Limits {
            soft: Some(64),
            hard: Some(64),
        };
        let too_few = machine::check_open_files(limits, 4).unwrap_err();
        let held = data_lock::Error::Held {
            path: path(),
            pid: "7".to_owned(),
        };
        let direct = DirectError::Refused {
            path: path(),
            source: refused(),
        };
        let write = DirectError::Write {
            path: path(),
            source: refused(),
        };
        vec![
            UringError::Disabled(2).into(),
            UringError::Forbidden.into(),
            UringError::Missing.into(),
            UringError::LockedMemory(0).into(),
            UringError::Broken(refused()).into(),
            direct.into(),
            DirectError::Alignment { path: path() }.into(),
            write.into(),
            held.into(),
            lock(libc::EACCES).into(),
            lock(libc::EEXIST).into(),
            lock(libc::ENOTDIR).into(),
            lock(libc::ENOENT).into(),
            lock(libc::EROFS).into(),
            lock(libc::ENOSPC).into(),
            lock(libc::EDQUOT).into(),
            lock(libc::EIO).into(),
            StartError::Volatile("/tmp/x".to_owned()),
            listen(io::Error::from_raw_os_error(libc::EADDRINUSE)),
            listen(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)),
            listen(io::Error::from_raw_os_error(libc::EACCES)),
            listen(io::Error::other("failed to lookup address information")),
            too_few.into(),
            io("signals"),
            io("resource limits"),
            io("data directory"),
            io("machine"),
        ]
    }

    /// Errors of settings that do not fit the machine.
    fn of_sizes() -> Vec<StartError> {
        let (wanted, memory, limit) = (1 << 30, 64 << 20, 16 << 20);
        let buffer = |name| MachineError::TooLargeBuffer {
            name,
            wanted,
            memory,
            limit,
        };
        let (shards, needed, free) = (4, 1 << 30, 1 << 20);
        [
            MachineError::CoreNotAllowed {
                core: 9,
                allowed: vec![0, 1],
            },
            MachineError::NoCore,
            MachineError::TooLittleMemory {
                shards,
                available: free,
            },
            MachineError::TooMuchMemory {
                wanted,
                shards: 4,
                available: free,
            },
            buffer("commit.bytes"),
            buffer("destage.size"),
            MachineError::SmallDisk {
                shards,
                needed,
                free,
            },
            MachineError::TooLittleDisk {
                shards,
                needed,
                free,
            },
        ]
        .map(StartError::from)
        .into()
    }

    /// Errors of what is in the directory.
    fn of_the_directory() -> Vec<StartError> {
        let topic_partition = TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(3));
        let text = || "x".to_owned();
        let (node, other_node) = (7, 8);
        let errors: Vec<recovery::Error> = vec![
            identity::Error::OtherNode {
                path: path(),
                got: node,
                expected: other_node,
            }
            .into(),
            identity::Error::OtherCluster {
                path: path(),
                got: text(),
                expected: text(),
            }
            .into(),
            identity::Error::Missing {
                path: path().with_file_name(identity::FILE_NAME),
                metadata: path(),
            }
            .into(),
            identity::Error::Damaged {
                path: path().with_file_name(identity::FILE_NAME),
            }
            .into(),
            identity::Error::Newer {
                path: path(),
                got: 2,
            }
            .into(),
            metadata_log::Error::Io(refused()).into(),
            metadata_log::Error::Missing { directory: path() }.into(),
            metadata_log::Error::Corrupt {
                path: path(),
                position: 9,
            }
            .into(),
            metadata_log::Error::Inconsistent {
                path: path(),
                source: ApplyError::NameTaken(text()),
            }
            .into(),
            ReplayError::Version {
                file: path(),
                found: 2,
            }
            .into(),
            ReplayError::Foreign { file: path() }.into(),
            ReplayError::Form {
                file: path(),
                position: 64,
                error: BlockError::NoBlock,
            }
            .into(),
            log::Error::UnknownPartition { topic_partition }.into(),
            log::Error::UnsupportedEntry { topic_partition }.into(),
            io::Error::other("cannot read: /data/x: broken").into(),
        ];
        errors.into_iter().map(StartError::from).collect()
    }

    /// Errors of the shards.
    fn of_the_shards() -> Vec<StartError> {
        let config = JournalError::Config {
            name: "file_bytes",
            value: 1,
            why: "more",
        };
        vec![
            executor::Error::Start {
                shard: 1,
                source: refused(),
            }
            .into(),
            executor::Error::Panicked { shard: 1 }.into(),
            lifecycle::Error::from(JournalError::from(refused())).into(),
            lifecycle::Error::from(JournalError::Failed(Arc::new(refused()))).into(),
            lifecycle::Error::from(config).into(),
            lifecycle::Error::Sync(refused()).into(),
        ]
    }

    /// Errors of the settings themselves.
    fn of_settings() -> Vec<String> {
        let (name, value, origin) = (|| "a".to_owned(), || "b".to_owned(), || "c.toml".to_owned());
        let errors = [
            ConfigError::Unknown {
                name: name(),
                value: value(),
                origin: origin(),
                suggestion: None,
            },
            ConfigError::NotAllowed {
                name: name(),
                value: value(),
                origin: origin(),
                allowed: value(),
            },
            ConfigError::Conflict {
                name: name(),
                value: value(),
                reason: value(),
            },
            ConfigError::Syntax {
                origin: origin(),
                reason: "TOML parse error at line 1, column 2".to_owned(),
            },
        ];
        errors.iter().map(ToString::to_string).collect()
    }

    /// Whether the words of a table's message are in `line`, in their order. `...`, `N`, `X` and
    /// `FILE` stand for anything.
    fn fits(message: &str, line: &str) -> bool {
        let mut rest = line;
        let mut parts = message.split(' ').map(|word| word.trim_matches(':'));
        parts.all(|word| match word {
            "..." | "N" | "X" | "FILE" | "" => true,
            word => match rest.find(word) {
                Some(at) => {
                    rest = &rest[at + word.len()..];
                    true
                }
                None => false,
            },
        })
    }

    #[test]
    fn a_shard_is_made_as_the_settings_say() {
        let mut settings = Settings::default();
        for (name, value) in [
            ("cores", "2"),
            ("memory.per.shard", "64MiB"),
            ("ring.depth", "96"),
            ("spin", "25us"),
            ("shares", "network=11,commit=12,read=13,background=14"),
        ] {
            settings.set(name, value, Source::Flag, "--set").unwrap();
        }
        let config = BrokerConfig::new(settings).unwrap();
        let machine = MachineFacts {
            cores: vec![0, 1, 2],
            cpu_quota_millis: None,
            memory_available_bytes: 16 << 30,
            disk_free_bytes: 200 << 30,
            journal_present_bytes: 0,
        };
        let settings = sizing::resolve(&config, &machine).unwrap();
        let pools = settings.pools;
        let expected = ShardSpec {
            core: Some(2),
            spin: Duration::from_micros(25),
            ring_depth: 96,
            io_memory: usize::try_from(pools.journal_bytes + pools.disk_bytes).unwrap(),
            shares: LaneShares {
                network: 11,
                commit: 12,
                read: 13,
                background: 14,
            },
        };
        assert_eq!(spec(&settings, Some(settings.cores[0])), expected);
    }

    #[test]
    fn the_operators_table_has_every_start_up_error_with_a_remedy() {
        let page = include_str!("../docs/operations.md");
        let from = page.find("## Start-up errors").unwrap();
        let section = page[from..].split("\n## ").next().unwrap();
        let mut messages = Vec::new();
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').splitn(2, " | ").collect();
            assert!(cells.len() == 2 && cells[1].len() > 5, "no remedy: {row}");
            let quoted = cells[0].split('`').skip(1).step_by(2);
            messages.extend(quoted);
        }
        let mut lines: Vec<String> = [
            before_the_directory(),
            of_sizes(),
            of_the_directory(),
            of_the_shards(),
        ]
        .iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
        lines.extend(of_settings());
        for line in &lines {
            assert!(!line.contains('\n'), "more than one line: {line}");
            let line = line.replace('`', "");
            let found = messages.iter().any(|message| fits(message, &line));
            assert!(found, "not in docs/operations.md: {line}");
        }
    }
}
