//! The files of certificates: taken over when they change, however they are changed; kept out if they are broken.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/secured.rs"]
mod secured;

use std::fs;

use certificates::{Authority, Pair};
use secured::{Clients, Secured, World, ask_frame, text};
use support::{SOON, event, service};
use telemetryx_testkit::eventually;

/// Makes the next certificate what the service reads, in the way of the test.
fn assert_taken_over(service: &Secured<'_>, mut replace: impl FnMut(&Pair)) {
    for round in 0..2 {
        let next = service.world.servers.issue(&format!("next-{round}"));
        let mut open = service.connect_tcp(None).unwrap();
        let before = service.shown();
        replace(&next);
        eventually(SOON, "the new certificate is shown", || {
            service.shown() != before
        });
        // Connections that are open go on as they are.
        assert_eq!(ask_frame(&mut open, event("open")).unwrap()["status"], 202);
        service.assert_serves(None, "new");
        assert_eq!(
            service.get("/status")["certificates"]["http.tls"]["state"],
            "in_use"
        );
    }
    let log = service.log();
    assert_eq!(
        log.matches("the new certificates are in use").count(),
        2,
        "{log}"
    );
    assert!(!log.contains("cannot be used"), "{log}");
}

#[test]
fn certificates_that_are_written_over_are_taken_over() {
    let world = World::new();
    let service = world.start(Clients::Anyone, "");
    assert_taken_over(&service, |next| {
        fs::copy(&next.cert, &world.server.cert).unwrap();
        fs::copy(&next.key, &world.server.key).unwrap();
    });
}

#[test]
fn certificates_that_are_renamed_into_place_are_taken_over() {
    let world = World::new();
    let service = world.start(Clients::Anyone, "");
    assert_taken_over(&service, |next| {
        fs::rename(&next.key, &world.server.key).unwrap();
        fs::rename(&next.cert, &world.server.cert).unwrap();
    });
}

#[test]
fn certificates_behind_a_swapped_link_are_taken_over() {
    // As Kubernetes mounts a secret: `tls.crt` → `..data/tls.crt`, `..data` → a directory of each version's own.
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    let data = dir.join("..data");
    let mut versions = 0;
    let mut publish = move |pair: &Pair| {
        versions += 1;
        let version = dir.join(format!("..version-{versions}"));
        fs::create_dir(&version).unwrap();
        fs::copy(&pair.cert, version.join("tls.crt")).unwrap();
        fs::copy(&pair.key, version.join("tls.key")).unwrap();
        let link = dir.join("..data_tmp");
        std::os::unix::fs::symlink(&version, &link).unwrap();
        fs::rename(&link, dir.join("..data")).unwrap();
    };
    publish(&world.server);
    for (file, name) in [
        (&mut world.server.cert, "tls.crt"),
        (&mut world.server.key, "tls.key"),
    ] {
        *file = world.dir.path().join(name);
        std::os::unix::fs::symlink(data.join(name), &file).unwrap();
    }
    let service = world.start(Clients::Anyone, "");
    assert_taken_over(&service, publish);
}

#[test]
fn new_clients_authority_is_taken_over_and_the_old_one_is_good_no_more() {
    let world = World::new();
    let service = world.start(Clients::Certified, "");
    let old = world.clients.issue("old");
    service.assert_serves(Some(&old), "old");
    let others = Authority::new(world.dir.path(), "others");
    let new = others.issue("new");
    fs::rename(&others.file, &world.clients.file).unwrap();
    eventually(SOON, "the new authority's clients may come in", || {
        service.ask(Some(&new), "GET", "/healthz", "").is_ok()
    });
    service.assert_serves(Some(&new), "new");
    let told = service.ask(Some(&old), "GET", "/healthz", "").unwrap_err();
    assert!(told.to_string().contains("UnknownCA"), "{told}");
}

