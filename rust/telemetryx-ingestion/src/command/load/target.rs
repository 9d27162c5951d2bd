//! Where requests go, and how to get there: with TLS or without.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::http::HttpError;

/// A connection's bytes, as they are or encrypted.
pub(super) type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Where requests go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `host:port`, to connect to and for the `Host` header.
    pub(crate) address: String,
    /// Path of the request, with its query.
    pub(crate) path: String,
    /// How TLS is spoken there; `None`: not at all.
    tls: Option<Tls>,
}

#[derive(Debug, Clone)]
struct Tls {
    config: Arc<ClientConfig>,
    /// Whom its certificate must name.
    name: ServerName<'static>,
}

impl Target {
    /// Without TLS.
    pub(crate) fn plain(address: impl ToString, path: &str) -> Self {
        Self {
            address: address.to_string(),
            path: path.to_owned(),
            tls: None,
        }
    }

    /// Reads `http[s]://host[:port][/path]`; without a path it is `path_default`. `tls` is asked how that is spoken, if it is.
    pub(crate) fn parse(
        url: &str,
        path_default: &str,
        tls: impl FnOnce() -> Result<Arc<ClientConfig>, String>,
    ) -> Result<Self, String> {
        let uri: http::Uri = url
            .parse()
            .map_err(|error| format!("`{url}` is not a URL: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("`{url}` names no host"));
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => {
                let name = host.clone()?.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(name.to_owned());
                let name = name.map_err(|error| format!("`{url}`: {error}"))?;
                let config = tls()?;
                (Some(Tls { config, name }), 443)
            }
            Some(other) => {
                return Err(format!(
                    "`{url}`: only http:// and https:// are spoken here, not {other}://"
                ));
            }
            None => {
                return Err(format!(
                    "`{url}` needs http:// in front, like http://127.0.0.1:8080"
                ));
            }
        };
        let path = match uri.path_and_query() {
            Some(path) if path.as_str() != "/" => path.as_str(),
            _ => path_default,
        };
        Ok(Self {
            address: format!("{}:{}", host?, uri.port_u16().unwrap_or(port)),
            path: path.to_owned(),
            tls,
        })
    }

    /// `http` or `https`.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Connects, from a certain address of ours if one is given, and shakes hands.
    pub(super) async fn connect(&self, from: Option<IpAddr>) -> Result<Wire, HttpError> {
        let connect = async {
            let socket = connect(&self.address, from).await?;
            let Some(Tls { config, name }) = &self.tls else {
                return Ok(Either::Left(socket));
            };
            let connector = TlsConnector::from(Arc::clone(config));
            let stream = connector.connect(name.clone(), socket).await?;
            Ok(Either::Right(Box::new(stream)))
        };
        connect.await.map_err(|source| HttpError::Connect {
            address: self.address.clone(),
            source,
        })
    }
}

async fn connect(address: &str, from: Option<IpAddr>) -> Result<TcpStream, std::io::Error> {
    let socket = match from {
        None => TcpStream::connect(address).await?,
        Some(from) => {
            let mut found = lookup_host(address).await?;
            let to = found.find(|to| to.is_ipv4() == from.is_ipv4());
            let to =
                to.ok_or_else(|| std::io::Error::other(format!("not to be reached from {from}")))?;
            let socket = if to.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            socket.bind((from, 0).into())?;
            socket.connect(to).await?
        }
    };
    socket.set_nodelay(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, path_default: &str) -> Result<Target, String> {
        Target::parse(url, path_default, || Err("no authority".to_owned()))
    }

    #[test]
    fn target_takes_port_and_path_from_the_url() {
        let target = parse("http://localhost:9000", "/ingest").unwrap();
        assert_eq!(
            (target.address.as_str(), target.path.as_str()),
            ("localhost:9000", "/ingest")
        );
        let target = parse("http://[::1]:9000/other?a=b", "/ingest").unwrap();
        assert_eq!(
            (target.address.as_str(), target.path.as_str()),
            ("[::1]:9000", "/other?a=b")
        );
        assert_eq!(parse("http://host/", "/ingest").unwrap().address, "host:80");
    }

    #[test]
    fn target_says_what_is_wrong_with_a_url() {
        for (url, said) in [
            ("https://host", "no authority"),
            ("https://", "is not a URL"),
            ("ftp://host", "only http:// and https://"),
            ("127.0.0.1:8080", "needs http://"),
            ("http://a b", "is not a URL"),
        ] {
            let message = parse(url, "/").unwrap_err();
            assert!(message.contains(said), "{url}: {message}");
        }
    }
}
