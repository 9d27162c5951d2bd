//! Where the brain is, and the connection to it, with TLS if the URL says `https`.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::Scheme;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::AsciiMetadataValue;

use crate::sinks::http2::{self, Tasks};
use crate::sinks::secret::SinkSecret;
use crate::sinks::tls::TlsFiles;

const MISSING: &str = "`url` or `url_file` is missing: `http://127.0.0.1:50061`, for example";
const WRONG: &str = "`url` must be http://host:port, or https://host:port for TLS";

/// Where the brain is, and how to come in.
pub(super) struct Address {
    origin: Uri,
    host: String,
    port: u16,
    tls: Option<TlsFiles>,
    token: Option<SinkSecret>,
    keepalive: Duration,
}

/// hyper's sender as tonic wants it.
pub(super) struct Sender(SendRequest<Body>);

type Answering = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

impl Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        Box::pin(self.0.send_request(request))
    }
}

impl Address {
    /// Reads all files; reaches nothing. A connection on which nothing came for `keepalive` is pinged.
    ///
    /// # Errors
    /// What is wrong, each mistake with its key.
    pub(super) fn new(
        url: &str,
        tls: Option<TlsFiles>,
        token: Option<SinkSecret>,
        keepalive: Duration,
    ) -> Result<Self, Vec<String>> {
        if url.is_empty() {
            return Err(vec![MISSING.to_owned()]);
        }
        let wrong = || vec![WRONG.to_owned()];
        let origin: Uri = url.parse().map_err(|_| wrong())?;
        let secure = match origin.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong()),
        };
        let authority = origin.authority().ok_or_else(wrong)?;
        let port = authority.port_u16().ok_or_else(wrong)?;
        let is_bare = matches!(origin.path(), "" | "/") && origin.query().is_none();
        if !is_bare || authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        if tls.is_some() && !secure {
            return Err(vec![
                "`tls` is set, but `url` does not say `https://`".to_owned(),
            ]);
        }
        let tls = secure.then(|| tls.unwrap_or_default());
        if let Some(files) = &tls {
            files
                .client_config()
                .map_err(|error| vec![error.to_string()])?;
        }
        let host = authority.host();
        let address = Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            tls,
            token,
            keepalive,
            origin: origin.clone(),
        };
        address.metadata().map_err(|error| vec![error])?;
        Ok(address)
    }

    /// For messages.
    pub(super) fn shown(&self) -> String {
        format!("the brain at {}:{}", self.host, self.port)
    }

    /// What the URI of a call begins with.
    pub(super) fn origin(&self) -> Uri {
        self.origin.clone()
    }

    /// The header `authorization`, if there is a token.
    ///
    /// # Errors
    /// The token's file cannot be read, or it is none that a header can carry.
    pub(super) fn metadata(&self) -> Result<Option<AsciiMetadataValue>, String> {
        let Some(token) = &self.token else {
            return Ok(None);
        };
        let token = token.read()?;
        let value = format!("Bearer {}", token.expose()).parse();
        let mut value: AsciiMetadataValue =
            value.map_err(|_| "`token` has characters that no header can carry".to_owned())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Connects. Certificates are read again, so that new ones need no restart.
    ///
    /// # Errors
    /// The system's words.
    pub(super) async fn connect(&self) -> Result<(Sender, Tasks), String> {
        let config = match self.tls.clone() {
            None => None,
            Some(files) => {
                let config = tokio::task::spawn_blocking(move || files.client_config()).await;
                let config = config.map_err(|error| error.to_string())?;
                Some(config.map_err(|error| error.to_string())?)
            }
        };
        let open = http2::connect(&self.host, self.port, config, Some(self.keepalive)).await?;
        Ok((Sender(open.sender), open.tasks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn refused(url: &str, tls: Option<TlsFiles>) -> String {
        let refused = Address::new(url, tls, None, HOUR).err().unwrap();
        refused.join("; ")
    }

    #[test]
    fn urls_that_are_none_are_refused_and_say_what_is_right() {
        for url in [
            "127.0.0.1:50061",
            "http://127.0.0.1",
            "ftp://127.0.0.1:1",
            "http://me:pw@127.0.0.1:1",
            "http://127.0.0.1:1/path",
            "http://127.0.0.1:1?x=1",
            "http://:1",
            "http://127.0.0.1:99999",
            "not a url",
        ] {
            assert_eq!(refused(url, None), WRONG, "{url}");
        }
        assert_eq!(refused("", None), MISSING);
        let tls = Some(TlsFiles::default());
        assert!(refused("http://127.0.0.1:1", tls).contains("`https://`"));
    }

    #[test]
    fn an_address_of_ip_version_6_is_without_brackets() {
        let address = Address::new("http://[::1]:50061", None, None, HOUR);
        let address = address.ok().unwrap();
        assert_eq!((address.host.as_str(), address.port), ("::1", 50061));
        assert_eq!(address.shown(), "the brain at ::1:50061");
    }

    #[test]
    fn a_token_is_a_header_that_is_not_shown() {
        let token = SinkSecret::of("token", Some("s3cret".parse().unwrap()), None);
        let address = Address::new("http://h:1", None, token.unwrap(), HOUR);
        let address = address.ok().unwrap();
        let value = address.metadata().unwrap().unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer s3cret");
        assert!(!format!("{value:?}").contains("s3cret"));
    }
}
