//! One connection: frames out and in, versions agreed with `ApiVersions`.
//!
//! Runs on: the calling thread.
//! Promises: one request at a time, each with a deadline; a response is bounded before it is read;
//! an error leaves the connection unusable (the caller drops it).

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, StrBytes};

use super::error::Error;
use crate::config::address::HostPort;

/// How long a connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take beyond what the request itself lets the broker wait.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A larger response is refused unread.
const RESPONSE_BYTES_MAX: usize = 512 << 20;
const API_VERSIONS_VERSION: i16 = 3;
/// `UNSUPPORTED_VERSION`: older brokers answer so, with a body of version 0.
const UNSUPPORTED_VERSION: i16 = 35;

/// A connection to one broker.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: String,
    next_correlation_id: i32,
    /// The next byte from the broker begins a response.
    is_in_step: bool,
    versions: Vec<(i16, i16, i16)>,
}

impl Connection {
    /// Connects and agrees on versions.
    pub fn open(address: &HostPort) -> Result<Self, Error> {
        let stream = connect(address)?;
        let mut connection = Self {
            stream,
            address: address.to_string(),
            next_correlation_id: 1,
            is_in_step: true,
            versions: Vec::new(),
        };
        connection.agree()?;
        Ok(connection)
    }

    /// The broker's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn agree(&mut self) -> Result<(), Error> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("corelog"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let newest = self.exchange(&request, API_VERSIONS_VERSION, true, Duration::ZERO);
        let response = match newest {
            // an older broker says so, or answers in a form of its own
            Ok(ref answer) if answer.error_code == UNSUPPORTED_VERSION => None,
            Err(Error::Malformed { .. }) if self.is_in_step => None,
            other => Some(other?),
        };
        let response = match response {
            Some(response) => response,
            None => self.exchange(&request, 0, true, Duration::ZERO)?,
        };
        Error::check(
            || format!("ApiVersions at {}", self.address),
            response.error_code,
            None,
        )?;
        self.versions = response
            .api_keys
            .iter()
            .map(|api| (api.api_key, api.min_version, api.max_version))
            .collect();
        Ok(())
    }

    /// The highest version that broker and `version_max` allow; `None` when there is none.
    pub fn version<R: Request>(&self, version_max: i16) -> Option<i16> {
        let (_, min, max) = self.versions.iter().find(|(key, ..)| *key == R::KEY)?;
        let highest = version_max.min(*max).min(R::VERSIONS.max);
        let lowest = (*min).max(R::VERSIONS.min);
        (lowest <= highest).then_some(highest)
    }

    /// Sends a request and waits for its response. `version_max` is the newest version whose
    /// fields the caller fills and reads.
    pub fn call<R: Request>(
        &mut self,
        request: &R,
        version_max: i16,
    ) -> Result<R::Response, Error> {
        self.call_waiting(request, version_max, Duration::ZERO)
    }

    /// As `call`, for a request that lets the broker wait for `wait`.
    pub fn call_waiting<R: Request>(
        &mut self,
        request: &R,
        version_max: i16,
        wait: Duration,
    ) -> Result<R::Response, Error> {
        let version = self.agreed::<R>(version_max)?;
        self.exchange(request, version, false, wait)
    }

    /// Sends a request that has no response (Produce with acks=0).
    pub fn send<R: Request>(&mut self, request: &R, version_max: i16) -> Result<(), Error> {
        let version = self.agreed::<R>(version_max)?;
        let (frame, _) = self.encode(request, version)?;
        self.write(&frame, &api_name(R::KEY), REQUEST_TIMEOUT)
    }

    fn agreed<R: Request>(&self, version_max: i16) -> Result<i16, Error> {
        self.version::<R>(version_max)
            .ok_or_else(|| Error::Unsupported {
                address: self.address.clone(),
                api: api_name(R::KEY),
            })
    }

    fn exchange<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        may_fall_back: bool,
        wait: Duration,
    ) -> Result<R::Response, Error> {
        let api = api_name(R::KEY);
        let deadline = REQUEST_TIMEOUT + wait;
        let (frame, correlation_id) = self.encode(request, version)?;
        self.write(&frame, &api, deadline)?;
        let mut body = self.read(&api, deadline)?;
        let malformed = |reason: String| Error::Malformed {
            address: self.address.clone(),
            api: api.clone(),
            reason,
        };
        // the header of ApiVersions answers is version 0 always, so that it can say "unsupported"
        let header_version = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut body, header_version)
            .map_err(|error| malformed(error.to_string()))?;
        if header.correlation_id != correlation_id {
            let found = header.correlation_id;
            return Err(malformed(format!(
                "it answers request {found}, not {correlation_id}"
            )));
        }
        let fallen_back =
            may_fall_back && body.starts_with(&UNSUPPORTED_VERSION.to_be_bytes()) && version != 0;
        let response_version = if fallen_back { 0 } else { version };
        R::Response::decode(&mut body, response_version)
            .map_err(|error| malformed(error.to_string()))
    }

    fn encode<R: Request>(&mut self, request: &R, version: i16) -> Result<(BytesMut, i32), Error> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("corelog-cli")));
        let mut frame = BytesMut::from(&[0; 4][..]);
        let encoded = header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version));
        let unsendable = |reason: String| Error::Unsendable {
            address: self.address.clone(),
            api: api_name(R::KEY),
            reason,
        };
        encoded.map_err(|error| unsendable(error.to_string()))?;
        let length = i32::try_from(frame.len() - 4)
            .map_err(|_| unsendable("it is larger than 2 GiB".to_owned()))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok((frame, correlation_id))
    }

    fn write(&mut self, frame: &[u8], api: &str, deadline: Duration) -> Result<(), Error> {
        self.stream
            .set_write_timeout(Some(deadline))
            .and_then(|()| self.stream.write_all(frame))
            .map_err(|error| self.broken(&error, api, deadline))
    }

    fn read(&mut self, api: &str, deadline: Duration) -> Result<Bytes, Error> {
        let mut prefix = [0; 4];
        self.is_in_step = false;
        self.stream
            .set_read_timeout(Some(deadline))
            .and_then(|()| self.stream.read_exact(&mut prefix))
            .map_err(|error| self.broken(&error, api, deadline))?;
        let length = i32::from_be_bytes(prefix);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= RESPONSE_BYTES_MAX)
            .ok_or_else(|| Error::Malformed {
                address: self.address.clone(),
                api: api.to_owned(),
                reason: format!("its length is {length} bytes"),
            })?;
        let mut body = vec![0; length];
        self.stream
            .read_exact(&mut body)
            .map_err(|error| self.broken(&error, api, deadline))?;
        self.is_in_step = true;
        Ok(Bytes::from(body))
    }

    fn broken(&self, error: &io::Error, api: &str, deadline: Duration) -> Error {
        let address = self.address.clone();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::TimedOut {
                address,
                api: api.to_owned(),
                seconds: deadline.as_secs(),
            },
            io::ErrorKind::UnexpectedEof => Error::Disconnected {
                address,
                reason: "closed by the broker".to_owned(),
            },
            _ => Error::Disconnected {
                address,
                reason: error.to_string(),
            },
        }
    }
}

