//! What every engine of the journal must do, in one suite for all of them: each test here runs once an engine, against a
//! real server where it has one.
//!
//! | file | what it asks of an engine |
//! | --- | --- |
//! | `durability.rs` | acknowledged is there, whoever is killed; the end of a journal |
//! | `order.rs` | the order of a key, the partition of a key |
//! | `finding.rs` | receipts' positions, reading by offset and by time |
//! | `reading.rs` | batches: limits, waiting, giving up the waiting, nothing skipped |
//! | `saving.rs` | positions and what is saved with them; backlog; what others see of it |
//! | `sharing.rs` | one route read by several processes, of which some hang or are killed |
//! | `table.rs` | what a fleet knows alike |
//! | `random.rs` | any order of all that, against a model |
//!
//! | file | what the tests need |
//! | --- | --- |
//! | `bench.rs` | a journal of its own for each test, whichever the engine |
//! | `events.rs` | events that know their place in the order of their key |
//! | `reader.rs` | a route's reading as one process does it, and as one of several |
//! | `child.rs` | this program again, as a process that can be killed |
//!
//! The tests know the trait and a config, and nothing else of an engine.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout
)]

mod bench;
mod child;
mod durability;
mod events;
mod finding;
mod order;
mod random;
mod reader;
mod reading;
mod saving;
mod sharing;
mod table;

/// Each test, once for the engine.
macro_rules! conforms {
    ($name:ident, $engine:expr) => {
        mod $name {
            conforms!(@tests $engine;
                durability::what_was_acknowledged_outlives_its_handle,
                durability::killed_process_loses_and_doubles_nothing,
                durability::closed_journal_keeps_all_and_takes_no_more,
                durability::journal_made_anew_has_another_identity,
                durability::events_are_kept_byte_for_byte,
                durability::large_batches_and_large_events_fit,
                order::key_keeps_its_order_with_several_appenders,
                order::key_stays_in_its_partition,
                order::keys_are_spread_over_all_partitions,
                finding::positions_cover_exactly_their_batches,
                finding::scan_reads_any_part_within_its_limits,
                finding::offset_is_found_by_time,
                reading::new_route_starts_at_the_oldest,
                reading::routes_are_independent,
                reading::batches_keep_their_limits,
                reading::batch_waits_for_the_first_event_and_then_for_more_only_so_long,
                reading::waiting_can_be_given_up_without_loss,
                reading::has_more_says_whether_it_would_wait,
                reading::nothing_is_skipped_while_several_append,
                saving::what_is_not_committed_comes_again,
                saving::position_and_state_are_saved_in_one_step_whenever_the_process_is_killed,
                saving::state_that_is_too_large_changes_nothing,
                saving::backlog_is_what_the_slowest_route_has_before_it,
                saving::others_see_extents_and_commits,
                sharing::partition_is_free_again_once_it_is_dropped,
                sharing::partitions_are_divided_and_handed_over_without_a_gap_in_the_books,
                sharing::who_holds_on_to_a_revoked_partition_commits_nothing_more,
                sharing::partitions_of_a_killed_process_are_read_by_another,
                sharing::process_that_hung_commits_nothing_once_another_reads,
                table::values_come_in_one_order_to_all,
                table::names_keep_their_newest_value,
                random::any_workload_does_what_the_model_does,
            );
        }
    };
    (@tests $engine:expr; $($group:ident::$test:ident,)*) => {
        $(#[test]
        fn $test() {
            crate::bench::run($engine, crate::$group::$test);
        })*
    };
}

conforms!(embedded, crate::bench::Engine::Embedded);
conforms!(kafka, crate::bench::Engine::Kafka);
conforms!(postgres, crate::bench::Engine::Postgres);

/// Not a test: what tests start as a process of its own. Does nothing where nobody asked for it.
#[test]
fn child() {
    child::do_what_is_asked();
}
