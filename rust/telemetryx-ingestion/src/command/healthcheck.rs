//! `telemetryx healthcheck`: exit 0 if `/health` says 200; for containers and scripts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use super::complain;
use super::load::http::Connection;
use super::load::target::Target;
use super::tls::TlsOptions;
use crate::config::HttpConfig;

/// A health answer that takes longer than this is none.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// What TLS is asked for.
const ALPN: &[&str] = &["http/1.1"];
/// The answer's body is shown up to here.
const BODY_SHOWN_CHARS: usize = 300;

/// Ask a running service for its health.
///
/// Over TLS, the service of the config is believed whatever certificate it shows; one that --url or --ca-file is given for
/// is not. Where clients need certificates, so does this one.
#[derive(Debug, Clone, clap::Args)]
pub struct HealthcheckOptions {
    /// Where the service is, http:// or https:// [default: http.host, http.port and http.tls of the config].
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// TLS, where the URL asks for it.
    #[command(flatten)]
    pub tls: TlsOptions,
}

/// Asks once. `http` says where the service listens if no URL was given.
pub fn run(options: &HealthcheckOptions, http: &HttpConfig) -> ExitCode {
    match target(options, http).and_then(|target| check(&target)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(format_args!("not healthy: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn target(options: &HealthcheckOptions, http: &HttpConfig) -> Result<Target, String> {
    let HealthcheckOptions { url, tls } = options;
    if let Some(url) = url {
        return Target::parse(url, "/health", || tls.config(ALPN));
    }
    if http.tls.client_ca_file.is_some() && tls.cert_file.is_none() {
        let needed = "clients need a certificate (http.tls.client_ca_file): name one for this probe with --cert-file and --key-file";
        return Err(needed.to_owned());
    }
    Target::parse(&url_of(http), "/health", || tls.config_for_ourselves(ALPN))
}

/// Where a client on this machine reaches the listener.
fn url_of(http: &HttpConfig) -> String {
    let host = match http.host {
        IpAddr::V4(host) if host.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(host) if host.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        host => host,
    };
    let scheme = if http.tls.is_given() { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(host, http.port))
}

fn check(target: &Target) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let ask = async {
        let mut connection = Connection::open(target).await?;
        connection
            .get(&target.address, &target.path, "application/json")
            .await
    };
    let answer = runtime.block_on(async { tokio::time::timeout(WAIT_MAX, ask).await });
    match answer {
        Err(_) => Err(format!(
            "no answer from {} within {} s",
            target.address,
            WAIT_MAX.as_secs()
        )),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok((200, _))) => Ok(()),
        Ok(Ok((status, body))) => {
            let text: String = String::from_utf8_lossy(&body)
                .chars()
                .take(BODY_SHOWN_CHARS)
                .collect();
            let Target { address, path, .. } = target;
            Err(format!("{address}{path} answers {status} {}", text.trim()).replace('\n', " "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn server_answering(answer: &'static str) -> Target {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::plain(listener.local_addr().unwrap(), "/health");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET /health HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        target
    }

    #[test]
    fn healthy_is_200_and_nothing_else() {
        check(&server_answering(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        ))
        .unwrap();
        let sick =
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 18\r\n\r\n{\"status\":\"down\"}\n";
        let message = check(&server_answering(sick)).unwrap_err();
        assert!(
            message.ends_with(r#"answers 503 {"status":"down"}"#),
            "{message}"
        );
    }

    #[test]
    fn nobody_there_is_said_in_one_line() {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let message = check(&Target::plain(format!("127.0.0.1:{port}"), "/health")).unwrap_err();
        assert!(
            message.starts_with("cannot connect to 127.0.0.1:") && !message.contains('\n'),
            "{message}"
        );
    }

    #[test]
    fn listener_on_every_address_is_asked_on_loopback() {
        let config = |host: &str| HttpConfig {
            host: host.parse().unwrap(),
            port: 8080,
            ..HttpConfig::default()
        };
        assert_eq!(url_of(&config("0.0.0.0")), "http://127.0.0.1:8080");
        assert_eq!(url_of(&config("::")), "http://[::1]:8080");
        assert_eq!(url_of(&config("10.0.0.7")), "http://10.0.0.7:8080");
        let mut secured = config("0.0.0.0");
        secured.tls.cert_file = Some("server.pem".into());
        assert_eq!(url_of(&secured), "https://127.0.0.1:8080");
    }
}
