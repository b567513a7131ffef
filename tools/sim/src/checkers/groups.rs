//! Who has which partition in a generation.
//!
//! Pure: no async, no clock, no IO.
//! Invariants: [one-assignment] all members of a generation are told of one assignment, in which a
//! partition has one owner; [one-leader] a generation has one leader.

use std::collections::BTreeMap;

/// One group's generations, as its members were told of them.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    leaders: BTreeMap<i32, String>,
    owners: BTreeMap<(i32, i32), String>,
}

impl Generations {
    /// A member learned who leads; counts once it has its assignment.
    pub(crate) fn on_assigned(
        &mut self,
        group: &str,
        generation: i32,
        leader: &str,
        member: &str,
        partitions: &[i32],
    ) {
        let known = self
            .leaders
            .entry(generation)
            .or_insert_with(|| leader.to_owned());
        assert_eq!(
            known, leader,
            "[one-leader] {group}, generation {generation}"
        );
        for partition in partitions {
            let owner = self
                .owners
                .entry((generation, *partition))
                .or_insert_with(|| member.to_owned());
            assert_eq!(
                owner, member,
                "[one-assignment] {group}, generation {generation}, partition {partition}"
            );
        }
    }
}
