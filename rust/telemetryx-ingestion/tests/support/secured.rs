//! A service that speaks TLS on every listener, its certificates, and clients of it.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::{Error, Read, Write};
use std::path::Path;

use serde_json::Value;
use telemetryx_testkit::{Service, ServiceBuilder, eventually, frame, free_port};
use tempfile::TempDir;

use crate::certificates::{Authority, Pair, TlsConnection};
use crate::support::{SOON, event, service};

/// Two authorities, of servers and of clients, and a server's certificate.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) servers: Authority,
    pub(crate) clients: Authority,
    pub(crate) server: Pair,
}

/// Whether clients need a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clients {
    Anyone,
    Certified,
}

/// A service that speaks TLS on its HTTP port and its TCP port.
pub(crate) struct Secured<'w> {
    pub(crate) service: Service,
    pub(crate) tcp: String,
    pub(crate) world: &'w World,
}

impl std::ops::Deref for Secured<'_> {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let servers = Authority::new(dir.path(), "servers");
        let clients = Authority::new(dir.path(), "clients");
        let server = servers.issue("server");
        Self {
            dir,
            servers,
            clients,
            server,
        }
    }

    #[track_caller]
    pub(crate) fn start(&self, clients: Clients, config: &str) -> Secured<'_> {
        self.start_built(clients, service().config(config))
    }

    /// What is built so far, with TLS.
    #[track_caller]
    pub(crate) fn start_built(&self, clients: Clients, builder: ServiceBuilder) -> Secured<'_> {
        let port = free_port();
        let mut builder = builder
            .env("TELEMETRYX_TCP__PORT", &port.to_string())
            .env("TELEMETRYX_HTTP__TLS__CERT_FILE", text(&self.server.cert))
            .env("TELEMETRYX_HTTP__TLS__KEY_FILE", text(&self.server.key))
            .speaks_tls();
        if clients == Clients::Certified {
            let file = text(&self.clients.file);
            builder = builder.env("TELEMETRYX_HTTP__TLS__CLIENT_CA_FILE", file);
        }
        Secured {
            service: builder.start(),
            tcp: format!("127.0.0.1:{port}"),
            world: self,
        }
    }
}

impl Secured<'_> {
    pub(crate) fn connect(
        &self,
        alpn: &[&str],
        client: Option<&Pair>,
    ) -> Result<TlsConnection, Error> {
        let address = self.service.address();
        self.world.servers.connect(&address, alpn, client)
    }

    pub(crate) fn connect_tcp(&self, client: Option<&Pair>) -> Result<TlsConnection, Error> {
        self.world.servers.connect(&self.tcp, &[], client)
    }

    /// One request over HTTP/1.1: status and body.
    pub(crate) fn ask(
        &self,
        client: Option<&Pair>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(u16, String), Error> {
        ask_over(self.connect(&["http/1.1"], client)?, method, path, body)
    }

    #[track_caller]
    pub(crate) fn assert_serves(&self, client: Option<&Pair>, id: &str) {
        let (status, body) = self.ask(client, "POST", "/ingest", &event(id)).unwrap();
        assert_eq!(status, 202, "{body}");
        let answer = ask_frame(&mut self.connect_tcp(client).unwrap(), event(id)).unwrap();
        assert_eq!(answer["status"], 202, "{answer}");
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let (_, body) = self.ask(None, "GET", path, "").unwrap();
        serde_json::from_str(&body).unwrap()
    }

    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.ask(None, "GET", "/metrics", "").unwrap();
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.expect(name).parse().unwrap()
    }

    /// The certificate that the server shows to a new client.
    pub(crate) fn shown(&self) -> Vec<u8> {
        let mut stream = self.connect(&[], None).unwrap();
        stream.flush().unwrap();
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    }

    pub(crate) fn wait_until_stored(&self, ids: &[&str]) {
        eventually(SOON, "events are stored", || {
            let answer = self.get("/events?limit=500");
            // 503 until the store was opened for the first time.
            let Some(stored) = answer["events"].as_array() else {
                return false;
            };
            let mut stored: Vec<_> = stored.iter().collect();
            stored.sort_by_key(|event| event["id"].to_string());
            stored.iter().map(|event| &event["id"]).eq(ids)
        });
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// One request and the whole answer, on a connection that ends with it: in HTTP/1.0 nothing is sent in chunks.
pub(crate) fn ask_over(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, String), Error> {
    let head = format!(
        "{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    stream.flush()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((
        status.ok_or_else(|| Error::other(answer.clone()))?,
        body.to_owned(),
    ))
}

pub(crate) fn answer_of(stream: &mut impl Read) -> Result<Value, Error> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

pub(crate) fn ask_frame(
    stream: &mut (impl Read + Write),
    body: impl AsRef<[u8]>,
) -> Result<Value, Error> {
    stream.write_all(&frame(body))?;
    answer_of(stream)
}
