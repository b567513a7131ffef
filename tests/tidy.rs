//! The house rules that no compiler checks: layers, sizes, headers, words, generated files.
//!
//! Every rule is a function from the text of one file to its findings; each rule is tried on a
//! planted violation in this file's own tests, so that a rule that finds nothing is seen to work.
//! A finding names the file, the line and what to do instead.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Folder (or file) of `src/` -> what it may import from `crate::` besides itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("breaks", &[]),
    ("model", &[]),
    ("config", &["model"]),
    ("telemetry", &["model", "config"]),
    ("rt", &["model", "config", "telemetry"]),
    ("wire", &["model", "config", "telemetry"]),
    ("journal", &["breaks", "model", "config", "telemetry", "rt"]),
    (
        "log",
        &["breaks", "model", "config", "telemetry", "rt", "journal"],
    ),
    (
        "partition",
        &[
            "breaks",
            "model",
            "config",
            "telemetry",
            "rt",
            "journal",
            "log",
            "cluster::metadata",
        ],
    ),
    (
        "group",
        &[
            "breaks",
            "model",
            "config",
            "telemetry",
            "rt",
            "wire",
            "journal",
            "log",
            "cluster::metadata",
        ],
    ),
    ("cluster", &["breaks", "model", "config", "telemetry", "rt"]),
    (
        "shard",
        &[
            "breaks",
            "model",
            "config",
            "telemetry",
            "rt",
            "journal",
            "log",
            "partition",
            "group",
            "cluster",
        ],
    ),
    (
        "server",
        &[
            "model",
            "config",
            "telemetry",
            "rt",
            "wire",
            "journal",
            "log",
            "partition",
            "group",
            "cluster",
            "shard",
        ],
    ),
    (
        "admin",
        &["model", "config", "telemetry", "rt", "cluster", "shard"],
    ),
    ("client", &["model", "config", "wire"]),
    (
        "commands",
        &[
            "model",
            "config",
            "telemetry",
            "rt",
            "wire",
            "journal",
            "log",
            "client",
            "broker",
            "shard::check",
        ],
    ),
    (
        "broker",
        &[
            "model",
            "config",
            "telemetry",
            "rt",
            "wire",
            "journal",
            "log",
            "partition",
            "group",
            "cluster",
            "shard",
            "server",
            "admin",
        ],
    ),
];

/// Word, where it is allowed (prefixes of paths), what to use instead.
const BANNED: &[(&str, &[&str], &str)] = &[
    (concat!("TO", "DO"), &[], "README, section Limits"),
    (concat!("FIX", "ME"), &[], "mend it"),
    (concat!("XX", "X"), &[], "mend it"),
    (concat!("todo", "!("), &[], "write it"),
    (concat!("unimplemented", "!("), &[], "write it"),
    (concat!("glo", "mmio::"), &["src/rt/"], "the facade in rt/"),
    (
        concat!("use glo", "mmio"),
        &["src/rt/"],
        "the facade in rt/",
    ),
    (concat!("li", "bc::"), MACHINE, "the facade in rt/"),
    (concat!("std::time::", "Instant"), MACHINE, "rt::now"),
    (concat!("std::time::", "SystemTime"), MACHINE, "rt::unix_ms"),
    (
        concat!("std::", "thread::"),
        MACHINE,
        "rt::spawn or rt::blocking",
    ),
    (concat!("std::", "fs::"), MACHINE, "rt::fs or rt::File"),
    (concat!("std::", "net::Tcp"), MACHINE, "rt::net"),
    (concat!("get", "random::"), MACHINE, "rt::random_u64"),
    (
        concat!("Arc<", "Mutex"),
        MACHINE,
        "an owner on one shard and a call over the mesh",
    ),
    (
        concat!("Arc<", "RwLock"),
        MACHINE,
        "an owner on one shard and a call over the mesh",
    ),
    (concat!("async_", "trait"), &[], "an enum"),
    (
        concat!("lazy_", "static"),
        &[],
        "a value that its owner passes on",
    ),
];

/// Programs of their own, and the one room that speaks to the machine.
const MACHINE: &[&str] = &[
    "src/rt/",
    "src/client/",
    "src/commands/",
    "src/main.rs",
    "tests/",
    "tools/",
    "benches/",
    "fuzz/",
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "common", "helpers", "helper", "types", "manager",
];

