//! A connection to the server: where it is, who we are, and how a session is set up.

use std::future::poll_fn;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use rustls::ClientConfig;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::words;
use crate::config::Secret;
use crate::plugin::PluginError;
use crate::sinks::secret::SinkSecret;
use crate::sinks::tls::TlsFiles;

/// The keys that say where the server is.
#[derive(Debug, Deserialize)]
pub(crate) struct ServerConfig {
    pub(crate) url: Option<Secret>,
    pub(crate) url_file: Option<PathBuf>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) tls: Option<TlsFiles>,
}

/// Opens connections.
#[derive(Debug)]
pub(crate) struct Connector {
    url: SinkSecret,
    password: Option<SinkSecret>,
    tls: Option<TlsFiles>,
    timeout: Duration,
    /// Leaves servers alone that take nothing in, unless the URL says which are wanted.
    writes: bool,
}

/// An open connection. Dropped, it is closed at once, whatever is under way.
pub(crate) struct Connection {
    client: Client,
    driver: JoinHandle<()>,
}

impl Connector {
    /// Reads files, and reaches nothing.
    ///
    /// # Errors
    /// [`PluginError`] naming the key.
    pub(crate) fn new(config: ServerConfig, timeout: Duration) -> Result<Self, PluginError> {
        let url = SinkSecret::of("url", config.url, config.url_file)?;
        let url = url.ok_or_else(|| {
            PluginError::Settings(
                "`url` or `url_file` is missing: postgres://user@host:5432/database".to_owned(),
            )
        })?;
        let this = Self {
            url,
            password: SinkSecret::of("password", None, config.password_file)?,
            tls: config.tls,
            timeout,
            writes: false,
        };
        let server = this.server().map_err(PluginError::Settings)?;
        if let Some(tls) = this.tls_of(&server) {
            tls.client_config()?;
        }
        Ok(this)
    }

    /// As it is, but for servers only that can be written to, unless the URL says otherwise (`target_session_attrs`).
    pub(crate) fn that_writes(mut self) -> Self {
        self.writes = true;
        self
    }

    /// A new connection with `settings`, SQL that sets up the session. Of several hosts it is the first that answers; each has
    /// its part of the time.
    ///
    /// # Errors
    /// The server's words, or why there are none.
    pub(crate) async fn open(&self, settings: &str) -> Result<Connection, String> {
        // It is large, and rare.
        Box::pin(self.open_telling(settings, None)).await
    }

    /// As [`open`](Self::open); what the session listens to goes to `heard`, which is dropped with the connection.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub(crate) async fn open_telling(
        &self,
        settings: &str,
        heard: Option<UnboundedSender<Notification>>,
    ) -> Result<Connection, String> {
        // Files may have changed since.
        let (server, tls) = tokio::task::block_in_place(|| {
            let server = self.server()?;
            let tls = self.tls_of(&server).map(|tls| tls.client_config());
            tls.transpose()
                .map_err(|error| error.to_string())
                .map(|tls| (server, tls))
        })?;
        let mut hosts = hosts(&server);
        let at_most = self.timeout / u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let mut said = Vec::new();
        for (name, host) in &mut hosts {
            // A name may stand for several addresses.
            host.connect_timeout(at_most / 2)
                .tcp_user_timeout(self.timeout * 2)
                .keepalives_idle(Duration::from_secs(30))
                .keepalives_interval(Duration::from_secs(10))
                .keepalives_retries(3);
            let opening = self.connect(host, tls.clone(), settings, heard.clone());
            let words = match tokio::time::timeout(at_most, opening).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(words)) => words,
                Err(_) => format!("no connection within {at_most:?}"),
            };
            said.push(format!("{name}: {words}"));
        }
        Err(said.join("; "))
    }

    async fn connect(
        &self,
        server: &Config,
        tls: Option<ClientConfig>,
        settings: &str,
        heard: Option<UnboundedSender<Notification>>,
    ) -> Result<Connection, String> {
        let failed = |error| words(&error);
        let (client, driver) = match tls {
            Some(tls) => {
                let (client, io) = server
                    .connect(MakeRustlsConnect::new(tls))
                    .await
                    .map_err(failed)?;
                (client, drive(io, heard)?)
            }
            None => {
                let (client, io) = server.connect(NoTls).await.map_err(failed)?;
                (client, drive(io, heard)?)
            }
        };
        let connection = Connection { client, driver };
        // The server ends what we no longer wait for, and what is left behind by a machine that is gone.
        let ms = self.timeout.as_millis();
        let session = format!(
            "SET statement_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}; SET TimeZone = 'UTC'; \
             SET DateStyle = 'ISO'; SET client_min_messages = 'error'; \
             SET default_transaction_isolation = 'read committed'; SET tcp_keepalives_idle = 30; \
             SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; {settings}"
        );
        connection.batch_execute(&session).await.map_err(failed)?;
        Ok(connection)
    }

    fn server(&self) -> Result<Config, String> {
        let url = self.url.read()?;
        let url = url.expose();
        // The parser would take it for `key=value`, and show all of it.
        let scheme = url.split_once("://").map(|(scheme, _)| scheme.trim());
        if scheme.is_some_and(|scheme| !matches!(scheme, "postgres" | "postgresql")) {
            return Err("`url`: it must be `postgres://…` or `host=… user=…`".to_owned());
        }
        let mut server: Config = url
            .parse()
            .map_err(|error| format!("`url`: {}", words(&error)))?;
        if server.get_hosts().is_empty() && server.get_hostaddrs().is_empty() {
            return Err("`url`: it names no host".to_owned());
        }
        if let Some(password) = &self.password {
            if server.get_password().is_some() {
                return Err(
                    "`password_file`: `url` has a password as well: leave one out".to_owned(),
                );
            }
            server.password(password.read()?.expose());
        }
        match (&self.tls, server.get_ssl_mode()) {
            (Some(_), SslMode::Disable) => {
                return Err("`tls`: `url` says sslmode=disable: leave one out".to_owned());
            }
            (Some(_), _) => server.ssl_mode(SslMode::Require),
            // Where nobody asks for TLS, a certificate that cannot be verified must not stand in the way.
            (None, SslMode::Prefer) => server.ssl_mode(SslMode::Disable),
            (None, _) => &mut server,
        };
        if self.writes && server.get_target_session_attrs() == TargetSessionAttrs::Any {
            server.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if server.get_application_name().is_none() {
            server.application_name("telemetryx");
        }
        Ok(server)
    }

    /// The files for TLS, if this server is spoken to over TLS.
    fn tls_of(&self, server: &Config) -> Option<TlsFiles> {
        (server.get_ssl_mode() != SslMode::Disable).then(|| self.tls.clone().unwrap_or_default())
    }
}

