//! docs/clients.md quotes the programs of tools/clients word for word, and their matrix.
//!
//! Promises: every program that tools/clients/clients.md names stands in the page as it stands in
//! its file, and the table at its end says what tools/clients/matrix.toml says.

use std::fs;
use std::path::Path;

#[test]
fn clients_page_quotes_the_programs_that_are_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect(path);
    let page = read("docs/clients.md");
    let template = read("tools/clients/clients.md");
    let mut rest = page.as_str();
    let mut programs = 0;
    for line in template.lines().filter(|line| !line.starts_with("@matrix")) {
        let expected = match line
            .strip_prefix("@file ")
            .and_then(|file| file.split_once(' '))
        {
            Some((path, language)) => {
                programs += 1;
                format!(
                    "`{path}`:\n\n```{language}\n{}\n```\n",
                    read(path).trim_end()
                )
            }
            None => format!("{line}\n"),
        };
        let found = rest.find(&expected);
        assert!(
            found.is_some(),
            "docs/clients.md is stale at {line:?}: run tools/clients/docs"
        );
        rest = &rest[found.unwrap_or_default() + expected.len()..];
    }
    for row in matrix_rows(&read("tools/clients/matrix.toml")) {
        assert!(
            rest.contains(&row),
            "docs/clients.md is stale at {row}: run tools/clients/docs"
        );
    }
    assert_eq!(programs, 7, "one program for each client of the page");
}

/// The rows of the page's table: for each check, whether each client runs it.
fn matrix_rows(matrix: &str) -> Vec<String> {
    let mut rows: Vec<(&str, Vec<&str>)> = Vec::new();
    for (check, cell) in matrix.lines().filter_map(|line| line.split_once(" = ")) {
        let shown = if cell == "\"run\"" { "yes" } else { "-" };
        match rows.iter_mut().find(|(known, _)| *known == check) {
            Some((_, cells)) => cells.push(shown),
            None => rows.push((check, vec![shown])),
        }
    }
    assert!(!rows.is_empty());
    rows.iter()
        .map(|(check, cells)| format!("| {check} | {} |\n", cells.join(" | ")))
        .collect()
}