const COLUMNS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 80;
const FRONT_PAGE_LINES_MAX: usize = 120;
const PURE: &str = "Pure: no async, no clock, no IO.";

/// One file of the repository, with `/` in its path from the root.
struct SourceFile {
    path: String,
    text: String,
}

struct Finding {
    line: usize,
    what: String,
}

type Rule = fn(&SourceFile) -> Vec<Finding>;

const RULES: &[(&str, Rule)] = &[
    ("header", check_header),
    ("ascii", check_ascii),
    ("columns", check_columns),
    ("words", check_words),
    ("layers", check_layers),
    ("pure", check_pure),
    ("names", check_name),
    ("file size", check_file_size),
    ("function size", check_function_size),
    ("front page", check_front_page),
];

#[test]
fn every_source_file_keeps_the_house_rules() {
    let files = source_files();
    assert!(files.len() > 50, "only {} files found", files.len());
    let mut report = String::new();
    for file in &files {
        for (name, rule) in RULES {
            for Finding { line, what } in rule(file) {
                writeln!(report, "{}:{line}: [{name}] {what}", file.path).expect("a string");
            }
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn every_dependency_has_its_reason_above_it() {
    for path in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let missing = dependencies_without_reason(&read(path));
        assert!(missing.is_empty(), "{path}: no comment above {missing:?}");
    }
}

#[test]
fn every_folder_of_src_is_in_the_layering_table() {
    let listed: Vec<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    for entry in std::fs::read_dir(root().join("src")).expect("src") {
        let path = entry.expect("readable").path();
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let is_root = name == "main" || name == "lib";
        assert!(
            is_root || listed.contains(&name.as_str()),
            "src/{name} is in no layer"
        );
    }
}

// ---- rules ------------------------------------------------------------------------------------

fn check_header(file: &SourceFile) -> Vec<Finding> {
    let first = file.text.lines().next().unwrap_or_default();
    if first.starts_with("//! ") && first.len() > 10 {
        return Vec::new();
    }
    vec![found(
        1,
        "the first line must be `//! ` and say what the file is",
    )]
}

fn check_ascii(file: &SourceFile) -> Vec<Finding> {
    each_line(file, |line| {
        let character = line.chars().find(|character| !character.is_ascii())?;
        Some(format!("{character:?} is not ASCII: write an escape"))
    })
}

fn check_columns(file: &SourceFile) -> Vec<Finding> {
    each_line(file, |line| {
        let count = line.chars().count();
        (count > COLUMNS_MAX).then(|| format!("{count} columns, {COLUMNS_MAX} fit"))
    })
}

fn check_words(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let tested = first_line_of_tests(file);
    for (word, allowed, instead) in BANNED {
        if allowed.iter().any(|prefix| file.path.starts_with(prefix)) {
            continue;
        }
        // what belongs to the machine is fine in tests beside the code
        let is_machine = *allowed == MACHINE;
        for (number, line) in (1..).zip(file.text.lines()) {
            let is_comment = line.trim_start().starts_with("//");
            if is_machine && (number >= tested || is_comment) {
                continue;
            }
            if contains_word(line, word) {
                findings.push(found(number, format!("`{word}`: use {instead}")));
            }
        }
    }
    findings
}

fn check_layers(file: &SourceFile) -> Vec<Finding> {
    let Some(inside) = file.path.strip_prefix("src/") else {
        return Vec::new();
    };
    let folder = inside
        .split('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".rs");
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == folder) else {
        return Vec::new();
    };
    let tested = first_line_of_tests(file);
    let mut findings = Vec::new();
    for (line, imported) in crate_paths(&file.text) {
        let top = imported.split("::").next().unwrap_or_default();
        let is_allowed = top == folder
            || allowed.iter().any(|path| {
                imported == *path || imported.starts_with(&format!("{path}::")) || top == *path
            });
        if line < tested && !is_allowed {
            let what = format!("`{folder}` must not import `crate::{imported}`: see LAYERS");
            findings.push(found(line, what));
        }
    }
    findings
}

fn check_pure(file: &SourceFile) -> Vec<Finding> {
    let is_pure = file.text.lines().take_while(|line| line.starts_with("//!"));
    if !is_pure.into_iter().any(|line| line.contains(PURE)) {
        return Vec::new();
    }
    let tested = first_line_of_tests(file);
    let forbidden = ["async ", ".await", "rt::", "std::time::Instant", "std::fs"];
    let mut findings = Vec::new();
    for (number, line) in (1..tested).zip(file.text.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        if let Some(word) = forbidden.iter().find(|word| contains_word(code, word)) {
            findings.push(found(
                number,
                format!("`{word}` in a file that calls itself pure"),
            ));
        }
    }
    findings
}

fn check_name(file: &SourceFile) -> Vec<Finding> {
    let parts = file
        .path
        .split('/')
        .map(|part| part.trim_end_matches(".rs"));
    let empty = parts.filter(|part| EMPTY_NAMES.contains(part));
    empty
        .map(|part| found(1, format!("`{part}` says nothing: name what is inside")))
        .collect()
}

fn check_file_size(file: &SourceFile) -> Vec<Finding> {
    let lines = first_line_of_tests(file).min(file.text.lines().count() + 1) - 1;
    if lines <= FILE_LINES_MAX || is_test_file(&file.path) {
        return Vec::new();
    }
    vec![found(
        1,
        format!("{lines} lines without tests, {FILE_LINES_MAX} are enough: split it"),
    )]
}

fn check_function_size(file: &SourceFile) -> Vec<Finding> {
    let tested = first_line_of_tests(file);
    let mut findings = Vec::new();
    let mut open: Option<(usize, usize)> = None;
    for (number, line) in (1..tested).zip(file.text.lines()) {
        let indent = line.len() - line.trim_start().len();
        match open {
            None if is_function_start(line) && !line.trim_end().ends_with('}') => {
                open = (!line.trim_end().ends_with(';')).then_some((number, indent));
            }
            Some((start, depth))
                if indent == depth && (line.trim_end() == format!("{}}}", " ".repeat(depth))) =>
            {
                let count = number - start + 1;
                if count > FUNCTION_LINES_MAX {
                    let what =
                        format!("{count} lines in a function, {FUNCTION_LINES_MAX} are enough");
                    findings.push(found(start, what));
                }
                open = None;
            }
            Some((_, depth)) if indent == depth && line.trim_end().ends_with(';') => open = None,
            _ => {}
        }
    }
    findings
}

fn check_front_page(file: &SourceFile) -> Vec<Finding> {
    if !file.path.starts_with("src/") || !file.path.ends_with("/mod.rs") {
        return Vec::new();
    }
    let tested = first_line_of_tests(file);
    let lines = tested.min(file.text.lines().count() + 1) - 1;
    let mut findings = Vec::new();
    if lines > FRONT_PAGE_LINES_MAX {
        let what = format!("{lines} lines on a front page, {FRONT_PAGE_LINES_MAX} are enough");
        findings.push(found(1, what));
    }
    for (number, line) in (1..tested).zip(file.text.lines()) {
        if is_function_start(line) {
            findings.push(found(
                number,
                "a front page holds no functions: give it a file",
            ));
        }
    }
    findings
}

fn dependencies_without_reason(manifest: &str) -> Vec<String> {
    let mut is_dependencies = false;
    let mut before = "";
    let mut missing = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_dependencies = line.ends_with("dependencies]");
        } else if is_dependencies && line.contains(" = ") && !before.starts_with("# ") {
            missing.push(line.split(" = ").next().unwrap_or_default().to_owned());
        }
        before = line;
    }
    missing
}

