//! The binary `telemetryx`: parses arguments and calls one command.

#[cfg(all(feature = "kafka", target_os = "linux", target_env = "gnu"))]
mod timed_wait;

use std::process::ExitCode;

use clap::Parser;
use telemetryx_ingestion::command::Cli;

fn main() -> ExitCode {
    #[cfg(target_env = "gnu")]
    one_heap_a_core();
    Cli::parse().run()
}

/// Limits the heaps of the system's allocator to one a core, in place of eight: a request's memory is often freed on
/// another thread than the one that took it, and then waits in that heap for nobody. `MALLOC_ARENA_MAX` is heeded.
#[cfg(target_env = "gnu")]
fn one_heap_a_core() {
    if std::env::var_os("MALLOC_ARENA_MAX").is_some() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // SAFETY: it sets a number inside the allocator, and no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::try_from(cores).unwrap_or(i32::MAX)) };
}
