//! The binary `telemetryx`: parses arguments and calls one command.

use std::process::ExitCode;

use clap::Parser;
use telemetryx_ingestion::command::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
