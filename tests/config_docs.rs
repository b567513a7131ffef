//! `docs/config.md` is what the settings tables say.

#[test]
fn docs_config_md_is_generated_from_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.md");
    let expected = corelog::config::docs::markdown();
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/config.md is stale: run `cargo run -- config docs > docs/config.md`"
    );
}
