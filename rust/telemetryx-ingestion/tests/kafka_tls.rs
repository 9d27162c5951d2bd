//! The journal and the sink `kafka` over TLS and with passwords, with a real Apache Kafka: what is right works from door to
//! sink; who cannot prove to be a broker, or is not taken for one who may, gets nothing, and is told in words.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/certificates.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod certificates;
mod support;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use certificates::{Authority, Pair};
use support::service;
use telemetryx_testkit::{Kafka, Service, ServiceBuilder, eventually};
use tempfile::TempDir;

/// How long something that should come soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct-horse";
const WRONG: &str = "battery-staple";

/// A broker with a listener for each case, and the certificates.
struct World {
    kafka: Kafka,
    folder: TempDir,
    authority: Authority,
    stranger: Authority,
    client: Pair,
}

impl World {
    /// One for all tests that run at the same time.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let world = Arc::new(Self::new());
            *shared = Arc::downgrade(&world);
            world
        })
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let stranger = Authority::new(folder.path(), "stranger");
        let client = authority.issue("client");
        let server = authority.issue("server");
        let expired = authority.issue_until("expired", 2020);
        let elsewhere = authority.issue_for("elsewhere", &["kafka.example"]);
        let plain = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_plain=\"{PASSWORD}\";"
        );
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let listeners = [
            ("TLS", "SSL", &server),
            ("MUTUAL", "SSL", &server),
            ("LOGIN", "SASL_SSL", &server),
            ("EXPIRED", "SSL", &expired),
            ("ELSEWHERE", "SSL", &elsewhere),
        ];
        let mut builder = Kafka::builder()
            .patient()
            .scram_user("scram", PASSWORD)
            .listener("BARE", "SASL_PLAINTEXT");
        for (name, protocol, pair) in listeners {
            let prefix = format!("listener.name.{}", name.to_lowercase());
            let store = folder.path().join(format!("{name}.store"));
            let parts = [&pair.key, &pair.cert].map(|file| std::fs::read_to_string(file).unwrap());
            std::fs::write(&store, parts.concat()).unwrap();
            let authority = authority.file.display();
            builder = builder
                .listener(name, protocol)
                .property(&format!("{prefix}.ssl.keystore.type=PEM"))
                .property(&format!(
                    "{prefix}.ssl.keystore.location={}",
                    store.display()
                ))
                .property(&format!("{prefix}.ssl.truststore.type=PEM"))
                .property(&format!("{prefix}.ssl.truststore.location={authority}"));
        }
        for name in ["login", "bare"] {
            let prefix = format!("listener.name.{name}");
            builder = builder
                .property(&format!(
                    "{prefix}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
                ))
                .property(&format!("{prefix}.plain.sasl.jaas.config={plain}"))
                .property(&format!("{prefix}.scram-sha-256.sasl.jaas.config={scram}"))
                .property(&format!("{prefix}.scram-sha-512.sasl.jaas.config={scram}"));
        }
        let kafka = builder
            .property("listener.name.mutual.ssl.client.auth=required")
            .start();
        Self {
            kafka,
            folder,
            authority,
            stranger,
            client,
        }
    }

    /// A file with this text.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn trusting(&self) -> String {
        format!("tls: {{ ca_file: {:?} }}", self.authority.file)
    }

    fn mutual(&self) -> String {
        let Pair { cert, key } = &self.client;
        format!(
            "tls: {{ ca_file: {:?}, cert_file: {cert:?}, key_file: {key:?} }}",
            self.authority.file
        )
    }

    fn login(&self, mechanism: &str, user: &str, password: &Path) -> String {
        format!(
            "{}, options: {{ sasl.mechanism: {mechanism}, sasl.username: {user}, sasl.password_file: {password:?} }}",
            self.trusting()
        )
    }

    /// A service with its journal in a topic, from which a route sends all to another topic, by this listener; `keys` are
    /// those of both.
    fn config(&self, listener: &str, topic: &str, keys: &str) -> String {
        let brokers = self.kafka.listener(listener);
        let keys = match keys {
            "" => String::new(),
            keys => format!(", {keys}"),
        };
        format!(
            "journal: {{ engine: kafka, kafka: {{ brokers: '{brokers}', topic: {topic}, group_prefix: {topic}, partitions: 2,
               delivery_timeout: 3s{keys} }} }}
