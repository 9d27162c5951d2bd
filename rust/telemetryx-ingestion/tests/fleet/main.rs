//! A fleet, with what can happen to it: two processes take in, two deliver to PostgreSQL and Redis, and under load a part is
//! killed, stopped, cut off, or has its clock set. What was acknowledged is in PostgreSQL once, in the order of its key; the
//! counters are exact; and that without help, soon after the trouble is over.
//!
//! | file | what |
//! | --- | --- |
//! | `rig.rs` | the fleet with its servers, load on it, and what must hold afterwards |
//! | `trouble.rs` | what can happen to a fleet with any journal |
//! | `kafka.rs`, `postgres.rs` | what can happen to the server of the journal |
//! | `clocks.rs` | clocks that jump by hours |
#![cfg(feature = "kafka")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs
)]

mod clocks;
mod kafka;
mod postgres;
mod rig;
#[path = "../support/mod.rs"]
mod support;
mod trouble;

/// Each trouble, once for the journal.
macro_rules! survives {
    ($journal:ident, $start:expr) => {
        survives!(@tests $journal, $start;
            readers_are_added_killed_and_stopped_past_their_session,
            the_network_is_cut_between_each_pair,
            postgres_fails_over_in_the_middle_of_transactions,
            redis_is_away_and_everything_else_goes_on,
            processes_are_killed_and_started_again,
        );
    };
    (@tests $journal:ident, $start:expr; $($test:ident,)*) => {
        mod $journal {
            $(
                #[test]
                fn $test() {
                    crate::trouble::$test($start);
                }
            )*
        }
    };
}

survives!(over_kafka, crate::rig::Plan::kafka());
survives!(over_postgres, crate::rig::Plan::postgres());
