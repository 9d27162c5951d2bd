//! A disk that loses, a clock that stands still, a journal without a thread: for tests of this crate and of its users.
//!
//! | file | purpose |
//! | --- | --- |
//! | `disk.rs` | [`SimStorage`]: what a power cut, a failed sync or a full disk does |
//! | `file.rs` | one simulated file: what is durable, what is only cached, what is not yet synced |
//! | `stepped.rs` | [`SteppedJournal`]: the real service, its turns taken by the test |
//! | `random.rs` | [`Random`]: the same numbers from the same seed |

mod disk;
mod file;
mod random;
mod stepped;

pub use disk::{Faults, SimStorage};
pub use random::Random;
pub use stepped::{SimClock, SteppedAppend, SteppedJournal};
