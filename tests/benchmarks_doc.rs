//! docs/benchmarks.md and its plots are what tools/compare/page makes of the committed results.
//!
//! Needs Python 3, as the tool does; only its standard library.

use std::path::Path;
use std::process::Command;

#[test]
fn benchmarks_page_is_generated_from_the_committed_results() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/compare/page");
    let output = Command::new("python3")
        .arg(page)
        .arg("--check")
        .output()
        .expect("python3 runs");
    let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
}
