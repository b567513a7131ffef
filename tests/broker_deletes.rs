//! Topics that are deleted while the broker is still writing them.

mod running_broker;

use std::io::Write as _;
use std::process::Stdio;
use std::thread;

use running_broker::{Broker, eventually};

/// Bytes that are on the way to many partitions when their topic goes.
const LINES: usize = 12_000;

#[test]
fn a_topic_deleted_while_it_is_destaged_leaves_the_broker_writing() {
    let broker = Broker::with_settings(&["destage.size=64KiB", "auto.create.topics.enable=false"]);
    broker.text(&["topic", "create", "kept"]);
    let content = &format!("{}\n", "x".repeat(1_000)).repeat(LINES);
    for round in 0..4 {
        let name = format!("deleted-{round}");
        broker.text(&["topic", "create", &name, "--partitions", "24"]);
        let mut command = broker.command(&["produce", &name]);
        let mut producer = command
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut stdin = producer.stdin.take().expect("piped");
        thread::scope(|scope| {
            // the producer ends in the middle, when its topic goes
            scope.spawn(move || drop(stdin.write_all(content.as_bytes())));
            eventually("segments are written", || {
                let mut sizes = (0..24)
                    .flat_map(|partition| broker.files(&format!("{name}-{partition}"), "log"));
                sizes.any(|(_, size)| size > 0).then_some(())
            });
            broker.text(&["topic", "delete", &name]);
            producer.wait().expect("it ends");
        });
        broker.produce(&["kept"], "still here\n");
    }
}