// ---- reading ----------------------------------------------------------------------------------

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn source_files() -> Vec<SourceFile> {
    let mut pending: Vec<PathBuf> = ["src", "tests", "benches", "tools", "fuzz"]
        .map(|folder| root().join(folder))
        .to_vec();
    let mut files = Vec::new();
    while let Some(path) = pending.pop() {
        let is_foreign = path
            .file_name()
            .is_some_and(|name| name == "node_modules" || name == "target");
        if path.is_dir() && !is_foreign {
            let entries = std::fs::read_dir(&path).expect("a readable folder");
            pending.extend(entries.map(|entry| entry.expect("readable").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            files.push(SourceFile {
                path: relative(&path),
                text,
            });
        }
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    files
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root())
        .expect("below the root")
        .to_string_lossy()
        .replace('\\', "/")
}

fn found(line: usize, what: impl Into<String>) -> Finding {
    Finding {
        line,
        what: what.into(),
    }
}

fn each_line(file: &SourceFile, check: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let lines = (1..).zip(file.text.lines());
    lines
        .filter_map(|(number, line)| Some(found(number, check(line)?)))
        .collect()
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.ends_with("_tests.rs") || path.ends_with("/tests.rs")
}

/// Number of the line where the file's tests begin; one past the end when it has none.
fn first_line_of_tests(file: &SourceFile) -> usize {
    if is_test_file(&file.path) && file.path.starts_with("src/") {
        return 1;
    }
    let marks = (1..).zip(file.text.lines());
    let mut lines = marks
        .filter(|(_, line)| line.trim() == "#[cfg(test)]")
        .map(|(number, _)| number);
    let next_is_module = |number: usize| {
        file.text
            .lines()
            .nth(number)
            .is_some_and(|line| line.trim_start().contains("mod "))
            && file
                .text
                .lines()
                .nth(number)
                .is_some_and(|line| line.trim_end().ends_with('{'))
    };
    lines
        .find(|&number| next_is_module(number))
        .unwrap_or(usize::MAX)
}

/// `word` in `line`, not as the tail of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|before| before.is_alphanumeric() || before == '_')
    })
}