#[test]
fn broken_new_certificates_leave_the_old_ones_in_use_and_are_told() {
    let world = World::new();
    let service = world.start(Clients::Anyone, "");
    let before = service.shown();
    let good = (
        fs::read(&world.server.cert).unwrap(),
        fs::read(&world.server.key).unwrap(),
    );
    let other = world.servers.issue("other");
    let told = |words: &str| {
        eventually(SOON, words, || {
            let state = &service.get("/status")["certificates"]["http.tls"];
            state["state"] == "stale" && state["error"].as_str().unwrap().contains(words)
        });
        assert!(service.log().contains(words), "{}", service.log());
        assert_eq!(service.shown(), before);
        service.assert_serves(None, "still");
    };
    fs::write(&world.server.cert, "nonsense").unwrap();
    told("server.pem` holds no certificate");
    fs::write(&world.server.cert, &good.0).unwrap();
    fs::copy(&other.key, &world.server.key).unwrap();
    told("server.key` is not the key of the certificate");
    fs::write(&world.server.key, &good.1[..60]).unwrap();
    told("server.key` holds no private key");
    fs::remove_file(&world.server.key).unwrap();
    told("server.key` cannot be read");
    let log = service.log();
    assert_eq!(
        log.matches("cannot be used; the old ones stay").count(),
        4,
        "once each: {log}"
    );
    assert!(!log.contains("BEGIN PRIVATE"), "{log}");
    // And from there to good ones.
    fs::copy(&other.key, &world.server.key).unwrap();
    fs::copy(&other.cert, &world.server.cert).unwrap();
    eventually(SOON, "the good ones are shown", || {
        service.shown() != before
    });
    assert_eq!(
        service.get("/status")["certificates"]["http.tls"]["state"],
        "in_use"
    );
}

#[test]
fn service_with_certificates_that_cannot_be_used_does_not_start_and_says_why() {
    let world = World::new();
    let dir = world.dir.path();
    let other = world.servers.issue("other");
    let empty = dir.join("empty");
    fs::write(&empty, "").unwrap();
    let [cert, key, empty, other] =
        [&world.server.cert, &world.server.key, &empty, &other.key].map(|file| text(file));
    for (section, said) in [
        (
            format!("http: {{ tls: {{ cert_file: {cert} }} }}"),
            "http.tls.key_file: is missing",
        ),
        (
            format!("http: {{ tls: {{ client_ca_file: {cert} }} }}"),
            "http.tls.cert_file: is missing",
        ),
        (
            format!("http: {{ tls: {{ cert_file: {empty}, key_file: {key} }} }}"),
            "http.tls.cert_file: `FILE` holds no certificate",
        ),
        (
            format!("http: {{ tls: {{ cert_file: {cert}, key_file: {other} }} }}"),
            "http.tls.key_file: `FILE` is not the key of the certificate in `FILE`",
        ),
        (
            format!("tcp: {{ port: 0, tls: {{ cert_file: /nowhere, key_file: {key} }} }}"),
            "tcp.tls.cert_file: `FILE` cannot be read: entity not found",
        ),
        (
            format!(
                "http: {{ tls: {{ cert_file: {cert}, key_file: {key}, client_ca_file: {empty} }} }}"
            ),
            "http.tls.client_ca_file: `FILE` holds no certificate",
        ),
    ] {
        let without_files = |said: &str| {
            let parts = said.split('`').enumerate();
            let parts: Vec<_> = parts
                .map(|(n, part)| {
                    if n % 2 == 1 && part.starts_with('/') {
                        "FILE"
                    } else {
                        part
                    }
                })
                .collect();
            parts.join("`")
        };
        let checked = service().config(&section).run(&["check"]);
        assert_eq!(checked.code, Some(2), "{section}");
        assert!(
            without_files(&checked.stderr).contains(said),
            "{}",
            checked.stderr
        );
        let error = service()
            .config(&section)
            .speaks_tls()
            .try_start()
            .unwrap_err();
        assert_eq!(
            error.status.and_then(|status| status.code()),
            Some(2),
            "{section}"
        );
        assert!(without_files(&error.log).contains(said), "{}", error.log);
    }
}
