//! Starts that must be refused, in one line and with nothing touched, and ordinary stops.

mod support;

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as NotifyAddress, UnixDatagram};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, MetadataRequest, TopicName};
use support::no_io_uring::forbid_io_uring;
use support::raw::{Connection, text};
use support::{Launch, client, contents, directory, free_port};

#[test]
fn a_second_broker_on_the_same_port_is_refused_and_the_first_keeps_every_connection() {
    let (first_dir, second_dir) = (directory(), directory());
    let first = Launch::new(first_dir.path()).start();
    let address = first.launch().address();
    let second_path = second_dir.path().join("data");
    let refusal = Launch::new(&second_path)
        .listen(address)
        .try_start()
        .expect_err("port in use");
    assert!(
        refusal.line().contains(&address.to_string()),
        "{}",
        refusal.stderr
    );
    assert!(
        !second_path.exists(),
        "a refused start leaves nothing behind"
    );
    for _ in 0..20 {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).expect("the first accepts");
    }
    client::create_topic(&first.bootstrap(), "still-here", 1, &[]);
}

#[test]
fn a_machine_without_io_uring_is_refused() {
    let dir = directory();
    let data_dir = dir.path().join("data");
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
    command.args([
        "serve",
        "--admin",
        "off",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
    ]);
    command.arg(&data_dir);
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(forbid_io_uring) };
    let output = command.output().expect("it runs and ends");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("this process may not use io_uring"), "{said}");
    assert!(contents(&data_dir).is_empty());
}

#[test]
fn an_admin_port_in_use_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let admin = taken.local_addr().expect("bound");
    let dir = directory();
    let data_dir = dir.path().join("data");
    let refusal = Launch::new(&data_dir)
        .admin(admin)
        .try_start()
        .expect_err("port in use");
    assert!(
        refusal.line().contains(&admin.to_string()),
        "{}",
        refusal.stderr
    );
    assert!(!data_dir.exists(), "a refused start leaves nothing behind");
}

#[test]
fn a_locked_directory_is_refused_and_its_owner_goes_on() {
    let dir = directory();
    let owner = Launch::new(dir.path()).start();
    client::create_topic(&owner.bootstrap(), "mine", 1, &[]);
    let refusal = Launch::new(dir.path()).try_start().expect_err("locked");
    let line = refusal.line();
    assert!(line.contains(&dir.path().display().to_string()), "{line}");
    assert!(line.contains(&owner.process_id().to_string()), "{line}");
    client::produce(&owner.bootstrap(), "mine", 0, [b"after".to_vec()], &[]);
    assert_eq!(
        client::read_partition(&owner.bootstrap(), "mine", 0, 0).len(),
        1
    );
}

#[test]
fn a_directory_of_a_newer_version_is_refused_untouched() {
    let dir = directory();
    let launch = Launch::new(dir.path()).start().stop();
    let path = dir.path().join("corelog.json");
    let text = std::fs::read_to_string(&path).expect("the identity");
    let newer = text.replace("\"format_version\": 1", "\"format_version\": 4711");
    assert_ne!(newer, text, "the identity has changed its looks: {text}");
    std::fs::write(&path, newer).expect("the test's own directory");
    let before = contents(dir.path());
    let refusal = launch.try_start().expect_err("newer");
    assert!(refusal.line().contains("4711"), "{}", refusal.stderr);
    assert!(contents(dir.path()) == before, "the directory was changed");
}

#[test]
fn a_directory_of_another_node_is_refused_untouched() {
    let dir = directory();
    Launch::new(dir.path())
        .flag("--node-id", "7")
        .start()
        .stop();
    let before = contents(dir.path());
    let launch = Launch::new(dir.path()).flag("--node-id", "8");
    let refusal = launch.try_start().expect_err("another node's");
    let line = refusal.line();
    assert!(line.contains('7') && line.contains('8'), "{line}");
    assert!(contents(dir.path()) == before, "the directory was changed");
}

#[test]
fn a_directory_of_another_cluster_is_refused_untouched() {
    let dir = directory();
    let launch = Launch::new(dir.path());
    launch.clone().set("cluster.id", "ours").start().stop();
    let before = contents(dir.path());
    let refusal = launch.clone().set("cluster.id", "theirs").try_start();
    let refusal = refusal.expect_err("another cluster's");
    let line = refusal.line();
    assert!(line.contains("ours") && line.contains("theirs"), "{line}");
    assert!(contents(dir.path()) == before, "the directory was changed");
    launch.start().stop(); // unset: whatever the directory says
}

