//! For tests only: the real service as a child process, a blocking HTTP client that can also misbehave, and patience.
//!
//! | file | what |
//! | --- | --- |
//! | `service.rs` | starts, kills, ends, restarts the real binary on a port and a directory of its own |
//! | `fleet.rs` | several of them with the same settings, each with roles of its own |
//! | `http.rs` | a blocking HTTP/1.1 connection: requests as a client sends them, or any bytes at all |
//! | `frames.rs` | the same over framed TCP |
//! | `h2.rs` | the same over HTTP/2, frame by frame |
//! | `clock.rs` | a wall clock that can be set under a process |
//! | `brain.rs` | starts, kills, hangs, restarts a brain of `python/brain` |
//! | `kafka.rs` | a real Apache Kafka, one broker or several, which can be killed and hung; its topics |
//! | `clickhouse.rs` | a real ClickHouse server, which can be killed and hung |
//! | `postgres.rs` | a real PostgreSQL server, which can be killed and hung |
//! | `process.rs` | the process of such a server |
//! | `proxy.rs` | a bad network before a server: cut, hung, slow, garbage |
//! | `redis.rs` | starts, kills, hangs, restarts a real Redis; a connection to it |
//! | `s3.rs` | a real S3 server, which can be killed and hung |
//! | `tools.rs` | where what `scripts/install-servers` makes is |
//! | `tmpfs.rs` | a small disk that can be filled up |
//! | `eventually.rs` | waits for a condition in place of sleeping |
//! | `seed.rs` | a seed that is printed and can be given again, and random numbers from it |
//!
//! A test reads like a story:
//!
//! ```no_run
//! use std::time::Duration;
//! use telemetryx_testkit::{Service, eventually};
//!
//! let mut service = Service::builder("target/debug/telemetryx").start();
//! let answer = service.post_json("/ingest", r#"{"ts":"2026-01-01T00:00:00Z"}"#);
//! assert_eq!(answer.status, 202);
//! service.kill();
//! service.restart();
//! eventually(Duration::from_secs(5), "the event is counted", || {
//!     service.get("/stats").json()["events_count"] == 1
//! });
//! ```
//!
//! Nothing here knows the service's code: it starts a program and talks HTTP. Whatever goes wrong in here panics, with
//! the end of the service's log.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, clippy::expect_used)]

mod brain;
mod clickhouse;
mod clock;
mod eventually;
mod fleet;
mod frames;
mod h2;
mod http;
mod kafka;
mod postgres;
mod process;
mod proxy;
mod redis;
mod s3;
mod seed;
mod service;
mod tmpfs;
mod tools;

pub use brain::Brain;
pub use clickhouse::ClickHouse;
pub use clock::Clock;
pub use eventually::{eventually, eventually_some};
pub use fleet::{Fleet, FleetBuilder};
pub use frames::{FrameConnection, frame};
pub use h2::{H2Connection, ReadWrite, h2_frame};
pub use http::{Connection, Response};
pub use kafka::{Kafka, KafkaBuilder, KafkaMessage};
pub use postgres::Postgres;
pub use proxy::Proxy;
pub use redis::{RedisAnswer, RedisConnection, RedisServer};
pub use s3::S3Server;
pub use seed::TestSeed;
pub use service::{Exit, Service, ServiceBuilder, StartError, free_port};
pub use tmpfs::SmallDisk;
