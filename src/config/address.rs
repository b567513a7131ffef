//! Addresses and core lists as settings write them: `HOST:PORT`, `[::1]:9092`, `0,2-3`.
//!
//! Pure: no async, no clock, no IO. Names are resolved by whoever binds or connects.

use std::fmt;
use std::net::IpAddr;

/// A host (name or address, without brackets) and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address; empty never occurs, a wildcard is `0.0.0.0` or `::`.
    pub host: String,
    /// Port; 0 lets the system choose where a listener allows it.
    pub port: u16,
}

impl HostPort {
    /// Parses `host:port`, `[v6]:port`, `:port` and `*:port` (the last two: every address).
    /// A leading `PLAINTEXT://`, Kafka's form, is accepted.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("PLAINTEXT://").unwrap_or(text);
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']')?;
                inner.parse::<std::net::Ipv6Addr>().ok()?;
                inner
            }
            None if host.is_empty() || host == "*" => "::",
            None => host,
        };
        let is_name = host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !is_name && host.parse::<IpAddr>().is_err() {
            return None;
        }
        Some(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// The host as an address, when it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Binds every address of the machine.
    pub fn is_wildcard(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    /// Reaches this machine only.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Parses `IP:COUNT`, comma-separated: each address once, IPv6 with or without brackets. An empty
/// text is an empty list.
pub(super) fn parse_limits(text: &str) -> Option<Vec<(IpAddr, u32)>> {
    let mut limits: Vec<(IpAddr, u32)> = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (host, count) = part.rsplit_once(':')?;
        let host = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        let ip = host.parse::<IpAddr>().ok()?.to_canonical();
        let count = count.parse().ok()?;
        if limits.iter().any(|(known, _)| *known == ip) {
            return None;
        }
        limits.push((ip, count));
    }
    Some(limits)
}

/// Which address clients are told to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertised {
    /// Always this one.
    Fixed(HostPort),
    /// The one that the client connected to: right for loopback and for a wildcard listener.
    AsConnected,
}

/// Which processors run a shard each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// All that the process may use.
    All,
    /// These, ascending, without duplicates.
    List(Vec<usize>),
}

impl Cores {
    /// Parses `all`, `0`, `0,2-3`.
    pub fn parse(text: &str) -> Option<Self> {
        const CORES_MAX: usize = 1024;
        if text.trim() == "all" {
            return Some(Self::All);
        }
        let mut numbers = Vec::new();
        for span in text.split(',') {
            let (from, to) = span.split_once('-').unwrap_or((span, span));
            let (first, last): (usize, usize) =
                (from.trim().parse().ok()?, to.trim().parse().ok()?);
            if first > last || last >= CORES_MAX {
                return None;
            }
            numbers.extend(first..=last);
        }
        let named = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        (numbers.len() == named).then_some(Self::List(numbers))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::List(list) => {
                let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, u16)> {
        HostPort::parse(text).map(|address| (address.host, address.port))
    }

    #[test]
    fn addresses_take_names_v4_v6_and_kafkas_form() {
        assert_eq!(parsed("127.0.0.1:9092"), Some(("127.0.0.1".into(), 9092)));
        assert_eq!(parsed("[::1]:9092"), Some(("::1".into(), 9092)));
        assert_eq!(
            parsed("PLAINTEXT://broker-1.lan:19092"),
            Some(("broker-1.lan".into(), 19_092))
        );
        assert_eq!(parsed(":9092"), Some(("::".into(), 9092)));
    }

    #[test]
    fn addresses_without_port_or_with_another_protocol_are_refused() {
        for text in [
            "localhost",
            "host:",
            "host:70000",
            "SSL://h:1",
            "[h]:1",
            "a b:1",
            "",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn a_v6_address_is_printed_in_brackets() {
        let address = HostPort {
            host: "::1".into(),
            port: 9092,
        };
        assert_eq!(address.to_string(), "[::1]:9092");
        assert_eq!(HostPort::parse(&address.to_string()), Some(address));
    }

    #[test]
    fn limits_name_each_address_once() {
        let v4 = |last| IpAddr::from([10, 0, 0, last]);
        let found = parse_limits("10.0.0.7:100, [::1]:5,::ffff:10.0.0.8:0");
        let v6 = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
        assert_eq!(found, Some(vec![(v4(7), 100), (v6, 5), (v4(8), 0)]));
        assert_eq!(parse_limits(" "), Some(Vec::new()));
        for text in [
            "broker:5",
            "10.0.0.7",
            "10.0.0.7:-1",
            "10.0.0.7:1,10.0.0.7:2",
        ] {
            assert_eq!(parse_limits(text), None, "{text}");
        }
    }

    #[test]
    fn core_lists_take_ranges_and_refuse_duplicates() {
        assert_eq!(Cores::parse("0,2-3"), Some(Cores::List(vec![0, 2, 3])));
        assert_eq!(Cores::parse("all"), Some(Cores::All));
        for text in ["", "1-0", "0,0", "a", "0-5000", "-1"] {
            assert_eq!(Cores::parse(text), None, "{text}");
        }
    }
}