/// Each host alone, with its name, in the order in which they are to be tried. The library goes on to the next one only where
/// no connection comes about, and not where a server takes it and says nothing.
fn hosts(server: &Config) -> Vec<(String, Config)> {
    let (names, addresses) = (server.get_hosts(), server.get_hostaddrs());
    let ports = server.get_ports();
    let count = names.len().max(addresses.len());
    let fits = |length: usize, least: usize| length <= least || length == count;
    let fit = fits(names.len(), 0) && fits(addresses.len(), 0) && fits(ports.len(), 1);
    // Where they do not fit together, the library says so.
    if !fit {
        return vec![("url".to_owned(), server.clone())];
    }
    let mut hosts: Vec<_> = (0..count)
        .map(|place| {
            let mut alone = Config::new();
            let mut name = String::new();
            if let Some(address) = addresses.get(place) {
                alone.hostaddr(*address);
                name = address.to_string();
            }
            match names.get(place) {
                Some(Host::Tcp(host)) => {
                    alone.host(host);
                    name.clone_from(host);
                }
                Some(Host::Unix(path)) => {
                    alone.host_path(path);
                    name = path.display().to_string();
                }
                None => {}
            }
            if let Some(port) = ports.get(place).or_else(|| ports.first()) {
                alone.port(*port);
                name = format!("{name}:{port}");
            }
            if let Some(user) = server.get_user() {
                alone.user(user);
            }
            if let Some(password) = server.get_password() {
                alone.password(password);
            }
            if let Some(database) = server.get_dbname() {
                alone.dbname(database);
            }
            if let Some(options) = server.get_options() {
                alone.options(options);
            }
            if let Some(name) = server.get_application_name() {
                alone.application_name(name);
            }
            alone
                .ssl_mode(server.get_ssl_mode())
                .ssl_negotiation(server.get_ssl_negotiation())
                .channel_binding(server.get_channel_binding())
                .keepalives(server.get_keepalives())
                .target_session_attrs(server.get_target_session_attrs());
            (name, if count == 1 { server.clone() } else { alone })
        })
        .collect();
    if server.get_load_balance_hosts() == LoadBalanceHosts::Random {
        fastrand::shuffle(&mut hosts);
    }
    hosts
}

/// Does the input and output of a connection until it ends.
fn drive<S, T>(
    mut io: tokio_postgres::Connection<S, T>,
    heard: Option<UnboundedSender<Notification>>,
) -> Result<JoinHandle<()>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Any other has no place for some characters, and the server would refuse event after event for that.
    if let Some(encoding) = io.parameter("server_encoding")
        && encoding != "UTF8"
    {
        return Err(format!(
            "the encoding of the database is {encoding}, and must be UTF8: CREATE DATABASE … ENCODING 'UTF8'"
        ));
    }
    Ok(tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| io.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => {
                    if let Some(heard) = &heard {
                        heard.send(notification).ok();
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(error = words(&error), "a connection to PostgreSQL ended");
                    return;
                }
            }
        }
    }))
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
