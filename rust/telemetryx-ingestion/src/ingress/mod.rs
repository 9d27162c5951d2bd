//! Left of the durability line: one file a protocol. Each reads bytes from its clients, hands them to
//! [`Intake`](crate::intake::Intake), and answers in its own dialect; none keeps anything.
//!
//! | file | purpose |
//! | --- | --- |
//! | `http.rs` | which path is whose; requests and answers of our own HTTP API |
//! | `ingest.rs` | `POST /ingest` |
//! | `answer.rs` | values and refusals as HTTP answers |
//! | `body.rs` | reads a request body within its limits: bytes, time, memory |
//! | `decompress.rs` | gzip, deflate, zstd, counting what comes out |
//! | `request_id.rs` | taken or made |
//! | `listener.rs` | sockets: accept, connection limits, HTTP/1.1 or h2c, draining |

mod answer;
mod body;
mod decompress;
mod http;
mod ingest;
mod listener;
mod request_id;

pub use self::http::HttpService;
pub use listener::Listener;
