//! `docs/guarantees.md` names tests that exist.

use std::path::Path;

/// `folder::file::test` below `src`, or `file::test` below `tests`.
fn exists(name: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (file, test) = name.rsplit_once("::").expect("a file and a test");
    let path = format!("{}.rs", file.replace("::", "/"));
    let is_in = |folder: &str| {
        std::fs::read_to_string(root.join(folder).join(&path))
            .is_ok_and(|text| text.contains(&format!("fn {test}(")))
    };
    is_in("src") || is_in("tests")
}

#[test]
fn every_promise_is_shown_by_a_test_that_exists() {
    let page = include_str!("../docs/guarantees.md");
    let names = page.split('`').skip(1).step_by(2);
    let tests: Vec<&str> = names.filter(|name| name.contains("::")).collect();
    let missing: Vec<&&str> = tests.iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let promises = page.lines().filter(|line| line.starts_with("| "));
    let without = promises.filter(|line| !line.contains("::") && !line.starts_with("| promise"));
    assert_eq!(without.collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(tests.len() > 20, "{} tests are named", tests.len());
}
