//! Frames written and read by hand: several requests before the first answer, any version.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use super::client::LIMIT;

/// One connection; correlation ids count from 0.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    next_correlation_id: i32,
    next_answer: i32,
}

impl Connection {
    /// Connects; an answer that does not come fails the test.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("accepted");
        stream.set_read_timeout(Some(LIMIT)).expect("valid");
        stream.set_nodelay(true).expect("valid");
        Self {
            stream,
            next_correlation_id: 0,
            next_answer: 0,
        }
    }

    /// The frame of the next request, to be sent in this order.
    pub fn frame<R: Request>(&mut self, request: &R, version: i16) -> Bytes {
        self.frame_as(request, version, version)
    }

    /// The same under the number of a version that is not generated but has the same bytes.
    pub fn frame_as<R: Request>(&mut self, request: &R, version: i16, number: i16) -> Bytes {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(number)
            .with_correlation_id(self.next_correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("raw")));
        self.next_correlation_id += 1;
        let mut body = BytesMut::new();
        header
            .encode(&mut body, R::header_version(version))
            .and_then(|()| request.encode(&mut body, version))
            .expect("a valid request");
        let length = u32::try_from(body.len()).expect("a small request");
        [&length.to_be_bytes()[..], &body].concat().into()
    }

    /// Writes all of these bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("taken");
    }

    /// The next answer, which must be the one that is due.
    #[track_caller]
    pub fn receive<R: Request>(&mut self, version: i16) -> R::Response {
        self.receive_bytes().decode::<R>(version)
    }

    /// The bytes of the next answer.
    #[track_caller]
    pub fn receive_bytes(&mut self) -> Answer {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("answered");
        let length = usize::try_from(u32::from_be_bytes(length)).expect("it fits");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("answered whole");
        self.next_answer += 1;
        Answer {
            body: body.into(),
            correlation_id: self.next_answer - 1,
        }
    }

    /// Sends one request and waits for its answer.
    #[track_caller]
    pub fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let frame = self.frame(request, version);
        self.send(&frame);
        self.receive::<R>(version)
    }
}

/// An answer as it came, and the request it must belong to.
#[derive(Debug)]
pub struct Answer {
    body: Bytes,
    correlation_id: i32,
}

impl Answer {
    /// Bytes behind the length.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// The answer to a request of this type and version, to the last byte.
    #[track_caller]
    pub fn decode<R: Request>(&self, version: i16) -> R::Response {
        let mut body = self.body.clone();
        let header = ResponseHeader::decode(&mut body, R::Response::header_version(version));
        let header = header.expect("a header");
        assert_eq!(
            header.correlation_id, self.correlation_id,
            "answers in order"
        );
        let response = R::Response::decode(&mut body, version).expect("decodable");
        assert!(body.is_empty(), "{} bytes too many", body.len());
        response
    }
}

/// A text of the protocol.
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