routes: [ {{ name: out, sink: {{ kind: kafka, brokers: '{brokers}', topic: {topic}.out, timeout: 2s{keys} }},
            retry: {{ initial: 50ms, max: 500ms }}, breaker: {{ failures: 1000000 }} }} ]
query: {{ counters_from: , events_from: }}"
        )
    }

    /// What is taken in comes out at the other end.
    #[track_caller]
    fn assert_carried(&self, service: &Service, topic: &str, name: &str) {
        eventually(SOON, "Kafka is there", || {
            service.get("/health").status == 200
        });
        let sent: Vec<_> = (0..20).map(|n| format!("{name}-{n}")).collect();
        let answer = service.post_json("/ingest", support::events(&sent));
        let answer = answer.expect_status(202).json();
        assert_eq!(answer["durability"], "replicated");
        eventually(SOON, "the route has delivered all", || {
            let route = &service.get("/ledger").json()["routes"]["out"];
            route["pending"] == 0 && route["difference"] == 0
        });
        let messages = self.kafka.messages(&format!("{topic}.out"));
        for id in sent {
            let found = messages.iter().filter(|one| one.header("id") == id);
            assert_eq!(found.count(), 1, "{id}");
        }
    }
}

/// It accepts nothing, and says why wherever it is asked; no secret is shown.
#[track_caller]
fn assert_refused(service: &Service, words: &[&str]) {
    let mut last = String::new();
    eventually(SOON, "the journal says why", || {
        let health = service.get("/health");
        health.text().clone_into(&mut last);
        health.status == 503 && words.iter().all(|words| last.contains(words))
    });
    let answer = service.post_json("/ingest", support::event("refused"));
    assert_eq!(answer.status, 503, "{}", answer.text());
    support::retry_after(&answer);
    eventually(SOON, "the log says it", || {
        words.iter().all(|words| service.log().contains(words))
    });
    for secret in [PASSWORD, WRONG, "PRIVATE KEY"] {
        assert!(!service.log().contains(secret), "{secret} is in the log");
        assert!(!last.contains(secret), "{secret} is in {last}");
    }
}

/// The sink alone: its journal is on the disk.
fn sink_only(world: &World, listener: &str, keys: &str) -> ServiceBuilder {
    service().config(&format!(
        "routes: [ {{ name: out, sink: {{ kind: kafka, brokers: '{}', topic: sunk, timeout: 2s, {keys} }},
            retry: {{ initial: 50ms, max: 500ms }}, breaker: {{ failures: 1000000 }} }} ]
query: {{ counters_from: , events_from: }}",
        world.kafka.listener(listener)
    ))
}

#[track_caller]
fn assert_sink_down(service: &Service, words: &str) {
    service
        .post_json("/ingest", support::event("waits"))
        .expect_status(202);
    eventually(SOON, words, || {
        let shown = service.get("/status").json()["routes"]["out"].to_string();
        shown.contains(words) && service.get("/health").json()["status"] == "degraded"
    });
    let books = support::assert_books_balance(service);
    assert_eq!(books["routes"]["out"]["delivered"], 0);
}

#[test]
fn events_come_through_tls_with_certificates_and_passwords() {
    let world = World::shared();
    let password = world.file("password", &format!("{PASSWORD}\n"));
    let cases = [
        ("TLS", "authority", world.trusting()),
        ("MUTUAL", "mutual", world.mutual()),
        ("LOGIN", "plain", world.login("PLAIN", "plain", &password)),
        (
            "LOGIN",
            "scram-256",
            world.login("SCRAM-SHA-256", "scram", &password),
        ),
        (
            "LOGIN",
            "scram-512",
            world.login("SCRAM-SHA-512", "scram", &password),
        ),
        // As librdkafka's own options say it.
        (
            "MUTUAL",
            "options",
            format!(
                "options: {{ security.protocol: SSL, ssl.ca.location: {:?}, ssl.certificate.location: {:?}, \
                 ssl.key.location: {:?} }}",
                world.authority.file, world.client.cert, world.client.key
            ),
        ),
        // A SCRAM password is not told to whoever listens.
        (
            "BARE",
            "bare",
            format!(
                "options: {{ security.protocol: sasl_plaintext, sasl.mechanism: SCRAM-SHA-512, sasl.username: scram, \
                 sasl.password_file: {password:?} }}"
            ),
        ),
    ];
    for (listener, topic, keys) in cases {
        let service = support::start(&world.config(listener, topic, &keys));
        world.assert_carried(&service, topic, topic);
    }
}

