//! Creates the topics of the load.
//!
//! Runs on: the main thread.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;

use crate::producer::Lane;

const PARTITIONS: i32 = 4;
/// Topics that the group reads.
pub(crate) const GROUP_TOPICS: [&str; 2] = ["crash-plain", "crash-middle"];
/// Name and settings: one topic rolls all the time, one never, one loses its oldest segments.
const TOPICS: [(&str, &[(&str, &str)]); 4] = [
    ("crash-rolling", &[("segment.bytes", "1048576")]),
    ("crash-plain", &[("segment.bytes", "1073741824")]),
    ("crash-middle", &[("segment.bytes", "8388608")]),
    (
        "crash-expiring",
        &[("segment.bytes", "1048576"), ("retention.bytes", "4194304")],
    ),
];

/// Creates them and returns their partitions.
pub(crate) fn create(bootstrap: &str) -> Result<Vec<Lane>, String> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .map_err(|error: KafkaError| error.to_string())?;
    let topics: Vec<_> = TOPICS
        .iter()
        .map(|(name, settings)| {
            let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
            let set = |topic: NewTopic<'static>, (name, value): &(&'static str, &'static str)| {
                topic.set(name, value)
            };
            settings.iter().fold(topic, set)
        })
        .collect();
    let results = block_on(admin.create_topics(&topics, &AdminOptions::new()))
        .map_err(|error| error.to_string())?;
    for result in results {
        result.map_err(|(topic, code)| format!("topic {topic}: {code}"))?;
    }
    let lanes = TOPICS.iter().flat_map(|(topic, settings)| {
        (0..PARTITIONS).map(|partition| Lane {
            topic: (*topic).to_owned(),
            partition,
            is_expiring: settings.iter().any(|(name, _)| *name == "retention.bytes"),
        })
    });
    Ok(lanes.collect())
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future of the client library, whose threads wake it, to its end.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
