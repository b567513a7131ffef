//! The README's tables are those of the program: the APIs of `wire::api`, which `ApiVersions`
//! announces, and the flags that `corelog serve --help` lists.
//!
//! `UPDATE_DOCS=1 cargo test --test readme` writes both anew.

use clap::{Arg, CommandFactory};
use corelog::commands::arguments::Arguments;
use corelog::wire::api;

#[test]
fn the_readme_lists_what_is_served_and_every_flag() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let found = std::fs::read_to_string(path).expect("README.md is there");
    let with_apis = replaced(&found, "wire::api", &api::markdown_table());
    let expected = replaced(&with_apis, "the flags of serve", &flags_of_serve());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, expected).expect("written");
        return;
    }
    assert!(
        found == expected,
        "a table of README.md is stale: UPDATE_DOCS=1 cargo test --test readme"
    );
}

/// The text with this table in place of what stands between its marks.
fn replaced(text: &str, name: &str, table: &str) -> String {
    let begin = format!("<!-- begin table of {name} -->\n");
    let end = format!("<!-- end table of {name} -->");
    let (before, rest) = text.split_once(&begin).expect("the table's begin mark");
    let (_, after) = rest.split_once(&end).expect("the table's end mark");
    format!("{before}{begin}{table}{end}{after}")
}

/// One row a flag, in the order of the help.
fn flags_of_serve() -> String {
    let mut command = Arguments::command();
    let serve = command.find_subcommand_mut("serve").expect("corelog serve");
    let rows = serve.get_arguments().filter(|flag| !flag.is_hide_set());
    let mut table = "| Flag | Default | What it sets |\n|---|---|---|\n".to_owned();
    table.extend(rows.map(row));
    table
}

/// The help says the default in brackets at its end, where there is one.
fn row(flag: &Arg) -> String {
    let name = flag
        .get_long()
        .expect("every flag of serve has a long name");
    let value = match flag.get_value_names() {
        Some([value]) if flag.get_action().takes_values() => format!(" {value}"),
        _ => String::new(),
    };
    let help = flag
        .get_help()
        .expect("every flag says what it is")
        .to_string();
    let (help, default) = match help.split_once(" [default: ") {
        Some((help, default)) => (help, format!("`{}`", default.trim_end_matches(']'))),
        None => (help.as_str(), String::new()),
    };
    format!("| `--{name}{value}` | {default} | {help} |\n")
}
