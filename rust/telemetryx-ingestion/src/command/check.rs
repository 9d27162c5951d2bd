//! `telemetryx check`: is this config one that the service would run with? Reaches no server and touches no data.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{WRONG, complain};
use crate::{
    config::{self, Config, ConfigErrors},
    service,
};

/// Read the config, build every plug-in, print what results
///
/// Prints the resolved config as YAML, secrets masked, and exits 0; or prints each mistake on a line of its own and
/// exits 2. No server is reached and no data touched.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {}

/// Runs the command on the file given, or on the built-in defaults; in either case with the environment over it.
pub fn run(_args: CheckArgs, config: Option<PathBuf>) -> ExitCode {
    match check(config.as_deref()) {
        Ok(config) => {
            use std::io::Write;
            std::io::stdout()
                .lock()
                .write_all(config.to_masked_yaml().as_bytes())
                .ok();
            ExitCode::SUCCESS
        }
        Err(errors) => {
            complain(errors);
            ExitCode::from(WRONG)
        }
    }
}

fn check(path: Option<&Path>) -> Result<Config, ConfigErrors> {
    Config::load_with_plugins(path, config::environment(), service::check_plugins)
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_wrong_file_is_told_with_its_mistakes_and_a_right_one_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        std::fs::write(&file, "http: { port: 1 }\n").unwrap();
        assert!(
            check(Some(&file))
                .unwrap()
                .to_masked_yaml()
                .contains("port: 1\n")
        );
        std::fs::write(&file, "http: { port: x }\nhttps: {}\n").unwrap();
        assert_eq!(check(Some(&file)).unwrap_err().0.len(), 2);
        std::fs::write(
            &file,
            "htp: {}\nvalidation:\n  plugins:\n    - name: NoSuch\n",
        )
        .unwrap();
        let error = check(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("c.yaml:1: htp: "), "{error}");
        assert!(error.contains("c.yaml:4: validation.plugins[0]"), "{error}");
    }
}