#[test]
fn without_a_file_the_authorities_of_the_system_are_trusted() {
    let world = World::shared();
    let config = world.config("TLS", "system", "tls: {}");
    // The machine's own store, as this variable puts one in its place.
    let file = |authority: &Authority| authority.file.to_str().unwrap().to_owned();
    let of = |authority| {
        service()
            .config(&config)
            .env("SSL_CERT_FILE", &file(authority))
    };
    let service = of(&world.authority).start();
    world.assert_carried(&service, "system", "trusted");
    drop(service);
    let service = of(&world.stranger).start();
    assert_refused(&service, &["certificate verify failed"]);
}

#[test]
fn a_broker_that_cannot_prove_to_be_one_gets_nothing() {
    let world = World::shared();
    let stranger = format!("tls: {{ ca_file: {:?} }}", world.stranger.file);
    for (listener, topic, keys) in [
        ("TLS", "untrusted", stranger),
        ("EXPIRED", "expired", world.trusting()),
        ("ELSEWHERE", "elsewhere", world.trusting()),
    ] {
        let service = support::start(&world.config(listener, topic, &keys));
        assert_refused(&service, &["certificate verify failed"]);
        drop(service);
        let service = sink_only(&world, listener, &keys).start();
        assert_sink_down(&service, "certificate verify failed");
    }
}

#[test]
fn who_shows_no_certificate_or_a_wrong_password_is_told_so_and_needs_no_restart_to_do_better() {
    let world = World::shared();
    let service = support::start(&world.config("MUTUAL", "nobody", &world.trusting()));
    assert_refused(&service, &["SSL"]);
    drop(service);
    let service = sink_only(&world, "MUTUAL", &world.trusting()).start();
    assert_sink_down(&service, "SSL");
    drop(service);

    // Without TLS to a port that wants it. Kafka hangs up, and librdkafka has several words for that.
    let service = support::start(&world.config("TLS", "naked", ""));
    assert_refused(&service, &[]);
    drop(service);

    let password = world.file("changing", WRONG);
    for (mechanism, user) in [("PLAIN", "plain"), ("SCRAM-SHA-256", "scram")] {
        std::fs::write(&password, WRONG).unwrap();
        let topic = format!("changing-{user}");
        let keys = world.login(mechanism, user, &password);
        let service = support::start(&world.config("LOGIN", &topic, &keys));
        assert_refused(&service, &["uthentication failed"]);
        std::fs::write(&password, PASSWORD).unwrap();
        eventually(SOON, "the new password is used", || {
            service.get("/health").status == 200
        });
        world.assert_carried(&service, &topic, "allowed");
        assert!(!service.log().contains(PASSWORD));
    }
}

#[test]
fn a_certificate_that_is_put_in_place_of_an_expired_one_is_used() {
    let world = World::shared();
    let old = world.authority.issue_until("renewed", 2020);
    let Pair { cert, key } = &old;
    let keys = format!(
        "tls: {{ ca_file: {:?}, cert_file: {cert:?}, key_file: {key:?} }}",
        world.authority.file
    );
    let service = support::start(&world.config("MUTUAL", "renewed", &keys));
    assert_refused(&service, &["SSL"]);
    // The same files.
    world.authority.issue("renewed");
    eventually(SOON, "the new certificate is used", || {
        service.get("/health").status == 200
    });
    world.assert_carried(&service, "renewed", "renewed");
}

