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

#[test]
fn every_active_setting_names_the_place_where_it_takes_hold() {
    use corelog::config::table::{Effect, Row};
    use corelog::config::{broker_rows, topic_rows};

    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rows: Vec<&Row> = broker_rows::rows().chain(topic_rows::ROWS).collect();
    for row in rows {
        let Effect::In(place) = row.effect else {
            panic!(
                "`{}` has no effect: it belongs into the tables of inert settings",
                row.key
            )
        };
        assert!(
            sources.join(place).exists(),
            "`{}`: there is no src/{place}",
            row.key
        );
    }
}

/// Settings whose effect is shown elsewhere than in the tests that run a broker with them.
const SHOWN_ELSEWHERE: &[&str] = &[
    "data.dir",       // every test that runs a broker
    "allow.volatile", // tests/settings_broker.rs, by its flag
    "shares",         // src/broker.rs, up to the shard; from there tests/settings_broker.rs
];

#[test]
fn every_active_setting_is_tried_on_a_running_broker() {
    use corelog::config::{broker_rows, topic_rows};

    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut text = String::new();
    for name in [
        "settings_broker",
        "settings_requests",
        "settings_topics",
        "broker_scrub",
        "running_broker/mod",
    ] {
        let path = tests.join(name).with_extension("rs");
        text += &std::fs::read_to_string(path).expect("a test file");
    }
    for row in broker_rows::rows().chain(topic_rows::ROWS) {
        for name in [row.key].iter().chain(row.aliases) {
            // whole, as in "NAME=VALUE" and "NAME": others begin or end with it
            let quoted = [format!("\"{name}="), format!("\"{name}\"")];
            let is_tried = quoted.iter().any(|form| text.contains(form));
            assert!(
                is_tried || SHOWN_ELSEWHERE.contains(name),
                "no test shows what `{name}` does"
            );
        }
    }
}
