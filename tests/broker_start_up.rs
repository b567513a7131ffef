//! Starts that must be refused, in one line and with nothing touched, and ordinary stops.

mod support;

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use support::no_io_uring::forbid_io_uring;
use support::{Launch, client, contents, directory};

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
        contents(&second_path).is_empty(),
        "{:?}",
        contents(&second_path).keys()
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
    assert!(
        contents(&data_dir).is_empty(),
        "{:?}",
        contents(&data_dir).keys()
    );
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
    assert!(
        broker.said().lines().count() >= 2,
        "a line at the start and one at the stop"
    );
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
    let started = Instant::now();
    let broker = Launch::new(dir.path()).start();
    let elapsed = started.elapsed();
    assert!(
        elapsed < Duration::from_secs(3),
        "{elapsed:?}: {}",
        broker.said()
    );
}