#[test]
fn data_without_its_identity_is_refused_untouched() {
    let dir = directory();
    let launch = Launch::new(dir.path()).start().stop();
    let identity = dir.path().join("corelog.json");
    let kept = std::fs::read(&identity).expect("the identity");
    std::fs::remove_file(&identity).expect("the test's own directory");
    let before = contents(dir.path());
    let refusal = launch.try_start().expect_err("whose data is this?");
    assert!(
        refusal.line().contains("corelog.json is missing"),
        "{}",
        refusal.stderr
    );
    assert!(contents(dir.path()) == before, "the directory was changed");
    std::fs::write(&identity, kept).expect("the test's own directory");
    launch.start().stop();
}

#[test]
fn settings_that_the_machine_does_not_allow_are_refused_by_name_and_value() {
    let dir = directory();
    let data_dir = dir.path().join("data");
    let cases = [
        ("--memory-per-shard", "900GiB", "memory.per.shard"),
        ("--commit-bytes", "64MiB", "commit.bytes"),
        ("--destage-size", "64MiB", "destage.size"),
    ];
    for (flag, value, name) in cases {
        let refusal = Launch::new(&data_dir).flag(flag, value).try_start();
        let refusal = refusal.expect_err("impossible");
        let line = refusal.line();
        assert!(line.contains(name) && line.contains(value), "{line}");
        assert!(!data_dir.exists(), "a refused start leaves nothing behind");
    }
}

#[test]
fn too_few_open_files_are_refused_with_figures() {
    let dir = directory();
    let data_dir = dir.path().join("data");
    let mut command = Launch::new(&data_dir).command();
    limit(&mut command, libc::RLIMIT_NOFILE, 64);
    let output = command.output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(line.contains("the limit of open files is 64"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(!data_dir.exists(), "a refused start leaves nothing behind");
}

/// Lowers a limit of the process that `command` starts, soft and hard.
fn limit(command: &mut Command, which: libc::__rlimit_resource_t, value: u64) {
    let lower = move || {
        let limits = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        // SAFETY: setrlimit reads the structure that lives here, and is safe after fork.
        match unsafe { libc::setrlimit(which, &raw const limits) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(lower) };
}

#[test]
fn systemd_is_told_when_every_shard_accepts() {
    let dir = directory();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    assert_is_told(&socket, path.as_os_str(), &dir.path().join("data"));
}

#[test]
fn systemd_is_told_at_an_abstract_address() {
    let dir = directory();
    let name = format!("corelog-test-{}", std::process::id());
    let address = NotifyAddress::from_abstract_name(&name).expect("a short name");
    let socket = UnixDatagram::bind_addr(&address).expect("a socket");
    let told_of = format!("@{name}");
    assert_is_told(&socket, told_of.as_ref(), &dir.path().join("data"));
}

/// Starts a broker that is told of the socket by this name.
#[track_caller]
fn assert_is_told(socket: &UnixDatagram, name: &OsStr, data_dir: &Path) {
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("valid");
    let launch = Launch::new(data_dir);
    let mut child = launch
        .command()
        .env("NOTIFY_SOCKET", name)
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut message = [0; 64];
    let told = socket.recv(&mut message);
    let accepts = TcpStream::connect(launch.address()).is_ok();
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    assert_eq!(message.get(..told.expect("told")), Some(&b"READY=1"[..]));
    assert!(accepts, "ready is when it accepts");
}

#[test]
fn a_second_signal_stops_at_once() {
    let dir = directory();
    let mut broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "large", 1, &[]);
    let values = (0..40).map(|_| vec![7; 500_000]);
    client::produce(&broker.bootstrap(), "large", 0, values, &[]);
    // Answers that nobody takes, more than sockets hold: the stop waits for them.
    let mut connection = Connection::open(broker.launch().address());
    for _ in 0..10 {
        let frame = connection.frame(&fetch("large"), 12);
        connection.send(&frame);
    }
    std::thread::sleep(Duration::from_millis(500));
    let started = Instant::now();
    broker.signal(libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(500));
    assert!(broker.is_running(), "it waits: {}", broker.said());
    broker.signal(libc::SIGTERM);
    let status = broker.wait(support::STOP_LIMIT);
    assert_eq!(status.code(), Some(128 + libc::SIGTERM));
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}

/// A request for all of the topic's first partition.
fn fetch(topic: &str) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(-1)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(50 << 20);
    let topic = FetchTopic::default()
        .with_topic(TopicName(text(topic)))
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

#[test]
fn a_wildcard_listener_advertises_the_address_that_was_connected_to() {
    let dir = directory();
    let broker = Launch::new(dir.path()).listen_host("0.0.0.0").start();
    let port = broker.launch().address().port();
    for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)] {
        let mut connection = Connection::open(SocketAddr::from((ip, port)));
        let answer = connection.call(&MetadataRequest::default(), 8);
        assert_eq!(answer.brokers[0].host.as_str(), ip.to_string());
        assert_eq!(answer.brokers[0].port, i32::from(port));
    }
}

