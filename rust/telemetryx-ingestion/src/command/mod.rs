//! The command line: one file a subcommand. Only here may anything print.
#![allow(clippy::print_stdout, clippy::print_stderr)]

pub mod check;
pub mod crash_test;
pub mod healthcheck;
pub mod load;
