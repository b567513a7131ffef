//! Every setting of the broker itself has an effect: identity, addresses, cores, memory, journal.

mod running_broker;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use corelog::client::Client;
use corelog::config::address::HostPort;
use corelog::rt::executor::{self, LaneShares, ShardSpec};
use corelog::rt::{self, Lane};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{DescribeConfigsRequest, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::StrBytes;

use running_broker::{Broker, eventually, free_address};

fn metadata(broker: &Broker) -> MetadataResponse {
    let mut client = broker.client();
    let connection = client.any().expect("connected");
    connection
        .call(&MetadataRequest::default(), 8)
        .expect("an answer")
}

/// The body of an HTTP answer.
fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer
        .split_once("\r\n\r\n")
        .map_or(String::new(), |(_, body)| body.to_owned()))
}

/// The total of a metric.
fn metric(address: &str, name: &str) -> f64 {
    let page = get(address, "/metrics").expect("served");
    let line = page
        .lines()
        .find(|line| line.starts_with(name) && line.contains("shard=\"total\""))
        .unwrap_or_else(|| panic!("no {name} in {page}"));
    line.rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

#[test]
fn node_id_cluster_id_and_advertise_are_what_clients_see() {
    let broker = Broker::with_settings(&[
        "node.id=7",
        "cluster.id=my-cluster",
        "advertise=broker.example:1234",
    ]);
    let seen = metadata(&broker);
    assert_eq!(seen.brokers[0].node_id.0, 7);
    assert_eq!(seen.brokers[0].host.as_str(), "broker.example");
    assert_eq!(seen.brokers[0].port, 1234);
    assert_eq!(seen.cluster_id.as_deref(), Some("my-cluster"));
}

#[test]
fn without_advertise_clients_are_told_the_address_they_came_to() {
    let address = free_address();
    let port = address.rsplit(':').next().expect("a port").to_owned();
    let broker = Broker::start(&["--set", &format!("listen=127.0.0.1:{port},[::1]:{port}")]);
    for host in ["127.0.0.1", "::1"] {
        let bootstrap = corelog::config::address::HostPort {
            host: host.to_owned(),
            port: port.parse().expect("a port"),
        };
        let mut client = corelog::client::Client::connect(&[bootstrap]).expect("connected");
        let connection = client.any().expect("connected");
        let seen = connection
            .call(&MetadataRequest::default(), 8)
            .expect("an answer");
        assert_eq!(seen.brokers[0].host.as_str(), host);
        assert_eq!(seen.brokers[0].port.to_string(), port);
    }
    drop(broker);
}

#[test]
fn admin_serves_health_and_metrics_or_nothing() {
    let address = free_address();
    let broker = Broker::start(&["--set", &format!("admin={address}")]);
    assert_eq!(get(&address, "/healthz").expect("served").trim(), "ok");
    let broker = broker.restart(&[]);
    assert!(TcpStream::connect(&address).is_err());
    drop(broker);
}

#[test]
fn data_dir_is_where_everything_is_and_log_format_shapes_the_lines() {
    let broker = Broker::with_settings(&["log.format=json"]);
    assert!(broker.data().join("corelog.json").exists());
    for line in broker.log().lines() {
        let parsed: serde_json::Value = serde_json::from_str(line).expect("one object a line");
        assert!(parsed.is_object(), "{line}");
    }
    let text = broker.restart(&["--set", "log.format=text"]);
    let ready = text
        .log()
        .lines()
        .find(|line| line.contains("ready"))
        .map(str::to_owned);
    assert!(!ready.expect("the ready line").starts_with('{'));
}

/// The levels of the lines that a broker has written, beside the one that it is ready.
fn levels(broker: &Broker) -> BTreeSet<String> {
    let log = broker.log();
    let lines = log.lines().map(|line| -> serde_json::Value {
        serde_json::from_str(line).expect("one object a line")
    });
    lines
        .filter(|line| line["message"] != "ready")
        .map(|line| line["level"].as_str().expect("a level").to_owned())
        .collect()
}

/// Asks for the versions of the APIs, and breaks off when the answer begins.
fn reset_a_connection(broker: &Broker) {
    let mut socket = broker.socket();
    let request = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    socket.write_all(&request).expect("taken");
    socket.read_exact(&mut [0]).expect("an answer");
    let settings = socket2::SockRef::from(&socket);
    settings.set_linger(Some(Duration::ZERO)).expect("a socket");
}

#[test]
fn log_level_is_the_least_serious_of_the_lines_that_are_written() {
    let mut broker = Broker::start(&[]);
    broker.produce(&["t"], "for the journal\n");
    for (level, expected) in [
        ("error", &[][..]),
        ("warn", &["WARN"]),
        ("info", &["INFO", "WARN"]),
        ("debug", &["DEBUG", "INFO", "WARN"]),
    ] {
        // a start warns of the setting (WARN) and tells of the journal it found (INFO)
        let level = format!("log.level={level}");
        let settings = [&level, "log.format=json", "num.io.threads=8", "cores=0"];
        broker = broker.restart(&settings.map(|setting| ["--set", setting]).concat());
        reset_a_connection(&broker); // DEBUG
        broker.produce(&["t"], "for the journal\n");
        eventually("lines of these levels, and no others", || {
            levels(&broker).iter().eq(expected).then_some(())
        });
    }
}

/// A broker that Kafka's names for its settings describe, in a file.
struct Renamed {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Renamed {
    /// Starts with its data in `data`, said by this setting.
    fn start(name_of_data_dir: &str) -> Self {
        let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR"));
        let directory = directory.expect("a directory");
        let address = free_address();
        let port = address
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        let file = directory.path().join("corelog.toml");
        let data = directory.path().join("data");
        let listeners = format!("PLAINTEXT://{address}");
        let settings = [
            ("broker.id", "7"),
            ("listeners", &listeners),
            ("advertised.listeners", "PLAINTEXT://broker.example:1234"),
            (name_of_data_dir, data.to_str().expect("text")),
        ];
        let lines = settings.map(|(name, value)| format!("{name} = {value:?}\n"));
        let text = lines.concat();
        std::fs::write(&file, text).expect("written");
        let process = Command::new(env!("CARGO_BIN_EXE_corelog"))
            .args([
                "serve",
                "--memory-per-shard",
                "64MiB",
                "--journal-size",
                "16MiB",
            ])
            .args(["--cores", "0", "--admin", "off", "--config"])
            .arg(file)
            .spawn();
        Self {
            process: process.expect("the program starts"),
            port: port.expect("a port"),
            directory,
        }
    }
}

impl Drop for Renamed {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn kafkas_names_for_identity_addresses_and_directory_do_the_same() {
    for name_of_data_dir in ["log.dirs", "log.dir"] {
        let broker = Renamed::start(name_of_data_dir);
        let bootstrap = [HostPort {
            host: "127.0.0.1".to_owned(),
            port: broker.port,
        }];
        let mut client = eventually("`listeners` is listened on", || {
            Client::connect(&bootstrap).ok()
        });
        let connection = client.any().expect("connected");
        let answer = connection.call(&MetadataRequest::default(), 8);
        let seen = &answer.expect("an answer").brokers[0];
        assert_eq!(seen.node_id.0, 7);
        assert_eq!((seen.host.as_str(), seen.port), ("broker.example", 1234));
        let identity = broker.directory.path().join("data/corelog.json");
        assert!(identity.exists(), "{name_of_data_dir}");
    }
}

#[test]
fn cores_memory_and_journal_are_taken_as_told() {
    let admin = free_address();
    let broker = Broker::start(&[
        "--set",
        &format!("admin={admin}"),
        "--set",
        "cores=0",
        "--set",
        "memory.per.shard=48MiB",
        "--set",
        "journal.size=20MiB",
        "--set",
        "ring.depth=64",
    ]);
    let journals = std::fs::read_dir(broker.data().join("journal")).expect("journals");
    assert_eq!(journals.count(), 1, "one shard per core");
    eventually("the ring has grown to its size", || {
        let capacity = metric(&admin, "corelog_journal_capacity_bytes");
        (16e6..=21e6).contains(&capacity).then_some(())
    });
    for (name, value) in [
        ("cores", "0"),
        ("memory.per.shard", "48MiB"),
        ("journal.size", "20MiB"),
        ("commit.bytes", "1MiB"),
        ("destage.size", "1MiB"),
    ] {
        assert_eq!(described(&broker, name).as_deref(), Some(value), "{name}");
    }
    // requests have three tenths of a shard's memory
    let requests = metric(&admin, "corelog_memory_limit_bytes");
    assert!((14e6..=16e6).contains(&requests), "{requests}");
    assert!(
        ring_masks(&broker).contains(&63),
        "{:?}",
        ring_masks(&broker)
    );
}

/// What DescribeConfigs says of a setting of the broker.
fn described(broker: &Broker, name: &str) -> Option<String> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(4)
        .with_resource_name(StrBytes::from_static_str("1"))
        .with_configuration_keys(Some(vec![StrBytes::from_string(name.to_owned())]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let mut client = broker.client();
    let connection = client.any().expect("connected");
    let answer = connection.call(&request, 4).expect("an answer");
    let [row] = answer.results[0].configs.as_slice() else {
        panic!("{name} is not described: {answer:?}");
    };
    row.value.as_ref().map(ToString::to_string)
}

#[test]
fn what_the_machine_decides_and_kafkas_other_names_are_described() {
    let broker = Broker::start(&[]);
    let port = broker
        .address()
        .rsplit(':')
        .next()
        .expect("a port")
        .to_owned();
    let listeners = format!("PLAINTEXT://127.0.0.1:{port}");
    assert_eq!(described(&broker, "listeners"), Some(listeners));
    let data = broker.data().display().to_string();
    assert_eq!(described(&broker, "log.dirs"), Some(data));
    assert_eq!(described(&broker, "advertised.listeners"), None);
    let cores = described(&broker, "cores").expect("a value");
    assert!(
        cores.split(',').all(|core| core.parse::<u16>().is_ok()),
        "{cores}"
    );
    let largest = described(&broker, "socket.request.max.bytes").expect("a value");
    // three tenths of 64 MiB, less than the default of 100 MiB
    assert!(
        largest.parse::<u64>().is_ok_and(|bytes| bytes < 21 << 20),
        "{largest}"
    );
}

/// Size less one of every submission ring of the process.
fn ring_masks(broker: &Broker) -> Vec<u32> {
    let infos = std::fs::read_dir(format!("/proc/{}/fdinfo", broker.process_id()));
    let mut masks = Vec::new();
    for entry in infos.expect("a process").flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let mask = text.lines().find_map(|line| line.strip_prefix("SqMask:"));
        let mask = mask.and_then(|mask| mask.trim().strip_prefix("0x"));
        masks.extend(mask.and_then(|mask| u32::from_str_radix(mask, 16).ok()));
    }
    masks
}

/// Processor time that the process has used, in clock ticks of 10 ms.
fn processor_ticks(broker: &Broker) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", broker.process_id()));
    let stat = stat.expect("a process");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .expect("fields")
        .split(' ')
        .collect();
    let number = |at: usize| fields[at].parse::<u64>().expect("a number");
    number(11) + number(12)
}

#[test]
fn spin_makes_an_idle_broker_busy_and_its_absence_leaves_it_idle() {
    let ticks_of = |spin: &str| {
        let broker = Broker::start(&["--set", "cores=0", "--set", spin]);
        std::thread::sleep(Duration::from_millis(500));
        let before = processor_ticks(&broker);
        std::thread::sleep(Duration::from_secs(1));
        processor_ticks(&broker) - before
    };
    let (idle, busy) = (ticks_of("spin=0"), ticks_of("spin=1s"));
    assert!(idle < 15, "an idle broker used {idle} of 100 ticks");
    assert!(
        busy >= idle + 10,
        "spinning used {busy}, sleeping {idle} ticks"
    );
}

fn produce_one(broker: &Broker) -> Duration {
    let start = Instant::now();
    broker.produce(&["t", "--acks", "all"], "x\n");
    start.elapsed()
}

#[test]
fn commit_delay_holds_a_lone_write_back() {
    let prompt = Broker::start(&[]);
    prompt.text(&["topic", "create", "t"]);
    let without = (0..5).map(|_| produce_one(&prompt)).min().expect("five");
    let slow = Broker::with_settings(&["commit.delay=100ms"]);
    slow.text(&["topic", "create", "t"]);
    let with = (0..5).map(|_| produce_one(&slow)).min().expect("five");
    assert!(
        with >= without + Duration::from_millis(50),
        "{with:?} against {without:?}"
    );
}

#[test]
fn commit_bytes_cuts_a_burst_into_smaller_writes() {
    let commits_with = |settings: &[&str]| {
        let admin = free_address();
        let admin_setting = format!("admin={admin}");
        let all = [settings, &[&admin_setting, "cores=0"]].concat();
        let broker = Broker::with_settings(&all);
        broker.text(&["topic", "create", "t", "--partitions", "32"]);
        let before = metric(&admin, "corelog_commits_total");
        let mut burst = String::new();
        for number in 0_u32..4_000 {
            burst.push_str(&number.to_string());
            burst.push(':');
            burst.push_str(&"x".repeat(100));
            burst.push('\n');
        }
        broker.produce(&["t", "--key-separator", ":"], &burst);
        metric(&admin, "corelog_commits_total") - before
    };
    let small = commits_with(&["commit.bytes=4KiB", "commit.delay=50ms"]);
    let large = commits_with(&["commit.bytes=1MiB", "commit.delay=50ms"]);
    assert!(
        small >= 16.0,
        "32 partitions in blocks of 4 KiB took {small} commits"
    );
    assert!(
        large < small / 2.0,
        "{large} commits of up to 1 MiB, {small} of up to 4 KiB"
    );
}

/// The most journal writes at a time while eight producers send 3 MB each.
fn writes_at_a_time(setting: &str) -> f64 {
    let admin = free_address();
    let admin_setting = format!("admin={admin}");
    let small = ["cores=0", "journal.size=64MiB", "commit.bytes=64KiB"];
    let broker = Broker::with_settings(&[&small[..], &[setting, &admin_setting]].concat());
    broker.text(&["topic", "create", "t", "--partitions", "8"]);
    let lines = format!("{}\n", "x".repeat(10_000)).repeat(300);
    let producers: Vec<_> = (0..8)
        .map(|_| {
            let mut command = broker.command(&["produce", "t"]);
            let child = command.stdin(std::process::Stdio::piped()).spawn();
            child.expect("the program starts")
        })
        .collect();
    std::thread::scope(|scope| {
        for mut producer in producers {
            let lines = &lines;
            scope.spawn(move || {
                let mut stdin = producer.stdin.take().expect("piped");
                stdin.write_all(lines.as_bytes()).expect("taken");
                drop(stdin);
                assert!(producer.wait().expect("it ends").success());
            });
        }
    });
    metric(&admin, "corelog_journal_writes_in_flight_max")
}

#[test]
fn writes_in_flight_bounds_the_journal_writes_at_a_time() {
    let one = writes_at_a_time("writes.in.flight=1");
    assert!((one - 1.0).abs() < 0.5, "{one} writes at a time, 1 allowed");
    eventually(
        "a device that is busy with one full block gets another",
        || {
            let most = writes_at_a_time("writes.in.flight=3");
            assert!(most <= 3.5, "{most} writes at a time, 3 allowed");
            (most > 1.5).then_some(())
        },
    );
}

#[test]
fn destage_size_decides_when_records_move_into_their_segments() {
    let destaged = |setting: &str| {
        let broker = Broker::with_settings(&[setting]);
        broker.text(&["topic", "create", "t"]);
        for _ in 0..4 {
            broker.produce(&["t"], &format!("{}\n", "x".repeat(100_000)));
        }
        std::thread::sleep(Duration::from_secs(1));
        broker
            .files("t-0", "log")
            .iter()
            .map(|(_, size)| size)
            .sum::<u64>()
    };
    assert!(destaged("destage.size=64KiB") > 0);
    assert_eq!(destaged("destage.size=3MiB"), 0);
}

/// Rounds of work that two busy lanes of one shard get within the same time.
fn rounds(shares: LaneShares) -> (u64, u64) {
    let spec = ShardSpec {
        shares,
        ..ShardSpec::default()
    };
    let results = executor::run_on_cores(vec![spec], |_| async {
        let until = rt::now() + Duration::from_millis(600);
        let work = move || async move {
            let mut rounds = 0;
            while rt::now() < until {
                let pause = rt::now() + Duration::from_micros(50);
                while rt::now() < pause {
                    std::hint::spin_loop();
                }
                rounds += 1;
                rt::yield_if_needed().await;
            }
            rounds
        };
        let network = rt::spawn(Lane::Network, "network", work());
        let background = rt::spawn(Lane::Background, "background", work());
        (network.await, background.await)
    });
    results.expect("the shard ran")[0]
}

#[test]
fn shares_divide_a_busy_shard() {
    let base = LaneShares::default();
    let (network, background) = rounds(LaneShares {
        network: 1000,
        background: 100,
        ..base
    });
    assert!(network > 3 * background, "{network} against {background}");
    let (network, background) = rounds(LaneShares {
        network: 100,
        background: 1000,
        ..base
    });
    assert!(background > 3 * network, "{network} against {background}");
}

#[test]
fn allow_volatile_is_needed_on_tmpfs() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        panic!("this test needs a tmpfs that can be written: mount one at /dev/shm")
    };
    let data = directory.path().join("data");
    let serve = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
        command
            .args(["serve", "--listen", &free_address(), "--admin", "off"])
            .args([
                "--memory-per-shard",
                "64MiB",
                "--journal-size",
                "16MiB",
                "--cores",
                "0",
            ])
            .arg("--data-dir")
            .arg(&data)
            .args(flags)
            .stderr(std::process::Stdio::piped());
        command.spawn().expect("the program starts")
    };
    let refused = serve(&[]).wait_with_output().expect("it ends");
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("--allow-volatile"), "{text}");
    assert!(!data.exists(), "a refused start leaves nothing behind");
    let mut allowed = serve(&["--allow-volatile"]);
    eventually("it serves or says what else is missing", || {
        let ended = allowed.try_wait().expect("a child").is_some();
        (ended || data.join("corelog.json").exists()).then_some(())
    });
    let _ = allowed.kill();
    let output = allowed.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("--allow-volatile"), "{text}");
}
