//! Left of the durability line: one file a protocol. Each reads bytes from its clients, hands them to
//! [`Intake`](crate::intake::Intake), and answers in its own dialect; none keeps anything.
//!
//! | file | purpose |
//! | --- | --- |
//! | `ingest.rs` | protocol: `POST /ingest` |
//! | `webhooks/` | protocol: `POST /webhooks/<name>` |
//! | `protocol.rs` | what a protocol is |
//! | `doors.rs` | binds all sockets, builds all protocols |
//! | `listener.rs` | sockets: accept, connection limit, draining |
//! | `http_connection.rs` | HTTP/1.1 or h2c on a connection |
//! | `http.rs` | which path is whose; everything that can be asked |
//! | `http_door.rs` | what every protocol over HTTP does with a request |
//! | `answer.rs` | values and refusals as HTTP answers |
//! | `body.rs` | reads a request body within its limits: bytes, time, memory |
//! | `decompress.rs` | gzip, deflate, zstd, counting what comes out |
//! | `request_id.rs` | taken or made |

mod answer;
mod body;
mod decompress;
mod doors;
mod http;
mod http_connection;
mod http_door;
mod ingest;
mod listener;
mod protocol;
mod request_id;
mod webhooks;

use self::http::HttpService;
pub use doors::{Doors, ListenError};
pub use listener::Listener;
