//! Where log lines go: standard error; as JSON, one object a line, when that is not a terminal, else for people.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Without `RUST_LOG`. A route tells of its sink once; this library would of each of its tries.
const FILTER: &str = "info,object_store=warn";

/// Starts logging, as `RUST_LOG` says (default `info`). Later calls do nothing.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let registry = tracing_subscriber::registry();
    #[cfg(feature = "tokio-console")]
    let registry = registry.with(
        std::env::var_os("TOKIO_CONSOLE")
            .is_some()
            .then(|| console_subscriber::ConsoleLayer::builder().spawn()),
    );
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        registry
            .with(tracing_subscriber::Layer::with_filter(
                lines.with_target(false),
                filter,
            ))
            .try_init()
    } else {
        let json = lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false);
        registry
            .with(tracing_subscriber::Layer::with_filter(json, filter))
            .try_init()
    };
    if started.is_ok()
        && cfg!(not(feature = "tokio-console"))
        && std::env::var_os("TOKIO_CONSOLE").is_some()
    {
        tracing::warn!(
            "TOKIO_CONSOLE is set, but this binary was built without it: \
             RUSTFLAGS='--cfg tokio_unstable' cargo run --features tokio-console"
        );
    }
}
