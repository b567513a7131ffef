//! One blocking connection for everything that is not measured: versions, topics, offsets.
//!
//! Runs on: the calling thread, before and after a run.
//! Promises: an error names the address, the API and the reason.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use bytes::Bytes;
use corelog::wire::api::ApiKey;
use corelog::wire::messages::{ColdRequest, decode_response, encode_request};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;

/// What this tool calls itself.
pub(crate) const CLIENT_ID: &str = "corelog-bench";
const PATIENCE: Duration = Duration::from_secs(30);
const RESPONSE_BYTES_MAX: usize = 512 << 20;
const UNSUPPORTED_VERSION: i16 = 35;

/// What a broker speaks: API key, lowest and highest version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versions(Vec<(i16, i16, i16)>);

impl Versions {
    /// The highest version of an API that the broker, `wire` and the caller know.
    pub(crate) fn agree(&self, api: ApiKey, max: i16) -> Result<i16, String> {
        let code = api.code();
        let Some((_, low, high)) = self.0.iter().find(|(key, ..)| *key == code) else {
            return Err(format!("the broker does not serve {api}"));
        };
        let version = max.min(*high).min(api.spec().max);
        if version < *low || version < api.spec().min {
            return Err(format!(
                "the broker serves {api} versions {low} to {high} only"
            ));
        }
        Ok(version)
    }
}

/// A connection that agreed on versions.
#[derive(Debug)]
pub(crate) struct ColdConnection {
    stream: TcpStream,
    address: String,
    correlation_id: i32,
    versions: Versions,
}

/// Connects within the patience of this tool.
pub(crate) fn connect(address: &str) -> Result<TcpStream, String> {
    let failed = |reason: &dyn std::fmt::Display| format!("{address}: {reason}");
    let addresses = address.to_socket_addrs().map_err(|error| failed(&error))?;
    let mut last = failed(&"no such host");
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = failed(&error),
        }
    }
    Err(last)
}

impl ColdConnection {
    pub(crate) fn open(address: &str) -> Result<Self, String> {
        let stream = connect(address)?;
        let timeouts = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .and_then(|()| stream.set_nodelay(true));
        timeouts.map_err(|error| format!("{address}: {error}"))?;
        let mut connection = Self {
            stream,
            address: address.to_owned(),
            correlation_id: 0,
            versions: Versions::default(),
        };
        connection.negotiate()?;
        Ok(connection)
    }

    /// What the broker speaks.
    pub(crate) fn versions(&self) -> &Versions {
        &self.versions
    }

    /// The process at the other end, when it is on this machine.
    pub(crate) fn broker_pid(&self) -> Option<u32> {
        crate::process::pid_behind(&self.stream)
    }

    /// The connection itself.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn negotiate(&mut self) -> Result<(), String> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT_ID))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let frame = self.exchange(&request, 3)?;
        // an older broker answers in version 0, with this error first
        let is_refused = frame.get(4..6) == Some(&UNSUPPORTED_VERSION.to_be_bytes());
        let (frame, version) = match is_refused {
            true => (self.exchange(&request, 0)?, 0),
            false => (frame, 3),
        };
        let (_, response) = decode_response::<ApiVersionsResponse>(version, &frame)
            .map_err(|error| format!("{}: ApiVersions: {error}", self.address))?;
        check(&self.address, response.error_code)?;
        let lines = response.api_keys.iter();
        self.versions = Versions(
            lines
                .map(|line| (line.api_key, line.min_version, line.max_version))
                .collect(),
        );
        Ok(())
    }

    /// Sends a request in the highest version up to `max` and waits for the answer.
    pub(crate) fn call<R: ColdRequest>(
        &mut self,
        request: &R,
        max: i16,
    ) -> Result<R::Response, String> {
        let explain = |error: String| format!("{}: {}: {error}", self.address, R::API);
        let version = self.versions.agree(R::API, max).map_err(explain)?;
        let frame = self.exchange(request, version)?;
        let (_, response) = decode_response::<R::Response>(version, &frame)
            .map_err(|error| format!("{}: {}: {error}", self.address, R::API))?;
        Ok(response)
    }

    fn exchange<R: ColdRequest>(&mut self, request: &R, version: i16) -> Result<Bytes, String> {
        self.correlation_id += 1;
        let id = self.correlation_id.into();
        let frame = encode_request(version, id, CLIENT_ID, request)
            .map_err(|error| format!("{}: {error}", R::API))?;
        let answer = self.stream.write_all(&frame).and_then(|()| self.read());
        answer.map_err(|error| format!("{}: {}: {error}", self.address, R::API))
    }

    fn read(&mut self) -> std::io::Result<Bytes> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let length = usize::try_from(i32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
        if length > RESPONSE_BYTES_MAX {
            return Err(std::io::Error::other("an impossible length"));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body.into())
    }
}

/// The name of an error code of the protocol.
pub(crate) fn error_name(code: i16) -> String {
    match kafka_protocol::ResponseError::try_from_code(code) {
        Some(error) => format!("{error:?}"),
        None => format!("Error{code}"),
    }
}

/// An error unless the code is 0.
pub(crate) fn check(what: &str, code: i16) -> Result<(), String> {
    match code {
        0 => Ok(()),
        code => Err(format!("{what}: {}", error_name(code))),
    }
}
