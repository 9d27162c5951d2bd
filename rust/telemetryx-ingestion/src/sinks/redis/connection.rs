//! A connection to Redis that is made anew when it breaks. Every wait has a deadline. In a cluster it goes to the node
//! that has the keys; they are all on one, since they share a hash tag.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, FromRedisValue, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, RedisResult,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::super::secret::SinkSecret;
use super::super::tls::TlsFiles;

/// How often a cluster may send us on before we give up.
const HOPS_MAX: usize = 5;
/// Written to the socket at once.
const WRITE_BYTES: usize = 256 << 10;

/// Where Redis is, and how to come in.
#[derive(Debug)]
pub(super) struct Server {
    url: SinkSecret,
    password: Option<SinkSecret>,
    tls: TlsFiles,
    /// A key that is on the node we want.
    key: String,
}

/// What a URL says.
struct Target {
    host: String,
    port: u16,
    tls: bool,
    login: RedisConnectionInfo,
}

impl Server {
    pub(super) fn new(
        url: SinkSecret,
        password: Option<SinkSecret>,
        tls: TlsFiles,
        key: String,
    ) -> Self {
        Self {
            url,
            password,
            tls,
            key,
        }
    }

    /// Reads all files and says what is wrong with them; reaches nothing.
    ///
    /// # Errors
    /// For a person, without the secrets.
    pub(super) fn check(&self, tls_given: bool) -> Result<(), String> {
        let target = self.target()?;
        if target.tls {
            self.tls
                .client_config()
                .map_err(|error| error.to_string())?;
        } else if tls_given {
            return Err("`tls` is set, but `url` does not say `rediss://`".to_owned());
        }
        Ok(())
    }

    /// What URL and password say now.
    fn target(&self) -> Result<Target, String> {
        let url = self.url.read()?;
        let (scheme, rest) = url.expose().split_once("://").unwrap_or_default();
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err("`url` must be redis://[user:password@]host[:port][/database], or rediss:// for TLS".to_owned()),
        };
        let info = format!("redis://{rest}").into_connection_info();
        // The library's words do not repeat the URL.
        let info = info.map_err(|error| format!("`url`: {error}"))?;
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err("`url` names no host".to_owned());
        };
        let mut login = info.redis_settings().clone();
        if let Some(password) = &self.password {
            if login.password().is_some() {
                return Err(
                    "`password_file` is set, but `url` has a password as well: leave one out"
                        .to_owned(),
                );
            }
            login = login.set_password(password.read()?.expose());
        }
        Ok(Target {
            host: host.clone(),
            port: *port,
            tls,
            login,
        })
    }

    fn target_and_tls(&self) -> Result<(Target, Option<TlsConnector>), String> {
        let target = self.target()?;
        let tls = if target.tls {
            let config = self.tls.client_config();
            let config = config.map_err(|error| error.to_string())?;
            Some(TlsConnector::from(Arc::new(config)))
        } else {
            None
        };
        Ok((target, tls))
    }

    /// Connects to the node that has the keys.
    async fn connect(self: &Arc<Self>) -> Result<Open, String> {
        let this = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || this.target_and_tls()).await;
        let (mut target, tls) = read.map_err(|error| error.to_string())??;
        for _ in 0..HOPS_MAX {
            let at = format!("redis at {}:{}", target.host, target.port);
            let open = Open::to(&target, tls.as_ref()).await;
            let mut open = open.map_err(|error| format!("{at}: {error}"))?;
            let mut question = redis::cmd("EXISTS");
            let asked = question.arg(&self.key).exec_async(&mut open.connection);
            let Err(error) = asked.await else {
                return Ok(open);
            };
            let Some((host, port)) = moved_to(&error) else {
                return Err(format!("{at}: {error}"));
            };
            // A node that does not know its own address leaves the host out.
            if !host.is_empty() {
                host.clone_into(&mut target.host);
            }
            target.port = port;
        }
        Err("the Redis cluster sends us from node to node".to_owned())
    }
}

