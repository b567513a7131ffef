//! A map that forgets what was used longest ago once its weight goes beyond a limit.
//!
//! Pure: no async, no clock, no IO.
//! Promises: `get` and `insert` cost a logarithm of the number of entries; what is forgotten is
//! handed back, so that descriptors can be closed properly.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Keeps `weight_max` worth of values, the recently used ones.
#[derive(Debug)]
pub struct Lru<K, V> {
    entries: HashMap<K, Slot<V>>,
    by_use: BTreeMap<u64, K>,
    clock: u64,
    weight: usize,
    weight_max: usize,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Lru<K, V> {
    /// An empty map.
    pub fn new(weight_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
            weight: 0,
            weight_max,
        }
    }

    /// The value, which is now the most recently used one.
    pub fn get(&mut self, key: K) -> Option<V> {
        let slot = self.entries.get_mut(&key)?;
        self.by_use.remove(&slot.used);
        self.clock += 1;
        slot.used = self.clock;
        self.by_use.insert(self.clock, key);
        Some(slot.value.clone())
    }

    /// Keeps the value and hands back what has to go for it: an older value of the key, and what
    /// was used longest ago. A value above the whole limit stays until the next one comes.
    pub fn insert(&mut self, key: K, value: V, weight: usize) -> Vec<V> {
        let mut gone: Vec<V> = self.remove(key).into_iter().collect();
        while self.weight + weight > self.weight_max
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            gone.extend(self.remove(*oldest));
        }
        self.clock += 1;
        self.by_use.insert(self.clock, key);
        self.weight += weight;
        self.entries.insert(
            key,
            Slot {
                value,
                weight,
                used: self.clock,
            },
        );
        gone
    }

    /// Takes the value out.
    pub fn remove(&mut self, key: K) -> Option<V> {
        let slot = self.entries.remove(&key)?;
        self.by_use.remove(&slot.used);
        self.weight -= slot.weight;
        Some(slot.value)
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_recently_used_goes_first() {
        let mut lru = Lru::new(3);
        for key in 1..=3 {
            assert_eq!(lru.insert(key, key * 10, 1), [0; 0]);
        }
        assert_eq!(lru.get(1), Some(10));
        assert_eq!(lru.insert(4, 40, 1), [20]);
        assert_eq!(lru.insert(5, 50, 2), [30, 10]);
        assert_eq!(
            (lru.count(), lru.get(4), lru.get(5)),
            (2, Some(40), Some(50))
        );
    }

    #[test]
    fn replaced_and_oversized_values_are_handed_back() {
        let mut lru = Lru::new(3);
        lru.insert(1, 10, 3);
        assert_eq!(lru.insert(1, 11, 1), [10]);
        assert_eq!(lru.insert(2, 20, 9), [11]);
        assert_eq!(lru.get(2), Some(20));
        assert_eq!(lru.insert(3, 30, 1), [20]);
        assert_eq!(lru.remove(3), Some(30));
        assert_eq!(lru.remove(3), None);
    }
}