fn is_function_start(line: &str) -> bool {
    let code = line.trim_start();
    let code = code.strip_prefix("pub ").unwrap_or(code);
    let code = code
        .split_once(") ")
        .filter(|_| code.starts_with("pub("))
        .map_or(code, |(_, rest)| rest);
    let code = code.strip_prefix("const ").unwrap_or(code);
    let code = code.strip_prefix("async ").unwrap_or(code);
    let code = code.strip_prefix("unsafe ").unwrap_or(code);
    code.starts_with("fn ")
}

/// Every path after `crate::` in the code, with its line; groups in braces are taken apart.
fn crate_paths(text: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let code = without_comments(text);
    for (at, _) in code.match_indices("crate::") {
        let is_macro_crate = code[..at].ends_with('$');
        if is_macro_crate {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            paths.extend(top_level_items(group).into_iter().map(|item| (line, item)));
        } else {
            paths.push((line, leading_path(rest)));
        }
    }
    paths
}

fn leading_path(text: &str) -> String {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    text[..end.unwrap_or(text.len())]
        .trim_end_matches(':')
        .to_owned()
}

/// The items of a brace group, up to its closing brace.
fn top_level_items(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut items = vec![String::new()];
    for character in group.chars() {
        match character {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ if depth == 0 => items.last_mut().expect("never empty").push(character),
            _ => {}
        }
    }
    let items = items.into_iter().map(|item| leading_path(item.trim()));
    items.filter(|item| !item.is_empty()).collect()
}

