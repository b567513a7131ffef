//! What people write: settings files, and the settings of topics.

use corelog::config::layers::{Settings, all_rows};
use corelog::config::{BrokerConfig, TopicOverrides};

use super::watch::frugal;

/// A settings file in TOML.
pub(crate) mod settings_file {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return false;
        };
        let mut settings = Settings::default();
        let set = frugal(text.len(), || settings.set_file(text, "a file"));
        if let Err(error) = &set {
            assert!(!error.to_string().is_empty());
        }
        // what was taken before an error is in force as well: each text is one that its row parses
        for row in all_rows() {
            let _ = settings.value(row);
        }
        let config = BrokerConfig::new(settings);
        set.is_ok() && config.is_ok()
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let mut samples = vec![
            b"num.partitions = 4\nlisten = [\"127.0.0.1:9092\", \"[::1]:9093\"]\n".to_vec(),
            b"[log.retention]\nhours = 5\n[log.segment]\nbytes = 1048576\n".to_vec(),
            b"\"max.connections.per.ip.overrides\" = \"10.0.0.1:5,[::1]:7\"\n".to_vec(),
            b"commit.bytes = \"1MiB\"\nspin = \"20us\"\ncores = \"all\"\n".to_vec(),
        ];
        // every setting at its default
        let line = |row: &corelog::config::table::Row| {
            let mut settings = Settings::default();
            let text = row.default?;
            let line = format!("{:?} = {text:?}\n", row.key);
            settings.set_file(&line, "a file").is_ok().then_some(line)
        };
        samples.push(all_rows().filter_map(line).collect::<String>().into_bytes());
        samples
    }
}

/// Settings of a topic, one `name=value` a line.
pub(crate) mod topic_settings {
    use super::*;
    use corelog::config::TopicConfig;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return false;
        };
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let overrides = frugal(text.len(), || TopicOverrides::new(pairs));
        let Ok(overrides) = overrides else {
            return false;
        };
        let again = TopicOverrides::new(overrides.iter()).expect("what was taken is allowed");
        assert_eq!(again, overrides);
        let _ = TopicConfig::resolve(&BrokerConfig::default(), &overrides);
        overrides.iter().next().is_some()
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        vec![
            b"retention.ms=1000\nsegment.bytes=1048576\ncleanup.policy=delete\n".to_vec(),
            b"compression.type=zstd\nmessage.timestamp.type=LogAppendTime\n".to_vec(),
        ]
    }
}
