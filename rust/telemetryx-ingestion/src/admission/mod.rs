//! May this request come in? Asked before its body is read, cheapest question first.
//!
//! | file | question |
//! | --- | --- |
//! | `auth.rs` | who is it? |
//! | `rate_limit.rs` | too often? |
//! | `buckets.rs` | … with a bounded number of buckets |
//! | `overflow.rs` | has the backlog room? |
//! | `budget.rs` | is there memory for the body? |
//!
//! `intake` asks; a protocol only hands over what its client showed.

mod auth;
mod buckets;
mod budget;
mod overflow;
mod rate_limit;

pub use auth::{AdminGate, Identity, KeyRing, api_key, only};
pub use buckets::BucketsHeld;
pub use budget::{MemoryBudget, MemoryPermit, Shortage};
pub use overflow::{OverflowGate, Verdict};
pub use rate_limit::{Allowance, RateLimiter, Spent};
