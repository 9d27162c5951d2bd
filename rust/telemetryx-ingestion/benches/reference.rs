//! How fast durable ingestion can be on this machine: the yardstick of `scripts/bench`.
//!
//! Bare hyper, events parsed with borrowed fields, and one writer thread that does one write and one `fdatasync` for all
//! who wait; only then 202. No validation, limits, metrics, routes or recovery: a ceiling, not a product.
//!
//! `reference PORT DIR` — or `reference PORT DIR --null`, which throws bodies away and so measures the load generator.
#![allow(clippy::print_stdout)]

use std::borrow::Cow;
use std::fs::File;
use std::io::{Error, Write};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::{Condvar, Mutex};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

/// One event, borrowed from the body; what the service reads of it, and no more.
#[derive(serde::Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ts: Cow<'a, str>,
    #[serde(borrow, rename = "type", default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    source: Cow<'a, str>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// What waits to be written, and who waits for it.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    writers: Vec<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Log {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Log {
    /// Appends length, CRC-32C and body; the receiver hears when they are on disk.
    fn append(&self, body: &[u8]) -> oneshot::Receiver<()> {
        let (written, durable) = oneshot::channel();
        let crc = crc32c::crc32c(body);
        let mut waiting = self.waiting.lock();
        waiting
            .bytes
            .extend_from_slice(&(body.len() as u32).to_le_bytes());
        waiting.bytes.extend_from_slice(&crc.to_le_bytes());
        waiting.bytes.extend_from_slice(body);
        waiting.writers.push(written);
        drop(waiting);
        self.arrived.notify_one();
        durable
    }

    /// The writer thread: takes all that waits, one write, one sync, wakes everybody.
    fn write(&self, mut file: File) -> Result<(), Error> {
        let mut batch = Waiting::default();
        loop {
            let mut waiting = self.waiting.lock();
            while waiting.writers.is_empty() {
                self.arrived.wait(&mut waiting);
            }
            std::mem::swap(&mut *waiting, &mut batch);
            drop(waiting);
            file.write_all(&batch.bytes)?;
            file.sync_data()?;
            batch.bytes.clear();
            for writer in batch.writers.drain(..) {
                // A receiver that is gone is a client that is gone.
                let _gone = writer.send(());
            }
        }
    }
}

/// Counts the events of a body, having read every field of each.
fn parse(body: &[u8]) -> Result<usize, serde_json::Error> {
    let touch = |event: &Event<'_>| {
        let payload = event.payload.map_or(0, |payload| payload.get().len());
        let id = event.id.as_ref().map_or(0, |id| id.len());
        std::hint::black_box(id + event.ts.len() + event.kind.len() + event.source.len() + payload);
    };
    if body.first() == Some(&b'[') {
        let events: Vec<Event<'_>> = serde_json::from_slice(body)?;
        events.iter().for_each(touch);
        Ok(events.len())
    } else {
        touch(&serde_json::from_slice(body)?);
        Ok(1)
    }
}

async fn answer(
    request: Request<Incoming>,
    log: Option<Arc<Log>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let post = request.method() == Method::POST;
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = Response::new(Full::default());
    let (Some(log), true) = (log, post) else {
        *response.status_mut() = if post {
            StatusCode::ACCEPTED
        } else {
            StatusCode::OK
        };
        return Ok(response);
    };
    let Ok(count) = parse(&body) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    *response.status_mut() = match log.append(&body).await {
        Ok(()) => StatusCode::ACCEPTED,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    *response.body_mut() = format!(r#"{{"accepted":{count},"rejected":0}}"#).into();
    Ok(response)
}

async fn serve(port: u16, log: Option<Arc<Log>>) -> Result<(), Error> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let log = log.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(request, log.clone()));
            let mut http = hyper::server::conn::http1::Builder::new();
            // A connection that breaks is the client's business.
            let _broken = http
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::other("usage: reference PORT DIR [--null]");
    let (port, dir) = arguments.first().zip(arguments.get(1)).ok_or_else(usage)?;
    let port = port.parse().map_err(|_| usage())?;
    let log = if arguments.iter().any(|argument| argument == "--null") {
        None
    } else {
        std::fs::create_dir_all(dir)?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(format!("{dir}/reference.log"))?;
        let log = Arc::new(Log::default());
        let writer = Arc::clone(&log);
        std::thread::spawn(move || {
            if let Err(error) = writer.write(file) {
                println!("the log cannot be written: {error}");
                std::process::exit(1);
            }
        });
        Some(log)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(port, log))
}
