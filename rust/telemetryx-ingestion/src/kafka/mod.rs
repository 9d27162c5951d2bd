//! What the sink `kafka` and the journal `kafka` have in common.
//!
//! | file | what |
//! | --- | --- |
//! | `settings.rs` | where Kafka is, and the options of librdkafka, checked |
//! | `security.rs` | TLS, passwords |
//! | `message.rs` | an event as a message |
//! | `context.rs` | what librdkafka says: its log, its errors |
//! | `topic_id.rs` | the id of a topic |

pub(crate) mod context;
pub(crate) mod message;
pub(crate) mod security;
pub(crate) mod settings;
pub(crate) mod topic_id;

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// Why it failed, as a code.
pub(crate) fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    error
        .rdkafka_error_code()
        .unwrap_or(RDKafkaErrorCode::Unknown)
}
