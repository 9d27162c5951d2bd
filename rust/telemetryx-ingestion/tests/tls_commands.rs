//! The commands that are clients, `healthcheck` and `load`, against a service that speaks TLS on every port.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/secured.rs"]
mod secured;

use std::io::Read;
use std::net::TcpStream;

use certificates::Pair;
use secured::{Clients, Secured, World, ask_over, text};
use serde_json::Value;
use support::service;

/// Every listener, as `load` names it.
fn urls(service: &Secured<'_>) -> [String; 4] {
    [
        format!("https://{}", service.address()),
        format!("tls://{}", service.tcp),
        format!("https://{}/v1/logs", service.otlp_http_address()),
        format!("grpcs://{}", service.otlp_grpc_address()),
    ]
}

/// The options that show this certificate.
fn shows(pair: &Pair) -> [&str; 4] {
    [
        "--cert-file",
        text(&pair.cert),
        "--key-file",
        text(&pair.key),
    ]
}

/// Sends 100 events; how many were accepted, or what is complained of.
fn load(service: &Secured<'_>, url: &str, options: &[&str]) -> Result<Value, String> {
    let size = "--rate 0 --batch 5 --requests 20 --connections 2 --json";
    let arguments = [&["load", "--url", url], options].concat();
    let arguments: Vec<_> = arguments.into_iter().chain(size.split(' ')).collect();
    let exit = service.run(&arguments);
    match exit.code {
        Some(0) => Ok(serde_json::from_str::<Value>(&exit.stdout).unwrap()["accepted"].clone()),
        _ => Err(exit.stdout + &exit.stderr),
    }
}

/// Exit code and complaint of `healthcheck`.
fn probe(service: &Secured<'_>, options: &[&str]) -> (Option<i32>, String) {
    let exit = service.run(&[&["healthcheck"], options].concat());
    (exit.code, exit.stderr)
}

#[test]
fn probes_and_loads_trust_the_authority_they_are_told_and_no_other() {
    let world = World::new();
    let service = world.start_built(Clients::Anyone, service().otlp());
    let (right, wrong) = (text(&world.servers.file), text(&world.clients.file));
    for url in urls(&service) {
        assert_eq!(
            load(&service, &url, &["--ca-file", right]),
            Ok(100.into()),
            "{url}"
        );
        let said = load(&service, &url, &["--ca-file", wrong]).unwrap_err();
        assert!(said.contains("UnknownIssuer"), "{url}: {said}");
        let said = load(&service, &url, &[]).unwrap_err();
        assert!(said.contains("needs --ca-file"), "{url}: {said}");
    }
    assert_eq!(service.get("/ledger")["accepted"], 400);

    // The service of the config is probed without another word.
    assert_eq!(probe(&service, &[]), (Some(0), String::new()));
    let url = format!("https://{}", service.address());
    for (options, said) in [
        (&["--ca-file", right][..], ""),
        (&["--url", &url, "--ca-file", right], ""),
        (&["--url", &url], "needs --ca-file"),
        (&["--url", &url, "--ca-file", wrong], "UnknownIssuer"),
        (&["--ca-file", wrong], "UnknownIssuer"),
        (&["--ca-file", "/nowhere"], "`/nowhere` cannot be read"),
        (&["--url", &service.url()], "tls_required"),
    ] {
        let (code, complaint) = probe(&service, options);
        let expected = if said.is_empty() { 0 } else { 1 };
        assert_eq!(code, Some(expected), "{options:?}: {complaint}");
        assert!(complaint.contains(said), "{options:?}: {complaint}");
    }
}

#[test]
fn probes_and_loads_show_a_certificate_where_clients_need_one() {
    let world = World::new();
    let service = world.start_built(Clients::Certified, service().otlp());
    let authority = ["--ca-file", text(&world.servers.file)];
    let (client, stranger) = (
        world.clients.issue("client"),
        world.servers.issue("stranger"),
    );
    for url in urls(&service) {
        let with = |pair| [&authority[..], &shows(pair)].concat();
        assert_eq!(
            load(&service, &url, &with(&client)),
            Ok(100.into()),
            "{url}"
        );
        for options in [with(&stranger), authority.to_vec()] {
            assert!(load(&service, &url, &options).is_err(), "{url} {options:?}");
        }
    }
    assert_eq!(probe(&service, &shows(&client)), (Some(0), String::new()));
    let (code, said) = probe(&service, &[]);
    assert!(code == Some(1) && said.contains("--cert-file"), "{said}");
    assert_eq!(probe(&service, &shows(&stranger)).0, Some(1));
    let (code, said) = probe(&service, &["--cert-file", text(&client.cert)]);
    assert!(code == Some(2) && said.contains("--key-file"), "{said}");
}

#[test]
fn otlp_ports_speak_tls_when_http_does() {
    let world = World::new();
    let service = world.start_built(Clients::Anyone, service().otlp());
    let (http, grpc) = (service.otlp_http_address(), service.otlp_grpc_address());
    for (address, offered, agreed) in [
        (&http, &["h2", "http/1.1"][..], "h2"),
        (&http, &["http/1.1"], "http/1.1"),
        (&grpc, &["h2"], "h2"),
    ] {
        let stream = world.servers.connect(address, offered, None).unwrap();
        assert_eq!(
            stream.conn.alpn_protocol(),
            Some(agreed.as_bytes()),
            "{address}"
        );
    }
    // And nothing else.
    let told = ask_over(TcpStream::connect(http).unwrap(), "POST", "/v1/logs", "{}");
    let (status, body) = told.unwrap();
    assert!(
        status == 400 && body.contains("tls_required"),
        "{status} {body}"
    );
    let mut plain = TcpStream::connect(grpc).unwrap();
    std::io::Write::write_all(&mut plain, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut told = Vec::new();
    plain.read_to_end(&mut told).ok();
    assert!(!told.starts_with(&[0, 0]), "no frame of HTTP/2: {told:?}");
}
