//! Left of the durability line: one file a protocol. Each reads bytes from its clients, hands them to
//! [`Intake`](crate::intake::Intake), and answers in its own dialect; none keeps anything.
//!
//! | file | purpose |
//! | --- | --- |
//! | `ingest.rs` | protocol: `POST /ingest` |
//! | `otlp/` | protocol: OpenTelemetry, over HTTP and gRPC |
//! | `webhooks/` | protocol: `POST /webhooks/<name>` |
//! | `tcp.rs` | protocol: framed TCP |
//! | `protocol.rs` | what a protocol is |
//! | `doors.rs` | binds all sockets, builds all protocols |
//! | `listener.rs` | sockets: accept, connection limit, draining |
//! | `stream.rs` | a connection's bytes, encrypted or not, and its other end |
//! | `tls.rs` | handshakes |
//! | `tls/certificates.rs` | certificates, read again when they change |
//! | `http_connection.rs` | HTTP/1.1 or HTTP/2 on a connection |
//! | `http.rs` | which path is whose |
//! | `questions.rs` | everything that can be asked, and who computes the answers |
//! | `http_door.rs` | what every protocol over HTTP does with a request |
//! | `counted.rs` | what is written down of every request |
//! | `answer.rs` | values and refusals as answers |
//! | `body.rs` | reads a request body within its limits: bytes, time, memory |
//! | `decompress.rs` | gzip, deflate, zstd, counting what comes out |
//! | `request_id.rs` | taken or made |

mod answer;
mod body;
mod counted;
mod decompress;
mod doors;
mod http;
mod http_connection;
mod http_door;
mod ingest;
mod listener;
pub mod otlp;
mod protocol;
mod questions;
mod request_id;
mod stream;
mod tcp;
mod tls;
pub mod webhooks;

use self::http::HttpService;
pub use doors::{BindError, Doors, ListenError};
pub use listener::Listener;
pub use questions::Questions;
pub(crate) use tls::check as check_certificates;
