//! The command line: one file a subcommand. Only here may anything print.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};

pub mod check;
pub mod crash_test;
pub mod dead_letters;
pub mod healthcheck;
pub mod journal;
pub mod load;
mod operator;
pub mod replay;
pub mod serve;
pub mod tls;

/// Exit code for a config or a command line that is wrong.
const WRONG: u8 = 2;

/// Durable ingestion of events: a 2xx means that the event is on disk.
#[derive(Debug, Parser)]
#[command(name = "telemetryx", version, about, max_term_width = 100)]
pub struct Cli {
    /// The config file, YAML or TOML by its ending [default: built-in settings]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take in events and deliver them (what runs without a command)
    Serve,
    Check(check::CheckArgs),
    Load(Box<load::LoadOptions>),
    Replay(replay::ReplayArgs),
    DeadLetters(dead_letters::DeadLettersArgs),
    Journal(journal::JournalArgs),
    CrashTest(crash_test::CrashTestOptions),
    Healthcheck(healthcheck::HealthcheckOptions),
}

/// Says what is wrong, on standard error. A reader that has gone is no reason to panic, as `eprintln!` would.
fn complain(text: impl std::fmt::Display) {
    use std::io::Write;
    writeln!(std::io::stderr().lock(), "{text}").ok();
}

impl Cli {
    /// Runs the command that was asked for.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let config = self.config;
        match self.command.unwrap_or(Command::Serve) {
            Command::Serve => serve::run(config),
            Command::Check(args) => check::run(args, config),
            Command::Load(args) => load::run(&args),
            Command::Replay(args) => replay::run(args, config),
            Command::DeadLetters(args) => dead_letters::run(args, config),
            Command::Journal(args) => journal::run(args, config),
            Command::CrashTest(args) => crash_test::run(&args),
            Command::Healthcheck(args) => {
                match Config::load(config.as_deref(), config::environment()) {
                    Ok(config) => healthcheck::run(&args, &config.http),
                    Err(errors) => {
                        complain(errors);
                        ExitCode::from(WRONG)
                    }
                }
            }
        }
    }
}
