//! The README's table of served APIs is the one in `wire::api`: what `ApiVersions` announces.
//!
//! `UPDATE_DOCS=1 cargo test --test readme` writes it anew.

use corelog::wire::api;

const BEGIN: &str = "<!-- begin table of wire::api -->\n";
const END: &str = "<!-- end table of wire::api -->";

#[test]
fn the_readme_lists_what_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = std::fs::read_to_string(path).expect("README.md is there");
    let (before, rest) = text.split_once(BEGIN).expect("the table's begin mark");
    let (found, after) = rest.split_once(END).expect("the table's end mark");
    let expected = api::markdown_table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{expected}{END}{after}")).expect("written");
        return;
    }
    assert!(
        found == expected,
        "README.md's table is stale: UPDATE_DOCS=1 cargo test --test readme"
    );
}
