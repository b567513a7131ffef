//! A broker that keeps its promises badly: what this tool is tested against.
//!
//! Speaks just enough of the protocol to be produced to and consumed from. It discards, or stores
//! in memory; it can stall, lose, repeat, swap and damage batches that it has acknowledged.
//!
//! Runs on: the main thread accepts; each connection has a thread of its own, which blocks.
//! Promises: without a fault, what was acknowledged is read back byte for byte.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use corelog::model::error_code::ErrorCode;
use corelog::wire::fetch::{FetchPartitionResponse, FetchRequest, FetchResponse};
use corelog::wire::fetch::{FetchTopicResponse, Part};
use corelog::wire::header::RequestHeader;
use corelog::wire::messages::{ColdResponse, Request, decode_request, encode_response};
use corelog::wire::produce::{
    ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopicResponse,
};
use corelog::wire::{EncodeError, api_versions};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest,
    MetadataResponse, ProducerId,
};

use crate::cluster::text;
use crate::sink_store::{Store, Topic};

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Batches are acknowledged and forgotten; nothing can be read.
    Discard,
    /// Every `--every`th batch is acknowledged and forgotten.
    Lose,
    /// Every `--every`th batch is there twice.
    Duplicate,
    /// Every `--every`th batch changes places with the next one of its partition.
    Reorder,
    /// A byte of every `--every`th batch is another one.
    Corrupt,
    /// The same, under a checksum of the batch that fits.
    CorruptQuietly,
    /// Every `--every`th batch is refused.
    Refuse,
}

/// Flags of the sink.
#[derive(Clone, Debug, Args)]
pub(crate) struct SinkOptions {
    /// Where to listen; the address in use is the first line of output
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    #[arg(long, value_enum, default_value_t = Fault::None)]
    fault: Fault,
    /// Which batches the fault hits
    #[arg(long, default_value_t = 7)]
    every: u64,
    /// Stop answering so many seconds after the first Produce request; 0: never
    #[arg(long, default_value_t = 0.0)]
    stall_after: f64,
    /// Seconds without an answer
    #[arg(long, default_value_t = 1.0)]
    stall_for: f64,
}

/// Serves until it is killed.
pub(crate) fn run(options: &SinkOptions) -> Result<(), String> {
    let explain = |error: std::io::Error| format!("{}: {error}", options.listen);
    let listener = TcpListener::bind(&options.listen).map_err(explain)?;
    let address = listener.local_addr().map_err(explain)?;
    println!("{address}");
    let sink = Arc::new(Sink {
        port: address.port(),
        store: Store::new(options.fault, options.every),
        next_producer_id: AtomicI64::new(1),
        stall: Stall {
            after: Duration::from_secs_f64(options.stall_after),
            time: Duration::from_secs_f64(options.stall_for),
            began: std::sync::OnceLock::new(),
        },
    });
    loop {
        let (stream, _) = listener.accept().map_err(explain)?;
        let sink = Arc::clone(&sink);
        thread::spawn(move || {
            // the end of a connection is the client's business
            let _ = sink.serve(stream);
        });
    }
}

struct Sink {
    port: u16,
    store: Store,
    next_producer_id: AtomicI64,
    stall: Stall,
}

/// One silence of the whole sink.
struct Stall {
    after: Duration,
    time: Duration,
    /// First Produce request.
    began: std::sync::OnceLock<std::time::Instant>,
}

impl Stall {
    fn wait(&self) {
        if self.after.is_zero() {
            return;
        }
        let since = self.began.get_or_init(std::time::Instant::now).elapsed();
        if since > self.after {
            thread::sleep((self.after + self.time).saturating_sub(since));
        }
    }
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

impl Sink {
    fn serve(&self, mut stream: TcpStream) -> Outcome<()> {
        stream.set_nodelay(true)?;
        let mut buffer = BytesMut::new();
        let mut out = Vec::new();
        loop {
            let mut prefix = [0; 4];
            stream.read_exact(&mut prefix)?;
            let length = usize::try_from(i32::from_be_bytes(prefix))?;
            buffer.resize(length, 0);
            stream.read_exact(&mut buffer)?;
            let frame = buffer.split().freeze();
            out.clear();
            self.answer(&frame, &mut out)?;
            if !out.is_empty() {
                stream.write_all(&out)?;
            }
        }
    }