#[test]
fn check_names_what_is_wrong_with_tls_and_passwords_and_shows_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    let pair = authority.issue("client");
    let (ca, cert, key) = (&authority.file, &pair.cert, &pair.key);
    let secret = folder.path().join("secret");
    std::fs::write(&secret, PASSWORD).unwrap();
    let check = |keys: &str| {
        let journal = format!(
            "journal: {{ engine: kafka, kafka: {{ brokers: a, {keys} }} }}\nquery: {{ counters_from: , events_from: }}\n"
        );
        let route = |journal: &str| {
            format!(
                "{journal}routes: [ {{ name: out, sink: {{ kind: kafka, brokers: a, topic: t, {keys} }} }} ]"
            )
        };
        let alone = "query: { counters_from: , events_from: }\n";
        [format!("{journal}routes: []"), route(alone)]
            .map(|config| service().config(&config).run(&["check"]))
    };
    for keys in [
        "tls: {}".to_owned(),
        format!("tls: {{ ca_file: {ca:?}, cert_file: {cert:?}, key_file: {key:?} }}"),
        format!(
            "options: {{ security.protocol: SASL_SSL, sasl.mechanism: scram-sha-512, sasl.username: me,
               sasl.password: {WRONG}, ssl.ca.location: {ca:?} }}"
        ),
        format!("tls: {{}}, options: {{ sasl.mechanism: PLAIN, sasl.username: me, sasl.password_file: {secret:?} }}"),
        "tls: {}, options: { enable.ssl.certificate.verification: true }".to_owned(),
    ] {
        for right in check(&keys) {
            assert_eq!(right.code, Some(0), "{keys}: {right:?}");
            for secret in [WRONG, PASSWORD] {
                assert!(!right.stdout.contains(secret), "{right:?}");
            }
        }
    }
    for (keys, words) in [
        (
            "tls: { ca_file: /no/such }".to_owned(),
            "`/no/such` cannot be read",
        ),
        (
            format!("tls: {{ ca_file: {key:?} }}"),
            "holds no certificate",
        ),
        (format!("tls: {{ cert_file: {cert:?} }}"), "together"),
        (
            format!("tls: {{ cert_file: {cert:?}, key_file: {cert:?} }}"),
            "holds no private key",
        ),
        (
            format!("tls: {{ ca_file: {ca:?} }}, options: {{ ssl.ca.location: {ca:?} }}"),
            "`tls.ca_file` is the same",
        ),
        (
            "tls: {}, options: { security.protocol: sasl_plaintext, sasl.mechanism: PLAIN }"
                .to_owned(),
            "is without TLS",
        ),
        (
            format!("options: {{ ssl.ca.location: {ca:?} }}"),
            "must be `ssl` or `sasl_ssl`",
        ),
        (
            "tls: {}, options: { enable.ssl.certificate.verification: false }".to_owned(),
            "can only be `true`",
        ),
        (
            "tls: {}, options: { ssl.endpoint.identification.algorithm: none }".to_owned(),
            "can only be `https`",
        ),
        (
            "tls: {}, options: { ssl.key.pem: x }".to_owned(),
            "`tls.key_file`",
        ),
        (
            "options: { security.protocol: sasl_ssl }".to_owned(),
            "`options.sasl.mechanism`",
        ),
        (
            "options: { sasl.mechanism: PLAIN }".to_owned(),
            "must be `sasl_ssl` or `sasl_plaintext`",
        ),
        (
            format!("options: {{ sasl.password: {WRONG} }}"),
            "must be `sasl_ssl` or `sasl_plaintext`",
        ),
        (
            "tls: {}, options: { sasl.mechanism: GSSAPI }".to_owned(),
            "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512",
        ),
        (
            "tls: {}, options: { sasl.oauthbearer.config: x }".to_owned(),
            "`options.sasl.oauthbearer.config`",
        ),
        (
            "options: { security.protocol: https }".to_owned(),
            "`options.security.protocol`",
        ),
        (
            format!(
                "tls: {{}}, options: {{ sasl.mechanism: PLAIN, sasl.password: {WRONG}, sasl.password_file: {secret:?} }}"
            ),
            "both set",
        ),
        ("tls: { verify: false }".to_owned(), "verify"),
    ] {
        for wrong in check(&keys) {
            assert_eq!(wrong.code, Some(2), "{keys}: {wrong:?}");
            // The journal's keys are said in front, with their section.
            let shown = wrong.stderr.replace("journal.kafka.", "").replace('`', "");
            assert!(
                shown.contains(&words.replace('`', "")),
                "{words} in {wrong:?}"
            );
            for secret in [WRONG, PASSWORD] {
                assert!(!wrong.stderr.contains(secret), "{wrong:?}");
            }
        }
    }
}
