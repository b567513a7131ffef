//! Connections of each client address: `max.connections.per.ip` and its overrides.
//!
//! Runs on: every shard; an address is counted on its home shard, which the others call when a
//! connection comes and when it goes. So the count is exact though the kernel spreads the
//! connections of one client over all shards, and nothing is shared.
//! Limits: an entry a connected address, so never more than there are connections. Without a limit
//! in the settings nothing is counted and nobody called.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::BrokerConfig;
use crate::model::ids::ShardId;
use crate::shard::calls::{ShardCall, ShardReply};
use crate::shard::shard::Shard;

/// The addresses at home on one shard, with their connections.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    connections: RefCell<HashMap<IpAddr, u32>>,
}

impl Addresses {
    /// Counts one more connection, unless that is too many.
    pub(crate) fn enter(&self, address: IpAddr, limit: u32) -> bool {
        let mut connections = self.connections.borrow_mut();
        let there = connections.get(&address).copied().unwrap_or(0);
        if there >= limit {
            return false;
        }
        connections.insert(address, there + 1);
        true
    }

    /// One that was counted has ended.
    pub(crate) fn leave(&self, address: IpAddr) {
        let mut connections = self.connections.borrow_mut();
        if let Some(there) = connections.get_mut(&address) {
            *there -= 1;
            if *there == 0 {
                connections.remove(&address);
            }
        }
    }
}

/// The most connections of `address`; `None`: no limit is set, for no address at all.
pub(crate) fn limit_of(config: &BrokerConfig, address: IpAddr) -> Option<u32> {
    let overrides = &config.max_connections_per_ip_overrides;
    if config.max_connections_per_ip == i32::MAX.unsigned_abs() && overrides.is_empty() {
        return None;
    }
    let own = overrides.iter().find(|(known, _)| *known == address);
    Some(own.map_or(config.max_connections_per_ip, |(_, limit)| *limit))
}

/// Where an address is counted.
fn home(address: IpAddr, shard_count: u16) -> ShardId {
    let hash = match address {
        IpAddr::V4(v4) => crc32c::crc32c(&v4.octets()),
        IpAddr::V6(v6) => crc32c::crc32c(&v6.octets()),
    };
    let shard = hash % u32::from(shard_count.max(1));
    ShardId(u16::try_from(shard).expect("a remainder of a u16 fits u16"))
}

impl Shard {
    /// Counts a connection of `address`, unless `limit` of them are there already.
    pub(crate) async fn enter_address(&self, address: IpAddr, limit: u32) -> bool {
        let home = home(address, self.shard_count());
        if home == self.id() {
            return self.addresses.enter(address, limit);
        }
        let reply = self.call(home, ShardCall::EnterAddress(address, limit));
        matches!(reply.await, Some(ShardReply::IsEntered(true)))
    }

    /// A connection that was counted has ended.
    pub(crate) async fn leave_address(&self, address: IpAddr) {
        let home = home(address, self.shard_count());
        if home == self.id() {
            self.addresses.leave(address);
        } else {
            self.call(home, ShardCall::LeaveAddress(address)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::{Settings, Source};

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    #[test]
    fn one_connection_more_than_the_limit_is_refused_until_another_ends() {
        let addresses = Addresses::default();
        assert!(addresses.enter(ADDRESS, 2));
        assert!(addresses.enter(ADDRESS, 2));
        assert!(!addresses.enter(ADDRESS, 2));
        addresses.leave(ADDRESS);
        assert!(addresses.enter(ADDRESS, 2));
        addresses.leave(ADDRESS);
        addresses.leave(ADDRESS);
        assert!(addresses.connections.borrow().is_empty());
        assert!(!addresses.enter(ADDRESS, 0));
    }

    #[test]
    fn an_override_replaces_the_limit_of_its_address_alone() {
        let config = |flags: &[(&str, &str)]| {
            let mut settings = Settings::default();
            for (name, value) in flags {
                let set = settings.set(name, value, Source::Flag, "--set");
                set.expect("valid");
            }
            BrokerConfig::new(settings).expect("valid")
        };
        assert_eq!(limit_of(&config(&[]), ADDRESS), None);
        let overrides = ("max.connections.per.ip.overrides", "10.0.0.7:5");
        let config = config(&[("max.connections.per.ip", "3"), overrides]);
        assert_eq!(limit_of(&config, ADDRESS), Some(5));
        let other = IpAddr::from([10, 0, 0, 8]);
        assert_eq!(limit_of(&config, other), Some(3));
    }
}