    fn answer(&self, frame: &Bytes, out: &mut Vec<u8>) -> Outcome<()> {
        let (header, body) = RequestHeader::parse(frame)?;
        let request = decode_request(&header, &body)?;
        let version = header.version;
        let frame = match request {
            Request::Produce(request) => {
                self.stall.wait();
                let response = self.produce(&request);
                if request.acks == 0 {
                    return Ok(());
                }
                response.encode(version, header.correlation_id)
            }
            Request::Fetch(request) => {
                return self.fetch(&request, version, &header, out);
            }
            Request::ApiVersions(_) => encode(&header, api_versions::response(version, &[])),
            Request::Metadata(request) => encode(&header, self.metadata(&request)),
            Request::CreateTopics(request) => encode(&header, self.create(&request)),
            Request::DeleteTopics(request) => encode(&header, self.delete(&request)),
            Request::ListOffsets(request) => encode(&header, self.offsets(&request)),
            Request::InitProducerId(_) => {
                let id = self.next_producer_id.fetch_add(1, Ordering::Relaxed);
                let response = InitProducerIdResponse::default()
                    .with_producer_id(ProducerId(id))
                    .with_producer_epoch(0);
                encode(&header, response)
            }
            other => return Err(format!("{} is not served", other.api()).into()),
        };
        out.extend_from_slice(&frame?);
        Ok(())
    }

    fn produce(&self, request: &ProduceRequest) -> ProduceResponse {
        let mut response = ProduceResponse::default();
        for topic in &request.topics {
            let partitions = topic.partitions.iter().map(|partition| {
                let records = partition.records.as_deref().unwrap_or_default();
                match self
                    .store
                    .append(&topic.topic, partition.index.get(), records)
                {
                    Ok(base) => ProducePartitionResponse::appended(partition.index, base, 0),
                    Err(error) => ProducePartitionResponse::refused(partition.index, error),
                }
            });
            response.topics.push(ProduceTopicResponse {
                topic: topic.topic.clone(),
                partitions: partitions.collect(),
            });
        }
        response
    }

    fn fetch(
        &self,
        request: &FetchRequest,
        version: i16,
        header: &RequestHeader,
        out: &mut Vec<u8>,
    ) -> Outcome<()> {
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        let read = self.store.read(request, wait);
        let mut records = Vec::new();
        let mut read = read.into_iter();
        let mut topics = Vec::new();
        for topic in &request.topics {
            let partitions = topic.partitions.iter().map(|partition| {
                let (end, bytes) = read.next().unwrap_or_default();
                let mut response =
                    FetchPartitionResponse::refused(partition.index, ErrorCode::None);
                response.high_watermark = end;
                response.last_stable_offset = end;
                response.log_start_offset = 0;
                response.records_len = bytes.len();
                records.push(bytes);
                response
            });
            topics.push(FetchTopicResponse {
                topic: topic.topic.clone(),
                partitions: partitions.collect(),
            });
        }
        let mut response = FetchResponse::empty(ErrorCode::None, 0);
        response.topics = topics;
        for part in response.encode(version, header.correlation_id)?.parts {
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(&bytes),
                Part::Records { partition, .. } => out.extend_from_slice(&records[partition]),
            }
        }
        Ok(())
    }

    fn metadata(&self, request: &MetadataRequest) -> MetadataResponse {
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(0))
            .with_host(text("127.0.0.1"))
            .with_port(i32::from(self.port));
        let asked = request.topics.iter().flatten();
        let names = asked.filter_map(|topic| topic.name.clone());
        let topics = names.map(|name| {
            let found = self.store.topic(&name.0);
            let response = MetadataResponseTopic::default().with_name(Some(name));
            match found {
                Some(Topic { id, partitions, .. }) => response
                    .with_topic_id(id)
                    .with_partitions((0..partitions).map(led_here).collect()),
                None => response.with_error_code(3),
            }
        });
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_controller_id(BrokerId(0))
            .with_topics(topics.collect())
    }

    fn create(&self, request: &CreateTopicsRequest) -> CreateTopicsResponse {
        let topics = request.topics.iter().map(|topic| {
            let error = self.store.create(&topic.name.0, topic.num_partitions);
            CreatableTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(error)
        });
        CreateTopicsResponse::default().with_topics(topics.collect())
    }

    fn delete(&self, request: &DeleteTopicsRequest) -> DeleteTopicsResponse {
        let names = request.topics.iter().filter_map(|topic| topic.name.clone());
        let responses = names.map(|name| {
            self.store.delete(&name.0);
            DeletableTopicResult::default().with_name(Some(name))
        });
        DeleteTopicsResponse::default().with_responses(responses.collect())
    }

    fn offsets(&self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        const EARLIEST: i64 = -2;
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let end = self.store.end(&topic.name.0, index);
                let offset = if partition.timestamp == EARLIEST {
                    0
                } else {
                    end
                };
                ListOffsetsPartitionResponse::default()
                    .with_partition_index(index)
                    .with_offset(offset)
            });
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }
}

fn encode<R: ColdResponse>(header: &RequestHeader, response: R) -> Result<Bytes, EncodeError> {
    encode_response(header.version, header.correlation_id, response)
}

fn led_here(partition: i32) -> MetadataResponsePartition {
    MetadataResponsePartition::default()
        .with_partition_index(partition)
        .with_leader_id(BrokerId(0))
        .with_replica_nodes(vec![BrokerId(0)])
        .with_isr_nodes(vec![BrokerId(0)])
}
