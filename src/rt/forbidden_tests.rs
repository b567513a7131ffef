//! Where io_uring is forbidden: what the tests themselves do there.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use self::no_io_uring::forbid_io_uring;

#[path = "../../tests/support/no_io_uring.rs"]
mod no_io_uring;

/// Runs one of these tests where io_uring is forbidden: whether it passed, and what it said.
fn run_without_io_uring(test: &str) -> (bool, String) {
    run(test, &["--nocapture"])
}

fn run(test: &str, arguments: &[&str]) -> (bool, String) {
    let tests = std::env::current_exe().expect("this very program");
    let mut command = Command::new(tests);
    command.args(["--exact", test]).args(arguments);
    command.env("SIM_SEEDS", "2");
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(forbid_io_uring) };
    let output = command.output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8(said).expect("text"),
    )
}

#[test]
fn a_test_of_both_sides_runs_the_simulated_one_and_then_fails_with_the_line() {
    let (passed, said) = run_without_io_uring("rt::task_tests::sleeps_never_end_early");
    assert!(!passed, "{said}");
    assert!(said.contains("20 simulated seeds passed"), "{said}");
    let lines = said
        .lines()
        .filter(|line| line.contains("this process may not use io_uring"));
    assert_eq!(lines.count(), 1, "{said}");
}

#[test]
fn a_plain_run_says_how_many_seeds_of_a_model_passed() {
    let test = "log::model_tests::logs_and_journals_keep_what_they_made_durable";
    let (passed, said) = run(test, &[]);
    assert!(passed && said.contains("2 seeds, "), "{said}");
}

#[test]
fn the_models_of_journal_and_log_need_no_io_uring() {
    for test in [
        "journal::fault_tests::checkpoint_of_an_earlier_run_is_not_believed",
        "rt::sim::sim_tests::the_same_seed_gives_the_same_trace_and_another_seed_another",
    ] {
        let (passed, said) = run_without_io_uring(test);
        assert!(passed && said.contains("1 passed"), "{test}: {said}");
    }
}
