//! Random interleavings of everything that can happen to a group. `Bench` watches the promises.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::bench::{Bench, join_of, protocol};
use super::settings::GroupSettings;
use crate::model::error_code::ErrorCode;

const INSTANCES: [&str; 2] = ["one", "two"];

/// One event. Members are picked by number among those that the group has at that time.
#[derive(Clone, Copy, Debug)]
enum Event {
    Join {
        instance: Option<usize>,
        is_two_step: bool,
        prefers_b: bool,
    },
    Rejoin {
        member: usize,
        prefers_b: bool,
    },
    Sync {
        member: usize,
        is_stale: bool,
    },
    Heartbeat {
        member: usize,
    },
    Leave {
        member: usize,
    },
    LeaveInstance {
        instance: usize,
    },
    Pass {
        ms: u64,
    },
    Stall {
        ms: u64,
    },
    Stored {
        is_ok: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let member = 0..6_usize;
    prop_oneof![
        3 => (prop::option::of(0..2_usize), any::<bool>(), any::<bool>()).prop_map(
            |(instance, is_two_step, prefers_b)| Event::Join { instance, is_two_step, prefers_b }
        ),
        6 => (member.clone(), prop::bool::weighted(0.2))
            .prop_map(|(member, prefers_b)| Event::Rejoin { member, prefers_b }),
        8 => (member.clone(), prop::bool::weighted(0.1))
            .prop_map(|(member, is_stale)| Event::Sync { member, is_stale }),
        3 => member.clone().prop_map(|member| Event::Heartbeat { member }),
        1 => member.prop_map(|member| Event::Leave { member }),
        1 => (0..2_usize).prop_map(|instance| Event::LeaveInstance { instance }),
        2 => (1..12_000_u64).prop_map(|ms| Event::Pass { ms }),
        1 => (1..40_000_u64).prop_map(|ms| Event::Stall { ms }),
        4 => prop::bool::weighted(0.8).prop_map(|is_ok| Event::Stored { is_ok }),
    ]
}

struct Run {
    bench: Bench,
    assignments: u8,
    pending: Vec<String>,
}

impl Run {
    fn pick(&self, member: usize) -> Option<(String, Option<String>)> {
        let members = &self.bench.group.members;
        let (id, picked) = members.iter().nth(member % members.len().max(1))?;
        Some((id.clone(), picked.instance_id.clone()))
    }

    fn protocols(prefers_b: bool) -> Vec<super::requests::Protocol> {
        let (first, second) = if prefers_b { ("b", "a") } else { ("a", "b") };
        vec![
            protocol(first, first.as_bytes()),
            protocol(second, second.as_bytes()),
        ]
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Join {
                instance,
                is_two_step,
                prefers_b,
            } => {
                let instance = instance.map(|index| INSTANCES[index]);
                let id = if instance.is_none() {
                    self.pending.pop()
                } else {
                    None
                };
                let mut request = join_of(&id.unwrap_or_default(), instance);
                request.requires_known_member_id = is_two_step;
                request.supports_skip_assignment = is_two_step;
                request.protocols = Self::protocols(prefers_b);
                let number = self.bench.join(request);
                if is_two_step && !self.bench.is_waiting(number) {
                    let answer = self.bench.joined(number);
                    if answer.error == ErrorCode::MemberIdRequired {
                        self.pending.push(answer.member_id);
                    }
                }
            }
            Event::Rejoin { member, prefers_b } => {
                if let Some((id, instance)) = self.pick(member) {
                    let mut request = join_of(&id, instance.as_deref());
                    request.protocols = Self::protocols(prefers_b);
                    self.bench.join(request);
                }
            }
            Event::Sync { member, is_stale } => {
                if let Some((id, instance)) = self.pick(member) {
                    self.sync(&id, instance.as_deref(), is_stale);
                }
            }
            Event::Heartbeat { member } => {
                if let Some((id, instance)) = self.pick(member) {
                    let generation = self.bench.group.generation();
                    self.bench.heartbeat(generation, &id, instance.as_deref());
                }
            }
            Event::Leave { member } => {
                if let Some((id, instance)) = self.pick(member) {
                    assert_eq!(self.bench.leave(&id, instance.as_deref()), ErrorCode::None);
                }
            }
            Event::LeaveInstance { instance } => {
                self.bench.leave("", Some(INSTANCES[instance]));
            }
            Event::Pass { ms } => self.bench.pass(ms),
            Event::Stall { ms } => self.bench.tick(ms),
            Event::Stored { is_ok } => {
                let outcome = if is_ok {
                    Ok(())
                } else {
                    Err(ErrorCode::NotCoordinator)
                };
                self.bench.stored_one(outcome);
            }
        }
    }

    fn sync(&mut self, id: &str, instance: Option<&str>, is_stale: bool) {
        let generation = self.bench.group.generation() - i32::from(is_stale);
        self.assignments = self.assignments % 250 + 1;
        let assignment = [self.assignments];
        let ids: Vec<String> = self.bench.group.members.keys().cloned().collect();
        let is_leader = self.bench.group.leader.as_deref() == Some(id);
        let brought: Vec<(&str, &[u8])> = ids
            .iter()
            .filter(|_| is_leader)
            .map(|id| (id.as_str(), assignment.as_slice()))
            .collect();
        self.bench.sync(generation, id, instance, &brought);
    }

    /// Everything comes to an end: then nobody may be waiting.
    fn finish(mut self) {
        for _ in 0..200 {
            self.bench.stored(Ok(()));
            self.bench.pass(30_000);
        }
        assert_eq!(
            self.bench.waiting_count(),
            0,
            "[one-answer] somebody waits for ever"
        );
        assert!(self.bench.group.is_vacant(), "all sessions have ended");
        let mut by_generation: BTreeMap<i32, Vec<&bytes::Bytes>> = BTreeMap::new();
        for ((generation, _), told) in &self.bench.told {
            by_generation.entry(*generation).or_default().push(told);
        }
        for (generation, told) in by_generation {
            let mut told: Vec<_> = told.into_iter().filter(|told| !told.is_empty()).collect();
            told.dedup();
            assert!(
                told.len() <= 1,
                "[one-assignment] generation {generation} has {told:?}"
            );
        }
    }
}

fn run(events: Vec<Event>, initial_rebalance_delay_ms: u64, group_size_max: usize) {
    let settings = GroupSettings {
        initial_rebalance_delay_ms,
        group_size_max,
        ..GroupSettings::default()
    };
    let bench = Bench::with(settings);
    let mut run = Run {
        bench,
        assignments: 0,
        pending: Vec::new(),
    };
    for event in events {
        run.apply(event);
    }
    run.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn whatever_happens_everybody_is_answered_once_and_a_generation_has_one_assignment(
        events in prop::collection::vec(event(), 1..120),
        delay in prop::sample::select(vec![0, 3_000]),
        size in prop::sample::select(vec![3, usize::MAX]),
    ) {
        run(events, delay, size);
    }
}