/// Where a cluster sends us.
fn moved_to(error: &RedisError) -> Option<(&str, u16)> {
    let (address, _slot) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// An open connection. Dropping it ends it, also if the server hangs.
struct Open {
    connection: MultiplexedConnection,
    driver: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Open {
    async fn to(
        target: &Target,
        tls: Option<&TlsConnector>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let socket = TcpStream::connect((target.host.as_str(), target.port)).await?;
        socket.set_nodelay(true)?;
        match tls {
            None => Ok(Self::over(target, socket).await?),
            Some(tls) => {
                let name = ServerName::try_from(target.host.clone())?;
                Ok(Self::over(target, tls.connect(name, socket).await?).await?)
            }
        }
    }

    async fn over(
        target: &Target,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> RedisResult<Self> {
        // The deadlines are ours.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_write_backpressure_boundary(WRITE_BYTES);
        let nobody = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&nobody, stream, config).await?;
        let mut open = Self {
            connection,
            driver: tokio::spawn(driver).abort_handle(),
        };
        open.log_in(&target.login).await?;
        Ok(open)
    }

    /// The library would do it, but keep the server's words to itself.
    async fn log_in(&mut self, login: &RedisConnectionInfo) -> RedisResult<()> {
        if let Some(password) = login.password() {
            let mut auth = redis::cmd("AUTH");
            auth.arg(login.username()).arg(password);
            auth.exec_async(&mut self.connection).await?;
        }
        if login.db() != 0 {
            let mut select = redis::cmd("SELECT");
            select
                .arg(login.db())
                .exec_async(&mut self.connection)
                .await?;
        }
        Ok(())
    }
}

/// A connection that is there when it is needed.
pub(super) struct Link {
    server: Arc<Server>,
    deadline: Duration,
    open: Mutex<Option<Arc<Open>>>,
}

impl Link {
    /// Connects when it is first asked. `deadline`: for one question, connecting too.
    pub(super) fn new(server: Arc<Server>, deadline: Duration) -> Self {
        Self {
            server,
            deadline,
            open: Mutex::new(None),
        }
    }

    /// Asks over the connection, within the deadline. After an error the next one has a new connection. A question may be
    /// asked twice: Redis ends connections that were idle for long.
    ///
    /// # Errors
    /// The server's words, or what is wrong with the way to it.
    pub(super) async fn ask<T, F>(
        &self,
        question: impl Fn(MultiplexedConnection) -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut used = None;
        let answer = async {
            let (open, is_new) = self.open().await?;
            let answer = question(used.insert(open).connection.clone()).await;
            match answer {
                Err(error) if !is_new && error.is_connection_dropped() => {}
                answer => return answer.map_err(|error| format!("redis: {error}")),
            }
            if let Some(ended) = &used {
                self.close(ended);
            }
            let (open, _) = self.open().await?;
            let answer = question(used.insert(open).connection.clone()).await;
            answer.map_err(|error| format!("redis: {error}"))
        };
        let answer = tokio::time::timeout(self.deadline, answer).await;
        let answer =
            answer.unwrap_or_else(|_| Err(format!("redis: no answer within {:?}", self.deadline)));
        if let (Err(_), Some(used)) = (&answer, &used) {
            self.close(used);
        }
        answer
    }

    /// Asks several things at once.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) async fn ask_all<T: FromRedisValue>(
        &self,
        questions: &Pipeline,
    ) -> Result<T, String> {
        self.ask(|mut redis| async move { questions.query_async(&mut redis).await })
            .await
    }

    /// The connection, and whether it is a new one.
    async fn open(&self) -> Result<(Arc<Open>, bool), String> {
        let mut open = self.open.lock().await;
        if let Some(open) = &*open {
            return Ok((Arc::clone(open), false));
        }
        let new = Arc::new(self.server.connect().await?);
        *open = Some(Arc::clone(&new));
        Ok((new, true))
    }

    /// Ends this connection, if nobody has replaced it yet.
    fn close(&self, used: &Arc<Open>) {
        used.driver.abort();
        // Somebody who connects anew holds the lock: then it is gone already.
        if let Ok(mut open) = self.open.try_lock()
            && open.as_ref().is_some_and(|open| Arc::ptr_eq(open, used))
        {
            *open = None;
        }
    }
}
