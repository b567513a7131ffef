//! A client's connection: requests out, answers in, over the simulated network.
//!
//! Runs on: a simulated shard.
//! Promises: an answer is matched to its request; anything unexpected ends the connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog::rt;
use corelog::rt::net::TcpStream;
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// A client gives up on an answer after this long, as real ones do.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A connection to the broker.
pub(crate) struct Connection {
    stream: TcpStream,
    received: BytesMut,
    next_correlation_id: i32,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            stream: TcpStream::connect(addr).await?,
            received: BytesMut::new(),
            next_correlation_id: 1,
        })
    }

    /// Sends a request; the number that its answer will have.
    pub(crate) async fn send<R: Request>(&mut self, request: &R, version: i16) -> io::Result<i32> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("sim")));
        let mut frame = BytesMut::from(&[0; 4][..]);
        header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|error| invalid(&error.to_string()))?;
        let length = i32::try_from(frame.len() - 4).map_err(|_| invalid("too long"))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let sending = self.stream.write_all_vectored(&mut [frame.freeze()]).await;
        sending.map(|()| correlation_id)
    }

    /// Waits for the answer to the oldest request without one.
    pub(crate) async fn receive<R: Request>(
        &mut self,
        correlation_id: i32,
        version: i16,
    ) -> io::Result<R::Response> {
        let mut body = rt::timeout(ANSWER_TIME, self.frame())
            .await
            .ok_or(io::ErrorKind::TimedOut)??;
        let header_version = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut body, header_version)
            .map_err(|error| invalid(&error.to_string()))?;
        assert_eq!(
            header.correlation_id, correlation_id,
            "[answers-in-order] another request's answer came first"
        );
        R::Response::decode(&mut body, version).map_err(|error| invalid(&error.to_string()))
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call<R: Request>(
        &mut self,
        request: &R,
        version: i16,
    ) -> io::Result<R::Response> {
        let correlation_id = self.send(request, version).await?;
        self.receive::<R>(correlation_id, version).await
    }

    async fn frame(&mut self) -> io::Result<Bytes> {
        self.fill(4).await?;
        let prefix = self.received.split_to(4);
        let length = i32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]);
        let length = usize::try_from(length).map_err(|_| invalid("a negative length"))?;
        self.fill(length).await?;
        Ok(self.received.split_to(length).freeze())
    }

    async fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.received.len() < count {
            if self.stream.read_some(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}