#[test]
fn one_warning_names_every_address_beyond_this_machine() {
    let warning = |launch: &Launch| {
        let broker = launch.start();
        let said = broker.said();
        let mut lines = said.lines().filter(|line| line.contains("any security"));
        let line = lines.next().map(str::to_owned);
        assert_eq!(lines.next(), None, "{said}");
        line
    };
    let dir = directory();
    let launch = Launch::new(dir.path());
    assert_eq!(warning(&launch), None);
    let clients = launch.address().port();
    let admin = SocketAddr::from((Ipv4Addr::UNSPECIFIED, free_port()));
    let both = launch.clone().listen_host("0.0.0.0").admin(admin);
    let line = warning(&both).expect("a warning");
    assert!(
        line.contains(&format!("0.0.0.0:{clients},{admin}")),
        "{line}"
    );
    let line = warning(&launch.admin(admin)).expect("the admin port alone is worth it");
    assert!(
        line.contains(&admin.to_string()) && !line.contains(&clients.to_string()),
        "{line}"
    );
}

#[test]
fn log_lines_name_shard_and_client() {
    let dir = directory();
    let broker = Launch::new(dir.path()).flag("--log-format", "json").start();
    let mut connection = Connection::open(broker.launch().address());
    connection.call(&MetadataRequest::default(), 8);
    connection.send(&[0xff; 16]);
    let find = |what: &str| {
        let said = broker.said();
        let line = said.lines().find(|line| line.contains(what))?.to_owned();
        Some(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"))
    };
    client::wait_until("the end is logged", || find("connection closed").is_some());
    let closed = find("connection closed").expect("just seen");
    assert_eq!(closed["client_id"], "raw", "{closed}");
    assert!(closed["span"]["shard"].is_u64(), "{closed}");
    assert!(
        closed["peer"].is_string() && closed["reason"].is_string(),
        "{closed}"
    );
    let ready = find("\"ready\"").expect("the ready line");
    assert!(ready["milliseconds"].is_u64(), "{ready}");
    assert_eq!(ready["memory_per_shard"], "64.0 MiB", "{ready}");
    assert_eq!(ready["journal_per_shard"], "64.0 MiB", "{ready}");
}

#[test]
fn debug_lines_are_lines() {
    let dir = directory();
    let broker = Launch::new(dir.path()).flag("--log-level", "debug").start();
    client::create_topic(&broker.bootstrap(), "t", 1, &[]);
    for line in broker.said().lines() {
        assert!(line.starts_with("20"), "a line without its time: {line}");
    }
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let dir = directory();
    let path = dir.path().join("file");
    std::fs::write(&path, "a file").expect("the test's own directory");
    let refusal = Launch::new(&path).try_start().expect_err("no directory");
    assert!(
        refusal.line().contains(&path.display().to_string()),
        "{}",
        refusal.stderr
    );
}

#[test]
fn unknown_and_impossible_settings_are_refused_by_name_and_value() {
    let dir = directory();
    let data_dir = dir.path().join("data");
    let unknown = Launch::new(&data_dir).set("num.partition", "3");
    let refusal = unknown.try_start().expect_err("unknown setting");
    assert!(
        refusal.line().contains("num.partition"),
        "{}",
        refusal.stderr
    );
    let impossible = Launch::new(&data_dir).set("num.partitions", "-3");
    let refusal = impossible.try_start().expect_err("impossible value");
    let line = refusal.line();
    assert!(
        line.contains("num.partitions") && line.contains("-3"),
        "{line}"
    );
    assert!(!data_dir.exists());
}

#[test]
fn localhost_serves_both_address_families() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("this machine has no ::1: only 127.0.0.1 is looked at");
    }
    let dir = directory();
    let broker = Launch::new(dir.path()).listen_host("localhost").start();
    let port = broker.launch().address().port();
    let mut addresses = vec![SocketAddr::from(([127, 0, 0, 1], port))];
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        addresses.push(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    }
    for address in addresses {
        TcpStream::connect_timeout(&address, Duration::from_secs(2)).expect("accepted");
    }
}