/// The text with every comment blanked out, line for line.
fn without_comments(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let is_comment = line.trim_start().starts_with("//");
        if is_comment {
            ""
        } else {
            line.split(" // ").next().unwrap_or_default()
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

// ---- the rules find what is planted
// --------------------------------------------------------------

fn planted(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

#[track_caller]
fn assert_finds(rule: Rule, path: &str, text: &str, line: usize) {
    let findings = rule(&planted(path, text));
    let lines: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [line], "{path}");
}

#[track_caller]
fn assert_passes(rule: Rule, path: &str, text: &str) {
    let findings = rule(&planted(path, text));
    assert!(findings.is_empty(), "{path}: {}", findings[0].what);
}

#[test]
fn a_planted_header_column_or_character_is_found() {
    assert_finds(check_header, "src/log/log.rs", "use x;\n", 1);
    assert_finds(check_header, "src/log/log.rs", "", 1);
    assert_passes(check_header, "src/log/log.rs", "//! One partition's log.\n");
    let long = format!("//! Ok.\n// {}\n", "a".repeat(98));
    assert_finds(check_columns, "src/a.rs", &long, 2);
    assert_passes(check_columns, "src/a.rs", &long.replace("aaa", "a"));
    assert_finds(check_ascii, "src/a.rs", "//! Ok.\nlet a = \"\u{e9}\";\n", 2);
}

#[test]
fn a_planted_word_is_found_where_it_is_not_allowed() {
    let clock = concat!("//! A.\nuse std::time::", "Instant;\n");
    assert_finds(check_words, "src/log/log.rs", clock, 2);
    assert_passes(check_words, "src/rt/clock.rs", clock);
    let tested = format!("//! A.\n#[cfg(test)]\nmod tests {{\n{clock}}}\n");
    assert_passes(check_words, "src/log/log.rs", &tested);
    let later = concat!("//! A.\n// TO", "DO: later\n");
    assert_finds(check_words, "src/rt/clock.rs", later, 2);
    assert_finds(check_words, "tools/x/src/main.rs", later, 2);
}

#[test]
fn a_planted_import_of_a_higher_layer_is_found() {
    let import = "//! A.\nuse crate::server::dispatch;\n";
    assert_finds(check_layers, "src/log/log.rs", import, 2);
    assert_passes(check_layers, "src/broker.rs", import);
    let group = "//! A.\nuse crate::{model, shard::{Shard, mesh}, config};\n";
    assert_finds(check_layers, "src/partition/partition.rs", group, 2);
    assert_passes(check_layers, "src/server/dispatch.rs", group);
    assert_finds(
        check_layers,
        "src/model/ids.rs",
        "//! A.\nfn f() { crate::rt::now() }\n",
        2,
    );
    let image = "//! A.\nuse crate::cluster::metadata::Image;\n";
    assert_passes(check_layers, "src/partition/partition.rs", image);
    let controller = image.replace("metadata::Image", "controller::Controller");
    assert_finds(check_layers, "src/partition/partition.rs", &controller, 2);
    assert_passes(
        check_layers,
        "src/log/log.rs",
        "//! A.\n//! See [`crate::server`].\n",
    );
}

#[test]
fn planted_work_in_a_pure_file_is_found() {
    let pure = format!("//! A.\n//! {PURE}\nasync fn f() {{}}\n");
    assert_finds(check_pure, "src/group/state.rs", &pure, 3);
    assert_passes(
        check_pure,
        "src/group/state.rs",
        &pure.replace("async ", ""),
    );
    assert_passes(
        check_pure,
        "src/group/state.rs",
        &pure.replace(PURE, "Pure: no."),
    );
}

#[test]
fn planted_sizes_names_and_front_pages_are_found() {
    let long = format!("//! A.\n{}", "const A: u8 = 1;\n".repeat(FILE_LINES_MAX));
    assert_finds(check_file_size, "src/log/log.rs", &long, 1);
    let tests = "#[cfg(test)]\nmod tests {\n";
    assert_passes(
        check_file_size,
        "src/log/log.rs",
        &format!("//! A.\n{tests}{long}}}\n"),
    );
    let body = "    step();\n".repeat(FUNCTION_LINES_MAX - 1);
    assert_finds(
        check_function_size,
        "src/a.rs",
        &format!("//! A.\nfn f() {{\n{body}}}\n"),
        2,
    );
    let short = "    step();\n".repeat(FUNCTION_LINES_MAX - 2);
    assert_passes(
        check_function_size,
        "src/a.rs",
        &format!("//! A.\nfn f() {{\n{short}}}\n"),
    );
    assert_finds(check_name, "src/log/utils.rs", "//! A.\n", 1);
    assert_finds(check_name, "src/helpers/log.rs", "//! A.\n", 1);
    assert_finds(
        check_front_page,
        "src/log/mod.rs",
        "//! A.\npub(crate) fn f() {\n}\n",
        2,
    );
    assert_passes(check_front_page, "src/log/mod.rs", "//! A.\npub mod log;\n");
}

#[test]
fn a_planted_dependency_without_a_reason_is_found() {
    let manifest = "[dependencies]\n# why\na = \"1\"\nb = \"1\"\n[lints]\nc = 1\n";
    assert_eq!(dependencies_without_reason(manifest), ["b"]);
}
