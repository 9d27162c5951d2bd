//! What goes on, said to operators: metrics, logs, spans, and the books of the door.
//!
//! | file | what |
//! | --- | --- |
//! | `metrics.rs` | every metric, its name and its help text |
//! | `logs.rs` | where log lines go, and in which form |
//! | `certificates.rs` | whether the certificates in use are those in the files |
//! | `door.rs` | what was turned away, counted across restarts |
//! | `overload.rs` | overload as log events, counted and not repeated |
//! | `shed.rs` | what the overflow policy dropped, by source and type |
//! | `webhooks.rs` | wrong signatures by webhook |

mod certificates;
mod door;
mod logs;
mod metrics;
mod overload;
mod shed;
mod webhooks;

pub use certificates::CertificateStates;
pub use door::{DoorBooks, DoorCount, DoorSaved, DoorTotals};
pub use logs::init as init_logs;
pub use metrics::{
    Endpoint, EndpointMetrics, KafkaLag, Metrics, PluginMetrics, ProtocolMetrics, RouteMetrics,
    dead_letters, rejected_unnamed,
};
pub use overload::{Counted, OverloadLog};
pub use shed::{ShedBooks, ShedTally};
pub use webhooks::{SignatureFault, WebhookCounts};
