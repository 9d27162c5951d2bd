//! Right of the durability line: each route reads the journal at its own pace, processes, delivers and commits.
//!
//! | file | purpose |
//! | --- | --- |
//! | `supervisor.rs` | [`Route`]: a reader for each partition that this process reads |
//! | `runner.rs` | a reader: what it is made of; one run after the other, whatever goes wrong |
//! | `run.rs` | one run, from the last commit on: read › filter › process › deliver › settle › commit |
//! | `handling.rs` | one batch, from the journal's bytes until it is settled |
//! | `pipeline.rs` | filter and processors, and what they make of a batch |
//! | `read_ahead.rs` | what is read while the sink is still at the batch before |
//! | `delivering.rs` | one batch to the sink, until it is delivered or dead: retry, breaker |
//! | `shared_sink.rs` | the sink, one batch at a time; which event it refuses |
//! | `refusals.rs` | whether the events are to blame that it refuses, or the server |
//! | `breaker.rs` | the circuit breaker |
//! | `batch.rs` | [`EventBatch`] |
//! | `filter.rs` | which events a route wants |
//! | `commit.rs` | what is saved with the cursor, and how often |
//! | `under_way.rs` | a batch that must be settled or given back |
//! | `books.rs`, `handle.rs` | what became of every event, exact at every moment; others' view of a route |
//! | `redrive.rs`, `replay.rs` | dead letters sent again; events delivered again |
//!
//! A route knows `journal`, `processors`, `sinks` and `control`; nobody but `service` and `query` knows a
//! route; [`EventBatch`] is what sinks and processors are handed.

mod batch;
mod books;
mod breaker;
mod commit;
mod delivering;
mod filter;
mod handle;
mod handling;
mod pipeline;
mod read_ahead;
mod redrive;
mod refusals;
mod replay;
mod run;
mod runner;
mod shared_sink;
mod supervisor;
#[cfg(test)]
mod tests;
mod under_way;

pub use batch::{Cause, EventBatch, Letter, Origin, Stretch};
pub use books::Books;
pub(crate) use commit::Saved;
pub use commit::{saved_books, saved_progress};
pub use filter::RouteFilter;
pub use handle::{Progress, RouteHandle, RouteStatus, SinkHealth};
pub use runner::{Plugins, RouteError, RouteSettings};
pub use supervisor::{MakePlugins, Route};
