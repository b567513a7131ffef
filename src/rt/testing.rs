//! For tests: a directory on the build's own disk, and one body run on both runtimes.
//!
//! Runs on: test threads only.
//! Promises: where io_uring is forbidden, the simulated side runs first; then the test fails with
//! the line that the broker would end with. Nothing is skipped.

use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::executor::{self, Error, ShardSpec};
use super::machine;
use super::sim::Sim;

/// Seeds that a body runs under.
const SEEDS: u64 = 20;

/// A directory on the disk that the build uses: takes direct I/O, unlike some `/tmp`.
pub(crate) fn dir() -> tempfile::TempDir {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&target).unwrap();
    tempfile::tempdir_in(target).unwrap()
}

/// Writes a line that a plain `cargo test` shows, as opposed to what a passing test prints.
pub(crate) fn say(line: &str) {
    let line = format!("{line}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// As `executor::run_on_cores`, where io_uring works.
pub(crate) fn run_on_cores<G, F, T>(specs: Vec<ShardSpec>, shard: G) -> Result<Vec<T>, Error>
where
    G: Fn(usize) -> F + Send + Sync + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    if let Err(error) = machine::probe_io_uring() {
        panic!("{error}");
    }
    executor::run_on_cores(specs, shard)
}

/// Runs `body` on one io_uring shard that is not pinned.
pub(crate) fn on_uring<F, Fut, T>(body: F) -> T
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    run_on_cores(vec![ShardSpec::default()], move |_| body())
        .unwrap()
        .remove(0)
}

/// Runs `body` in a fresh directory: on simulated disks under many seeds, then over io_uring.
pub(crate) fn on_both<F, Fut>(body: F)
where
    F: Fn(PathBuf) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + 'static,
{
    // The simulator first: it tests everything but the machine even where io_uring is forbidden.
    for seed in 0..SEEDS {
        Sim::new(seed).run(async {
            super::fs::create_dir_all("/data").await.unwrap();
            body(PathBuf::from("/data")).await;
        });
    }
    println!("{SEEDS} simulated seeds passed");
    let dir = dir();
    let path = dir.path().to_owned();
    on_uring(move || body(path.clone()));
}
