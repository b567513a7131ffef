//! `docs/config.md`, generated from the tables.
//!
//! Pure: no async, no clock, no IO. `tests/config_docs.rs` fails when the file is stale.

use std::fmt::Write as _;

use super::table::{Change, Effect, Row};
use super::{broker_rows, inert, topic_rows};

const HEAD: &str = "\
# Settings

<!-- Generated from src/config. Do not edit: `corelog config docs > docs/config.md` -->

A setting of the broker is given, the later wins, by

1. its default,
2. a TOML file: `corelog serve --config FILE`, with `num.partitions = 3` or `[num]` tables,
3. the environment: `num.partitions` is `CORELOG_NUM_PARTITIONS`,
4. a flag: `--set num.partitions=3`, or its own flag where it has one (`corelog serve --help`),
5. for those marked *while running*, the admin protocol (`AlterConfigs` on the broker).

An unknown name or a value outside the allowed range stops the start with one line. Kafka's settings
have Kafka's names, units and defaults. Sizes take KiB, MiB, GiB; times take us, ms, s, min.
";

const INERT_HEAD: &str = "
## Accepted without effect

Clients and tools set these Kafka settings. Setting one warns, and nothing depends on it.
`DescribeConfigs` gives the value back as it was stored, because clients and tools alter, read back
and compare; but always with the source *default* and a documentation that begins with \"No effect
in Corelog\", because a setting that does nothing shall not be reported as active. Kafka's settings
that are in no table here are refused; those of TLS, SASL and ACLs among them, because accepting
them would pretend a protection that is not there.
";

/// The whole page.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for section in broker_rows::SECTIONS {
        let _ = write!(page, "\n## {}\n\n", section.title);
        active_table(&mut page, section.rows);
    }
    page.push_str(
        "\n## Topic settings\n\nSet with `CreateTopics` and `AlterConfigs` (`corelog topic create \
         --config NAME=VALUE`,\n`corelog topic alter --config NAME=VALUE`). A topic without a \
         value of its own has the broker's.\n\n",
    );
    active_table(&mut page, topic_rows::ROWS);
    page.push_str(INERT_HEAD);
    for (title, rows) in [
        ("Topic", inert::TOPIC_ROWS),
        ("Broker", inert::BROKER_ROWS),
        ("Group", inert::GROUP_ROWS),
    ] {
        let _ = write!(
            page,
            "\n### {title}\n\n| setting | why it has no effect |\n|---|---|\n"
        );
        for row in rows {
            let _ = writeln!(page, "| `{}` | {} |", row.key, row.doc);
        }
    }
    page
}

fn active_table(page: &mut String, rows: &[Row]) {
    page.push_str("| setting | what it does | type and range | default | takes hold |\n");
    page.push_str("|---|---|---|---|---|\n");
    for row in rows {
        let mut aliases = String::new();
        for alias in row.aliases {
            let _ = write!(aliases, "<br>also `{alias}`");
        }
        let behind: Vec<String> = row
            .synonyms
            .iter()
            .map(|synonym| format!("`{}`", synonym.broker_key))
            .collect();
        let default = match (row.default, behind.is_empty()) {
            (None, _) => "not set".to_owned(),
            (Some(text), true) => format!("`{text}`"),
            (Some(text), false) => format!("{}, else `{text}`", behind.join(", ")),
        };
        let when = match row.change {
            Change::Restart => "at start",
            Change::Live => "while running",
        };
        let place = match row.effect {
            Effect::In(place) => place,
            Effect::None(_) => "nowhere",
        };
        let _ = writeln!(
            page,
            "| `{}`{aliases} | {} | {}: {} | {default} | {when}, in `{place}` |",
            row.key,
            row.doc,
            row.kind.type_name(),
            row.kind.allowed(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_stands_in_exactly_one_table() {
        let page = markdown();
        let rows = super::super::layers::all_rows().map(|row| row.key);
        for key in rows {
            let lines = page
                .lines()
                .filter(|line| line.starts_with(&format!("| `{key}`")));
            let expected = 1 + usize::from(super::super::topic::find_row(key).is_some());
            assert_eq!(lines.count(), expected, "{key}");
        }
    }

    #[test]
    fn no_cell_breaks_its_table() {
        for line in markdown().lines().filter(|line| line.starts_with("| `")) {
            let bars = line.matches('|').count();
            assert!(bars == 3 || bars == 6, "{line}");
        }
    }
}