fn connect(address: &HostPort) -> Result<TcpStream, Error> {
    let unreachable = |reason: String| Error::Unreachable {
        address: address.to_string(),
        reason,
    };
    let candidates = (address.host.as_str(), address.port)
        .to_socket_addrs()
        .map_err(|error| unreachable(error.to_string()))?;
    let mut last = "the name has no address".to_owned();
    for candidate in candidates {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream
                    .set_nodelay(true)
                    .map_err(|error| unreachable(error.to_string()))?;
                return Ok(stream);
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(unreachable(last))
}

fn api_name(key: i16) -> String {
    ApiKey::try_from(key).map_or_else(|()| format!("API {key}"), |known| format!("{known:?}"))
}

const _: () = assert!(
    ApiVersionsResponse::VERSIONS.max >= API_VERSIONS_VERSION,
    "the version that is asked first can be read"
);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use kafka_protocol::messages::{FetchRequest, MetadataRequest};

    use super::*;

    fn listener() -> (TcpListener, HostPort) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        (
            listener,
            HostPort {
                host: "127.0.0.1".into(),
                port,
            },
        )
    }

    /// Answers each connection's first frames with these bodies (after the correlation id).
    fn answer(bodies: Vec<Vec<u8>>) -> HostPort {
        let (listener, address) = listener();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for body in bodies {
                let mut prefix = [0; 4];
                stream.read_exact(&mut prefix).expect("a frame");
                let length = usize::try_from(i32::from_be_bytes(prefix)).expect("a length");
                let mut frame = vec![0; length];
                stream.read_exact(&mut frame).expect("a frame");
                let length = i32::try_from(body.len() + 4).expect("small");
                stream.write_all(&length.to_be_bytes()).expect("written");
                stream.write_all(&frame[4..8]).expect("written");
                stream.write_all(&body).expect("written");
            }
        });
        address
    }

    /// A version 0 body: error code, then one API with its versions.
    fn api_versions_0(error_code: i16, api: [i16; 3]) -> Vec<u8> {
        let mut body = error_code.to_be_bytes().to_vec();
        body.extend(1_i32.to_be_bytes());
        body.extend(api.iter().flat_map(|number| number.to_be_bytes()));
        body
    }

    #[test]
    fn a_port_without_listener_is_unreachable_in_one_line() {
        let (listener, address) = listener();
        drop(listener);
        let error = Connection::open(&address).expect_err("nobody listens");
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn an_older_broker_is_asked_again_in_version_0() {
        let address = answer(vec![
            api_versions_0(UNSUPPORTED_VERSION, [18, 0, 2]),
            api_versions_0(0, [3, 1, 5]),
        ]);
        let connection = Connection::open(&address).expect("agreed");
        assert_eq!(connection.version::<MetadataRequest>(12), Some(5));
        assert_eq!(connection.version::<MetadataRequest>(4), Some(4));
        assert_eq!(connection.version::<FetchRequest>(12), None);
    }

    #[test]
    fn a_response_of_absurd_length_is_refused_unread() {
        let (listener, address) = listener();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let _ = stream.read(&mut [0; 256]);
            stream.write_all(&i32::MAX.to_be_bytes()).expect("written");
        });
        let error = Connection::open(&address).expect_err("2 GiB");
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
    }

    #[test]
    fn a_broker_that_closes_is_named() {
        let (listener, address) = listener();
        std::thread::spawn(move || drop(listener.accept()));
        let error = Connection::open(&address).expect_err("closed");
        assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    }
}
