//! Random bits: from the kernel on a machine, from the seed under the simulator.
//!
//! Runs on: any thread. For identities (run ids, topic ids, member ids), not for cryptography under
//! the simulator.

use super::runtime::{self, Runtime};

/// 64 random bits.
pub fn random_u64() -> u64 {
    runtime::with(|runtime| match runtime {
        Some(Runtime::Sim(shard)) => shard.random_u64(),
        Some(Runtime::Uring(_)) | None => {
            getrandom::u64().expect("getrandom(2) cannot fail once the kernel's pool is seeded")
        }
    })
}

/// 16 random bytes.
pub fn random_bytes16() -> [u8; 16] {
    let mut bytes = [0; 16];
    let (low, high) = bytes.split_at_mut(8);
    low.copy_from_slice(&random_u64().to_le_bytes());
    high.copy_from_slice(&random_u64().to_le_bytes());
    bytes
}
