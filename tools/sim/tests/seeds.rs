//! A few seeds with every `cargo test`; `tools/sim/run` has as many as asked.

use corelog_sim::seed;

/// Client operations of a seed, at least.
const OPERATIONS: u64 = 2_000;

/// Runs seeds one after the other; each says how to run it again.
fn run(seeds: std::ops::Range<u64>) {
    let mut acknowledged = 0;
    for seed in seeds {
        println!("seed {seed}; again: tools/sim/run --from {seed} --seeds 1");
        let outcome = seed::run(seed, OPERATIONS);
        assert!(outcome.operations >= OPERATIONS, "{outcome:?}");
        acknowledged += outcome.acknowledged;
    }
    assert!(acknowledged > 0);
}

#[test]
fn seeds_find_nothing() {
    run(0..8);
}

#[test]
fn more_seeds_find_nothing() {
    run(8..16);
}

#[test]
fn the_same_seed_does_the_same_and_another_seed_another() {
    let (first, again) = (seed::run(3, 300), seed::run(3, 300));
    assert_eq!(first.trace, again.trace);
    assert_eq!(first.tally.counts, again.tally.counts);
    assert_ne!(first.trace, seed::run(4, 300).trace);
}

/// A small log's bytes are carried to the ring's end; the checkpoint that counts on that was
/// durable before they were, with a slow disk, and a power failure took acknowledged records.
#[test]
fn a_carry_is_durable_before_the_checkpoint_that_counts_on_it() {
    run(328..329);
}
