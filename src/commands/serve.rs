//! `corelog serve`: gathers the settings of all sources and runs the broker.
//!
//! Runs on: the main thread, which becomes the broker's.
//! Promises: a refused setting ends with one line and exit code 1, before anything is touched.

use std::path::PathBuf;

use super::arguments::ServeArguments;
use super::run::Failure;
use crate::broker;
use crate::config::BrokerConfig;
use crate::config::layers::{Settings, Source};

/// Runs the broker until it is told to stop.
pub(super) fn run(arguments: &ServeArguments) -> Result<(), Failure> {
    let config = configuration(arguments)?;
    broker::run(config).map_err(|error| Failure::Failed(error.to_string()))
}

/// The settings of file, environment and flags together.
pub(super) fn configuration(arguments: &ServeArguments) -> Result<BrokerConfig, Failure> {
    let path = arguments
        .config
        .clone()
        .or_else(|| Some(std::env::var_os("CORELOG_CONFIG")?.into()));
    let file = path.map(read_file).transpose()?;
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    gather(arguments, file, environment)
}

fn read_file(path: PathBuf) -> Result<(String, String), Failure> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(Failure::Failed(format!(
            "cannot read {name}: {error}: --config must name a readable TOML file"
        ))),
    }
}

/// The configuration that flags, environment and file (name, text) make together.
fn gather(
    arguments: &ServeArguments,
    file: Option<(String, String)>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<BrokerConfig, Failure> {
    let refused = |error: crate::config::Error| Failure::Failed(error.to_string());
    let mut settings = Settings::default();
    if let Some((name, text)) = file {
        settings.set_file(&text, &name).map_err(refused)?;
    }
    settings.set_environment(environment).map_err(refused)?;
    for assignment in &arguments.set {
        let Some((name, value)) = assignment.split_once('=') else {
            return Err(Failure::Usage(format!(
                "--set {assignment}: expected NAME=VALUE"
            )));
        };
        settings
            .set(name.trim(), value, Source::Flag, "--set")
            .map_err(refused)?;
    }
    for (flag, name, value) in arguments.settings() {
        settings
            .set(name, value, Source::Flag, flag)
            .map_err(refused)?;
    }
    BrokerConfig::new(settings).map_err(refused)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::commands::arguments::{Arguments, Command};

    fn serve(
        flags: &[&str],
        file: &str,
        variables: &[(&str, &str)],
    ) -> Result<BrokerConfig, String> {
        let typed = ["corelog", "serve"].iter().chain(flags);
        let parsed = Arguments::try_parse_from(typed).map_err(|error| error.to_string())?;
        let Command::Serve(arguments) = parsed.command else {
            panic!("serve")
        };
        let variables: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        gather(
            &arguments,
            Some(("f.toml".into(), file.into())),
            variables.into_iter(),
        )
        .map_err(|failure| failure.to_string())
    }

    #[test]
    fn flags_win_over_environment_over_file_over_default() {
        let file = "num.partitions = 2\nnode.id = 2\nring.depth = 64";
        let variables = [("CORELOG_NUM_PARTITIONS", "3"), ("CORELOG_NODE_ID", "3")];
        let config = serve(&["--node-id", "4"], file, &variables).expect("valid");
        assert_eq!(config.node_id, 4);
        assert_eq!(config.num_partitions, 3);
        assert_eq!(config.ring_depth, 64);
        assert_eq!(config.default_replication_factor, 1);
    }

    #[test]
    fn every_dedicated_flag_is_a_setting() {
        let flags = [
            ("--data-dir", "/d"),
            ("--listen", "0.0.0.0:1"),
            ("--advertise", "h:2"),
            ("--node-id", "7"),
            ("--cores", "0,2-3"),
            ("--admin", "off"),
            ("--memory-per-shard", "64MiB"),
            ("--journal-size", "32MiB"),
            ("--ring-depth", "256"),
            ("--spin", "10us"),
            ("--commit-bytes", "64KiB"),
            ("--commit-delay", "1ms"),
            ("--writes-in-flight", "2"),
            ("--destage-size", "2MiB"),
            ("--shares", "network=1,commit=2,read=3,background=4"),
            ("--log-level", "debug"),
            ("--log-format", "json"),
        ];
        let mut typed: Vec<&str> = flags
            .iter()
            .flat_map(|(flag, value)| [*flag, *value])
            .collect();
        typed.push("--allow-volatile");
        let config = serve(&typed, "", &[]).expect("valid");
        for (flag, value) in flags {
            let name = flag.trim_start_matches('-').replace('-', ".");
            let text = config.settings().text(&name);
            assert_eq!(text, Some((Source::Flag, value)), "{flag}");
        }
        assert!(config.allow_volatile);
    }

    #[test]
    fn refusals_say_name_value_and_range() {
        let error = serve(&["--set", "num.partitions=0"], "", &[]).expect_err("range");
        assert_eq!(
            error,
            "setting `num.partitions` = `0` (--set) is not allowed: \
             expected a whole number, 1 to 10000"
        );
        let error = serve(&["--spin", "fast"], "", &[]).expect_err("not a time");
        assert!(
            error.starts_with("setting `spin` = `fast` (--spin)"),
            "{error}"
        );
        let error = serve(&["--set", "no.such=1"], "", &[]).expect_err("unknown");
        assert!(
            error.starts_with("unknown setting `no.such` = `1` (--set)"),
            "{error}"
        );
        let error = serve(&["--set", "num.partitions"], "", &[]).expect_err("no value");
        assert_eq!(error, "--set num.partitions: expected NAME=VALUE");
    }
}
