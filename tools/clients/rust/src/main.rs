//! Crash runner.
fn main() {}