#[test]
fn sigterm_ends_a_busy_broker_with_exit_code_0_in_time() {
    let dir = directory();
    let mut broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "busy", 4, &[]);
    let settings = [("linger.ms", "1"), ("message.timeout.ms", "3000")];
    let producer = client::producer(&broker.bootstrap(), &settings);
    for number in 0..20_000 {
        client::send(&producer, "busy", number % 4, None, &[7; 100]);
    }
    broker.signal(libc::SIGTERM);
    let status = broker.wait(support::STOP_LIMIT);
    assert_eq!(status.code(), Some(0), "{}", broker.said());
    let said = broker.said();
    assert_eq!(
        said.lines().count(),
        2,
        "a line at the start and one at the stop: {said}"
    );
}

#[test]
fn the_lines_of_start_and_stop_are_written_at_every_level() {
    let dir = directory();
    for level in ["error", "warn", "trace"] {
        for (format, lines) in [
            ("text", ["INFO ready version=", "INFO stopped"]),
            ("json", ["\"message\":\"ready\"", "\"message\":\"stopped\""]),
        ] {
            let launch = Launch::new(dir.path());
            let launch = launch.flag("--log-level", level);
            let mut broker = launch.flag("--log-format", format).start();
            broker.signal(libc::SIGTERM);
            assert_eq!(broker.wait(support::STOP_LIMIT).code(), Some(0));
            let stopped = || broker.said().contains(lines[1]);
            client::wait_until("the stop is logged", stopped);
            for line in lines {
                assert_eq!(broker.said().matches(line).count(), 1, "{level}: {line}");
            }
        }
    }
}

#[test]
fn sigint_stops_as_sigterm_does() {
    let dir = directory();
    let mut broker = Launch::new(dir.path()).start();
    broker.signal(libc::SIGINT);
    assert_eq!(broker.wait(support::STOP_LIMIT).code(), Some(0));
}

#[test]
fn a_first_start_serves_within_three_seconds() {
    let dir = directory();
    // as large as the journal of a shard is by itself: it is written while it is used already
    let launch = Launch::new(dir.path()).flag("--journal-size", "1GiB");
    let started = Instant::now();
    let broker = launch.start();
    let elapsed = started.elapsed();
    assert!(
        elapsed < Duration::from_secs(3),
        "{elapsed:?}: {}",
        broker.said()
    );
}

#[test]
fn an_ordinary_users_limits_are_enough() {
    /// Of an ordinary user without settings of his own: locked memory, open files (soft).
    const LOCKED_BYTES: u64 = 8 << 20;
    const OPEN_FILES: u64 = 1_024;
    let dir = directory();
    let launch = Launch::new(dir.path());
    let mut command = launch.command();
    limit(&mut command, libc::RLIMIT_MEMLOCK, LOCKED_BYTES);
    limit(&mut command, libc::RLIMIT_NOFILE, OPEN_FILES);
    let ordinary = || {
        give_up_privileges();
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(ordinary) };
    let mut child = command.stderr(Stdio::null()).spawn().expect("it starts");
    let bootstrap = launch.address().to_string();
    client::wait_until("it accepts", || {
        TcpStream::connect(launch.address()).is_ok()
    });
    client::create_topic(&bootstrap, "wide", 200, &[]);
    let producer = client::producer(&bootstrap, &[]);
    for partition in 0..200 {
        client::send(&producer, "wide", partition, None, b"one");
    }
    client::flush(&producer);
    let read = client::read_partition(&bootstrap, "wide", 199, 0).len();
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    assert_eq!(read, 1);
}

/// What root may beyond its limits: lock any amount of memory, raise hard limits.
fn give_up_privileges() {
    const CAP_IPC_LOCK: libc::c_ulong = 14;
    const CAP_SYS_RESOURCE: libc::c_ulong = 24;
    for capability in [CAP_IPC_LOCK, CAP_SYS_RESOURCE] {
        // SAFETY: prctl with these numbers touches no memory. It fails for who has no privileges.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}
