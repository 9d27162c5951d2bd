//! The config as a user meets it: files, variables, mistakes, the reference page.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use telemetryx_ingestion::config::{
    Attempts, ByteSize, Config, ConfigErrors, Duration, Fsync, Language, OverflowPolicy,
    RateLimitPer, RequiredField, Role, reference,
};

type Variables<'a> = &'a [(&'a str, &'a str)];

fn load_file(path: Option<&Path>, env: Variables<'_>) -> Result<Config, ConfigErrors> {
    Config::load(
        path,
        env.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

/// Loads a text under that file name; in messages the directory is left away.
fn load(name: &str, text: &str, env: Variables<'_>) -> Result<Config, String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join(name);
    fs::write(&file, text).expect("a file in it");
    let without_dir = |errors: ConfigErrors| {
        errors
            .to_string()
            .replace(&format!("{}/", dir.path().display()), "")
    };
    load_file(Some(&file), env).map_err(without_dir)
}

fn yaml(text: &str) -> Result<Config, String> {
    load("c.yaml", text, &[])
}

fn toml(text: &str) -> Result<Config, String> {
    load("c.toml", text, &[])
}

fn env(env: Variables<'_>) -> Result<Config, String> {
    load_file(None, env).map_err(|errors| errors.to_string())
}

fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn without_a_file_the_defaults_are_those_of_the_contract() {
    let config = env(&[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.data_dir, Path::new("./data"));
    assert_eq!(
        (config.http.host.to_string().as_str(), config.http.port),
        ("127.0.0.1", 8080)
    );
    assert_eq!(config.http.max_body, ByteSize::mib(5));
    assert_eq!(config.admission.memory_budget, ByteSize::mib(256));
    assert_eq!(config.admission.overflow.policy, OverflowPolicy::Reject);
    assert_eq!(
        config.admission.overflow.max_backlog_bytes,
        ByteSize::gib(8)
    );
    assert!(!config.admission.rate_limit.enabled);
    assert_eq!(config.journal.embedded.fsync, Fsync::Always);
    let routes: Vec<_> = config
        .routes
        .iter()
        .map(|route| (route.name.as_str(), route.sink.kind.as_str()))
        .collect();
    assert_eq!(routes, [("stats", "stats"), ("store", "sqlite")]);
    assert_eq!(config.query.events_from.unwrap(), "store");
    assert_eq!(config.query.counters_from.unwrap(), "stats");
    assert_eq!(config.routes[1].retry.attempts, Attempts::Unlimited);
}

#[test]
fn an_empty_file_says_that_everything_is_as_built_in() {
    for text in ["", "# only a comment\n", "---\n", "{}"] {
        assert_eq!(yaml(text).unwrap(), Config::default(), "{text:?}");
    }
    assert_eq!(toml("").unwrap(), Config::default());
}

#[test]
fn keys_without_a_value_are_not_set() {
    let config = yaml(
        "http:\njournal: { embedded: { retain: { bytes: , age: } } }\nadmin: { token: , token_file: }\n\
         admission: { overflow: { max_backlog_events: , max_backlog_bytes: } }\nquery: { events_from: }\n",
    );
    assert_eq!(config.unwrap(), Config::default());
}

#[test]
fn the_file_is_laid_over_the_defaults_and_the_variables_over_the_file() {
    let text = "http: { port: 1, max_body: 6MiB }\nadmission: { rate_limit: { per: all } }\n";
    let config = load("c.yaml", text, &[("TELEMETRYX_HTTP__PORT", "2")]).unwrap();
    assert_eq!(
        (config.http.port, config.http.max_body),
        (2, ByteSize::mib(6))
    );
    assert_eq!(config.http.max_connections, 10_000);
    assert_eq!(config.admission.rate_limit.per, RateLimitPer::All);
    assert_eq!(config.admission.rate_limit.burst, 200);
}

#[test]
fn toml_and_yaml_say_the_same() {
    let from_yaml = yaml(
        "data_dir: /x\nvalidation: { required: [type, source], plugins: [ { name: SourceId, allowed: [1, 2] } ] }\n\
         routes: [ { name: a, sink: { kind: sqlite, path: a.db, retain: { age: 1d } }, retry: { attempts: 3 } } ]\n",
    );
    let from_toml = toml(
        "data_dir = '/x'\n[validation]\nrequired = ['type', 'source']\n[[validation.plugins]]\nname = 'SourceId'\n\
         allowed = [1, 2]\n[[routes]]\nname = 'a'\nretry.attempts = 3\n\
         [routes.sink]\nkind = 'sqlite'\npath = 'a.db'\nretain = { age = '1d' }\n",
    );
    let config = from_yaml.unwrap();
    assert_eq!(config, from_toml.unwrap());
    assert_eq!(
        config.validation.required,
        [RequiredField::Type, RequiredField::Source]
    );
    let plugin = &config.validation.plugins[0];
    assert_eq!(plugin.name, "SourceId");
    assert_eq!(plugin.parameters()["allowed"][1].as_integer(), Some(2));
    assert_eq!(
        config.routes[0].sink.parameters()["retain"]["age"].as_str(),
        Some("1d")
    );
    assert!(config.routes[0].retry.attempts.allows_another(2));
    assert!(!config.routes[0].retry.attempts.allows_another(3));
}

#[test]
fn variables_reach_into_lists_by_index_and_by_name() {
    let config = env(&[
        ("TELEMETRYX_ROUTES__1__BATCH__MAX_EVENTS", "7"),
        ("TELEMETRYX_ROUTES__STATS__BATCH__FLUSH_INTERVAL", "10ms"),
        ("TELEMETRYX_AUTH__KEYS__0__NAME", "a"),
        ("TELEMETRYX_AUTH__KEYS__0__SHA256", &"ab".repeat(32)),
        ("TELEMETRYX_VALIDATION__REQUIRED", "[id, type]"),
        (
            "TELEMETRYX_VALIDATION__PLUGINS",
            "[{name: SourceId, denied: [0]}]",
        ),
        ("TELEMETRYX_ADMIN__TOKEN", "0123"),
    ])
    .unwrap();
    assert_eq!(config.routes[1].batch.max_events, 7);
    assert_eq!(
        config.routes[0].batch.flush_interval,
        Some(Duration::millis(10))
    );
    assert_eq!(config.auth.keys[0].sha256.as_bytes()[0], 0xab);
    assert_eq!(
        config.validation.required,
        [RequiredField::Id, RequiredField::Type]
    );
    assert_eq!(config.validation.plugins[0].name, "SourceId");
    assert_eq!(
        config.admin.token.unwrap().expose(),
        "0123",
        "a text stays a text"
    );
}

#[test]
fn the_names_of_earlier_services_work_with_and_without_prefix() {
    let names = [
        ("ENABLE_RATE_LIMITING", "True"),
        ("RATE_LIMIT_RPS", "12.5"),
        ("RATE_LIMIT_BURST", "30"),
        ("STAGING_MAX_BACKLOG", "1000"),
        ("OVERFLOW_POLICY", "SAMPLE"),
        ("OVERFLOW_SAMPLE_RATE", "0.25"),
        ("PROCESSING_QUEUE_MAX_DEPTH", "50"),
        ("BATCH_MAX_SIZE", "25"),
        ("BATCH_FLUSH_INTERVAL_MS", "150"),
    ];
    for prefix in ["", "OTEL_"] {
        let named: Vec<_> = names
            .iter()
            .map(|(name, value)| (format!("{prefix}{name}"), *value))
            .collect();
        let named: Vec<_> = named
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        let config = env(&named).unwrap();
        let admission = &config.admission;
        assert!(admission.rate_limit.enabled);
        assert_eq!(
            (admission.rate_limit.rps, admission.rate_limit.burst),
            (12.5, 30)
        );
        assert_eq!(admission.overflow.policy, OverflowPolicy::Sample);
        assert_eq!(
            (
                admission.overflow.max_backlog_events,
                admission.overflow.sample_rate
            ),
            (Some(1000), 0.25)
        );
        assert_eq!(config.processing.queue_max_depth, 50);
        for route in &config.routes {
            assert_eq!(route.batch.max_events, 25);
            assert_eq!(route.batch.flush_interval, Some(Duration::millis(150)));
        }
    }
    assert_eq!(
        env(&[("ENABLE_RATE_LIMITING", "")]).unwrap(),
        Config::default(),
        "an empty one is not set"
    );
}

#[test]
fn our_own_names_win_over_telemetrons_and_those_over_inherited_ones() {
    let all = [
        ("BATCH_MAX_SIZE", "1"),
        ("OTEL_BATCH_MAX_SIZE", "2"),
        ("TELEMETRON_PROCESSOR__BATCH_SIZE", "3"),
        ("TELEMETRYX_ROUTES__STORE__BATCH__MAX_EVENTS", "4"),
    ];
    for last in 0..all.len() {
        let config = env(&all[..=last]).unwrap();
        assert_eq!(config.routes[1].batch.max_events as usize, last + 1);
    }
    assert_eq!(
        env(&[("TELEMETRON_HTTP__PORT", "8081")]).unwrap().http.port,
        8081
    );
}

#[test]
fn a_files_processor_batch_size_is_every_routes_that_says_no_other() {
    let config = toml(
        "processor.batch_size = 50\n[[routes]]\nname = 'a'\nsink.kind = 'stats'\n\
         [[routes]]\nname = 'b'\nsink.kind = 'stats'\nbatch.max_events = 9\n",
    )
    .unwrap();
    let sizes: Vec<_> = config
        .routes
        .iter()
        .map(|route| route.batch.max_events)
        .collect();
    assert_eq!(sizes, [50, 9]);
}

#[test]
fn what_kubernetes_says_about_services_is_no_setting() {
    let config = env(&[
        ("TELEMETRYX_SERVICE_HOST", "10.0.0.1"),
        ("TELEMETRYX_SERVICE_PORT_HTTP", "8080"),
        ("TELEMETRYX_PORT", "tcp://10.0.0.1:8080"),
        ("TELEMETRYX_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("TELEMETRYX_ADMIN_PORT_80_TCP", "tcp://10.0.0.1:80"),
    ]);
    assert_eq!(config.unwrap(), Config::default());
}

#[test]
fn every_mistake_is_said_at_once_with_its_line_key_and_remedy() {
    let text = "\
htp: { port: 1 }
http:
  port: eighty
  max_body: 5 apples
  header_timeout: 10
  max_conections: 5
port: 8080
admission:
  overflow: { policy: explode, sample_rate: 1.5 }
auth: { keys: [ { name: a, sha256: hunter2 } ] }
routes:
  - name: a/b
    sink: {}
  - name: b
journal:
  engine: postgrs
roles: [ingest, cook]
";
    let errors = load("c.yaml", text, &[("TELEMETRYX_SHUTDOWN__TIMEOUT", "soon")]).unwrap_err();
    let expected = "\
c.yaml:1: htp: is not a known key; did you mean `http`?
c.yaml:3: http.port: is the text \"eighty\"; write a whole number from 0 to 65535
c.yaml:4: http.max_body: `apples` is not a unit of size; write a size such as 64KiB, 5MiB, 1GB, or a plain number of bytes, from 1KiB to 1GiB
c.yaml:5: http.header_timeout: the number 10 has no unit; write a duration with its unit, such as 200ms, 10s, 5m, 48h, 7d, from 10ms to 10m
c.yaml:6: http.max_conections: is not a known key; did you mean `max_connections`?
c.yaml:7: port: is not a known key; did you mean `http.port` or `tcp.port`?
c.yaml:9: admission.overflow.policy: is the text \"explode\"; write one of reject, drop, sample
c.yaml:9: admission.overflow.sample_rate: is the number 1.5; write a number from 0 to 1
c.yaml:10: auth.keys[0].sha256: it is not the SHA-256 of a key; write 64 hexadecimal digits, as printed by: printf %s \"$KEY\" | sha256sum
c.yaml:12: routes[0].name: `a/b` contains '/'; write 1 to 64 of A-Z a-z 0-9 _ . - and not a dot first
c.yaml:13: routes[0].sink.kind: is missing; write a text
c.yaml:14: routes[1].sink: is missing; write a table of keys and values: Where its events go
c.yaml:16: journal.engine: is the text \"postgrs\"; write one of embedded, kafka, postgres
c.yaml:17: roles[1]: is the text \"cook\"; write one of ingest, deliver, query
TELEMETRYX_SHUTDOWN__TIMEOUT: shutdown.timeout: `soon` does not start with a number; write a duration with its unit, such as 200ms, 10s, 5m, 48h, 7d, from 0s to 1h";
    assert_eq!(errors, expected);
}

#[cfg(feature = "kafka")]
#[test]
fn route_that_would_write_into_its_own_journal_is_a_mistake() {
    let with = |brokers: &str, topic: &str| {
        yaml(&format!(
            "journal: {{ engine: kafka, kafka: {{ brokers: [a:9092, b:9092], topic: t }} }}
routes: [ {{ name: r, sink: {{ kind: kafka, brokers: {brokers}, topic: {topic} }} }} ]"
        ))
    };
    for brokers in ["'b:9092,c:9092'", "[c:9092, a:9092]"] {
        let errors = with(brokers, "t").unwrap_err();
        assert!(
            errors.contains("routes[0].sink.topic: `t` is the journal's own topic"),
            "{errors}"
        );
        with(brokers, "other").unwrap();
    }
    with("'c:9092'", "t").unwrap();
}

#[test]
fn a_journal_in_postgres_says_what_is_wrong_and_shows_no_secret() {
    for (keys, expected) in [
        ("", "journal.postgres.url: or `url_file` is missing"),
        (
            "url: 'mysql://a@b/c'",
            "journal.postgres.url: it must be `postgres://…`",
        ),
        (
            "url: 'postgres://a@b/c', url_file: /x",
            "journal.postgres.url: and `url_file` are both set",
        ),
        (
            "url: 'postgres://a@b/c', schema: 'a b'",
            "journal.postgres.schema: a name of 1 to 43",
        ),
        (
            "url: 'postgres://a@b/c', schema: pg_a",
            "journal.postgres.schema: names that begin with `pg_`",
        ),
        (
            "url: 'postgres://a@b/c', schema: information_schema",
            "journal.postgres.schema: names that begin with `pg_`",
        ),
        (
            "url: 'postgres://a@b/c', tls: { ca_file: /no/such }",
            "journal.postgres.tls.ca_file: `/no/such` cannot be read",
        ),
        (
            "url: 'postgres://a@b/c', partitions: 129",
            "journal.postgres.partitions: is the number 129",
        ),
    ] {
        let errors = yaml(&format!(
            "journal: {{ engine: postgres, postgres: {{ {keys} }} }}"
        ))
        .unwrap_err();
        assert!(errors.contains(expected), "{expected}\n{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    let url = "postgres://me:hunter2@db/events";
    let config = yaml(&format!(
        "journal: {{ engine: postgres, postgres: {{ url: '{url}' }} }}"
    ))
    .unwrap();
    let shown = format!("{} {config:?}", config.to_masked_yaml());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_journal_in_postgres_has_the_defaults_of_the_hardened_worker_where_nothing_is_said() {
    let journal = "journal: { engine: postgres, postgres: { url: 'postgres://a@b/c'";
    let with = |rest: &str, env: &[(&str, &str)]| {
        load("c.yaml", &format!("{journal}{rest}"), env).unwrap()
    };
    let routes = "routes: [ { name: a, sink: { kind: stdout } }, { name: b, sink: { kind: stdout }, batch: { max_events: 7 } } ]";
    let of = |config: &Config| {
        let batch = |route: usize| {
            let batch = &config.routes[route].batch;
            (
                batch.max_events,
                batch.flush_interval.map(|time| time.to_string()),
            )
        };
        (
            config.admission.overflow.max_backlog_events,
            batch(0),
            batch(1).0,
        )
    };
    let config = with(&format!(" }} }}\n{routes}"), &[]);
    assert_eq!(of(&config), (Some(1000), (25, Some("200ms".to_owned())), 7));
    let limit = &config.admission.rate_limit;
    assert_eq!((limit.enabled, limit.rps, limit.burst), (false, 100.0, 200));
    assert_eq!(config.processing.queue_max_depth, 100);
    let config = with(
        &format!(", max_backlog: 50 }} }}\n{routes}"),
        &[("OTEL_BATCH_MAX_SIZE", "9")],
    );
    assert_eq!(of(&config), (Some(50), (9, Some("200ms".to_owned())), 9));
    let overflow = "admission: { overflow: { max_backlog_events: 60 } }";
    let config = with(
        &format!(", max_backlog: 50 }} }}\n{routes}\n{overflow}"),
        &[("BATCH_FLUSH_INTERVAL_MS", "10")],
    );
    assert_eq!(of(&config), (Some(60), (25, Some("10ms".to_owned())), 7));
    let config = with(
        &format!(" }} }}\n{routes}\n{overflow}"),
        &[("STAGING_MAX_BACKLOG", "70")],
    );
    assert_eq!(config.admission.overflow.max_backlog_events, Some(70));
    // Another engine knows nothing of it.
    let config = load("c.yaml", routes, &[]).unwrap();
    assert_eq!(config.admission.overflow.max_backlog_events, None);
    assert_eq!(config.routes[0].batch.max_events, 5000);
}

#[cfg(feature = "kafka")]
#[test]
fn a_journal_in_kafka_says_every_mistake_and_takes_brokers_as_list_or_text() {
    let text = "journal: { engine: kafka, kafka: { topic: 'a b', min_insync_replicas: 2, group_prefix: 'a/b',
      options: { acks: 1, group.id: x, linger.ms: soon, sasl.password: hunter2 } } }";
    let errors = yaml(text).unwrap_err();
    for expected in [
        "journal.kafka.min_insync_replicas: 2 is more than replication_factor, 1",
        "journal.kafka.group_prefix: `a/b` cannot begin the name of a group",
        "journal.kafka.brokers: is missing",
        "journal.kafka.topic: `a b` is no name of a topic",
        "journal.kafka.options.acks: it can only be `all`",
        "journal.kafka.options.group.id: it cannot be set: use `group_prefix`",
        "journal.kafka.options.linger.ms: ",
    ] {
        assert!(errors.contains(expected), "{expected}\n{errors}");
    }
    assert_eq!(errors.lines().count(), 7, "{errors}");
    for brokers in ["[a:1, 'b']", "'a:1, b'"] {
        let kafka = format!(
            "brokers: {brokers}, tls: {{}}, options: {{ sasl.mechanism: PLAIN, sasl.username: u, sasl.password: hunter2 }}"
        );
        let config = yaml(&format!(
            "journal: {{ engine: kafka, kafka: {{ {kafka} }} }}"
        ))
        .unwrap();
        assert_eq!(config.journal.kafka.brokers, ["a:1", "b"]);
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

#[test]
fn mistakes_in_toml_have_lines_too() {
    let errors = toml(
        "[http]\nport = 8080\nmax_body = '5MB'\nporrt = 1\n\n[[routes]]\nname = 'a'\nsink.kind = 5\n",
    );
    assert_eq!(
        errors.unwrap_err(),
        "c.toml:4: http.porrt: is not a known key; did you mean `port`?\n\
         c.toml:8: routes[0].sink.kind: is the number 5; write a text in quotes"
    );
}

#[test]
fn what_no_key_comes_near_to_lists_the_known_ones() {
    let errors = yaml("query: { zzz: 1 }").unwrap_err();
    assert_eq!(
        errors,
        "c.yaml:1: query.zzz: is not a known key; known here: events_from, counters_from"
    );
}

#[test]
fn settings_that_contradict_each_other_are_said_together() {
    let text = "\
http: { max_body: 1MiB, max_event: 2MiB }
admission: { memory_budget: 1MiB, rate_limit: { rps: 0.001, burst: 4294967295 } }
auth:
  keys:
    - { name: a, sha256: HASH, burst: 5 }
    - { name: a, sha256: HASH, rps: 0.001, burst: 400000 }
routes:
  - { name: x, sink: { kind: stats }, retry: { initial: 2s, max: 1s } }
  - { name: X, sink: { kind: stats } }
query:
  events_from: x
  counters_from: y
admin: { token: a, token_file: b }
"
    .replace("HASH", &"ab".repeat(32));
    assert_eq!(
        yaml(&text).unwrap_err(),
        "\
c.yaml:1: http.max_event: 2MiB is more than http.max_body, 1MiB; an event cannot be larger than its body
c.yaml:2: admission.rate_limit.burst: 4294967295 at 0.001 a second take more than ten years to refill; raise rps or lower burst
c.yaml:5: auth.keys[0].burst: there is no rps beside it, so nothing would be limited; set rps as well
c.yaml:6: auth.keys[1].burst: 400000 at 0.001 a second take more than ten years to refill; raise rps or lower burst
c.yaml:6: auth.keys[1].name: `a` is the name of auth.keys[0] already; give each key its own name
c.yaml:6: auth.keys[1].sha256: is the key of auth.keys[0] already; give each client its own key
c.yaml:8: routes[0].retry.max: 1s is less than retry.initial, 2s; delays grow from initial to max
c.yaml:9: routes[1].name: `X` is the name of routes[0] already; give each route its own name
c.yaml:11: query.events_from: route `x`, whose sink is `stats`, cannot answer; no route has a sink that keeps events: leave it out
c.yaml:12: query.counters_from: there is no route `y`; routes that can answer: `x`, `X`
c.yaml:13: admin.token_file: admin.token is set as well; leave one of the two out"
    );
}

#[test]
fn queries_are_off_where_no_usual_route_can_answer() {
    let none = yaml("routes: []").unwrap().query;
    assert_eq!((none.events_from, none.counters_from), (None, None));
    let other = yaml("routes: [ { name: store, sink: { kind: stats } }, { name: stats, sink: { kind: stats } } ]").unwrap();
    assert_eq!(
        other.query.events_from, None,
        "a route named store without a store"
    );
    assert_eq!(other.query.counters_from.unwrap(), "stats");
    let named =
        yaml("routes: [ { name: db, sink: { kind: sqlite } } ]\nquery: { events_from: db }")
            .unwrap();
    assert_eq!(named.query.events_from.unwrap(), "db");
}

#[test]
fn a_file_that_cannot_be_read_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let missing = load_file(Some(&dir.path().join("no.yaml")), &[])
        .unwrap_err()
        .to_string();
    assert!(missing.ends_with("no.yaml: cannot be read: no such file or directory; give the path of a YAML or TOML file"), "{missing}");
    let directory = dir.path().join("d.yaml");
    fs::create_dir(&directory).unwrap();
    assert!(
        load_file(Some(&directory), &[])
            .unwrap_err()
            .to_string()
            .contains("cannot be read: is a directory")
    );
    assert_eq!(
        load("c.json", "{}", &[]).unwrap_err(),
        "c.json: its name does not say what it is; name a file that ends in .yaml, .yml or .toml"
    );
    let binary = dir.path().join("b.yaml");
    fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
    assert!(
        load_file(Some(&binary), &[])
            .unwrap_err()
            .to_string()
            .contains("b.yaml: cannot be read: ")
    );
}

#[test]
fn broken_yaml_and_toml_are_one_line_with_line_and_column() {
    for (name, text, start) in [
        ("c.yaml", "http:\n  port: [1\n", "c.yaml:2:9: is not YAML: "),
        (
            "c.yaml",
            "http: {}\nhttp: {}\n",
            "c.yaml:2:1: is not YAML: `http` is there twice",
        ),
        (
            "c.yaml",
            "a: 1\n---\nb: 2\n",
            "c.yaml:3:1: is not YAML: a second document begins",
        ),
        ("c.yaml", "- a\n", "c.yaml: is not a table"),
        ("c.toml", "[http]\nport = \n", "c.toml:2:8: is not TOML: "),
        (
            "c.toml",
            "[http]\nport = 1\nport = 2\n",
            "c.toml:3:1: is not TOML: duplicate key",
        ),
    ] {
        let errors = load(name, text, &[]).unwrap_err();
        assert!(errors.starts_with(start), "{text:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn wrong_variables_are_named() {
    for (variable, value, expected) in [
        (
            "TELEMETRYX_HTTP__PROT",
            "1",
            "TELEMETRYX_HTTP__PROT: http.prot: is not a known key; did you mean `port`?",
        ),
        (
            "TELEMETRYX_HTTP__PORT",
            "x",
            "TELEMETRYX_HTTP__PORT: http.port: is the text \"x\"; write a whole number",
        ),
        (
            "TELEMETRYX_HTTP__PORT",
            "[1",
            "TELEMETRYX_HTTP__PORT: http.port: is not a value: ",
        ),
        (
            "TELEMETRYX_ROUTES__NO__BATCH",
            "{}",
            "TELEMETRYX_ROUTES__NO__BATCH: routes.no.batch: there is no element `no` among the 2",
        ),
        (
            "BATCH_FLUSH_INTERVAL_MS",
            "soon",
            "BATCH_FLUSH_INTERVAL_MS: routes[0].batch.flush_interval: `soonms` does not",
        ),
        (
            "OVERFLOW_POLICY",
            "x",
            "OVERFLOW_POLICY: admission.overflow.policy: is the text \"x\"; write one of reject",
        ),
    ] {
        let errors = env(&[(variable, value)]).unwrap_err();
        assert!(errors.starts_with(expected), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn a_token_is_read_from_its_file_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, "  hunter2\n").unwrap();
    let config = env(&[("TELEMETRYX_ADMIN__TOKEN_FILE", file.to_str().unwrap())]).unwrap();
    assert_eq!(config.admin.token.as_ref().unwrap().expose(), "hunter2");
    let shown = format!("{config:?} {}", config.to_masked_yaml());
    assert!(
        !shown.contains("hunter2") && shown.contains("***"),
        "{shown}"
    );
    let errors = env(&[("TELEMETRYX_ADMIN__TOKEN_FILE", "/no/such/file")]).unwrap_err();
    assert!(
        errors.contains("admin.token_file: `/no/such/file` cannot be read: no such file"),
        "{errors}"
    );
    for mistake in [
        "admin: { token: [hunter2] }",
        "admin: { token: 42 }",
        "auth: { keys: [ { name: a, sha256: hunter2 } ] }",
    ] {
        let errors = yaml(mistake).unwrap_err();
        assert!(
            !errors.contains("hunter2") && !errors.contains("42"),
            "{errors}"
        );
    }
}

#[test]
fn what_is_printed_can_be_read_again() {
    let config =
        yaml("routes: [ { name: a, sink: { kind: sqlite, path: x }, retry: { attempts: 2 } } ]")
            .unwrap();
    assert_eq!(yaml(&config.to_masked_yaml()).unwrap(), config);
    assert_eq!(
        yaml(&Config::default().to_masked_yaml()).unwrap(),
        Config::default()
    );
}

#[test]
fn the_files_that_come_with_the_service_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "t").unwrap();
    let elsewhere = [("TELEMETRYX_ADMIN__TOKEN_FILE", token.to_str().unwrap())];
    let mut seen = Vec::new();
    for entry in fs::read_dir(crate_dir().join("config")).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let env: Variables<'_> = if name == "production.yaml" {
            &elsewhere
        } else {
            &[]
        };
        let config = load_file(Some(&file), env).unwrap_or_else(|errors| panic!("{errors}"));
        if name == "dev.yaml" {
            assert_eq!(
                config,
                Config::default(),
                "dev.yaml spells the defaults out"
            );
        }
        seen.push(name);
    }
    for name in [
        "dev.yaml",
        "strict.yaml",
        "production.yaml",
        "otel-worker.yaml",
        "fleet.yaml",
        "config.toml",
    ] {
        assert!(seen.iter().any(|seen| seen == name), "{name} is missing");
    }
}

#[test]
fn the_reference_page_is_up_to_date() {
    let file = crate_dir().join("../../docs/configuration.md");
    if std::env::var_os("TELEMETRYX_BLESS").is_some() {
        fs::write(&file, reference()).unwrap();
    }
    let page = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        page == reference(),
        "out of date: TELEMETRYX_BLESS=1 cargo test -p telemetryx-ingestion --test config"
    );
}

/// Pieces that configs are made of, right and wrong ones.
const PIECES: [&str; 44] = [
    "http",
    "port",
    "routes",
    "name",
    "sink",
    "kind",
    "batch",
    "max_events",
    "retry",
    "attempts",
    "admission",
    "overflow",
    "policy",
    "journal",
    "auth",
    "keys",
    "sha256",
    "query",
    "plugins",
    "validation",
    ":",
    ": ",
    "\n",
    "\n  ",
    "\n- ",
    "{",
    "}",
    "[",
    "]",
    "[[",
    "]]",
    "=",
    ",",
    "\"",
    "'",
    "5MiB",
    "200ms",
    "-1",
    "1e999",
    "18446744073709551615",
    "&a",
    "*a",
    "<<",
    "é\0",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40)) {
        for (text, language) in [(text, Language::Yaml), (pieces.concat(), Language::Yaml), (pieces.concat(), Language::Toml)] {
            say(&text, language);
        }
    }
}

/// Whatever is said is either valid or has mistakes, each on one line and each found before the config is built.
fn say(text: &str, language: Language) -> bool {
    let said = Config::from_text(text, language);
    if let Err(errors) = &said {
        assert!(!errors.0.is_empty());
        assert_eq!(
            errors.to_string().lines().count(),
            errors.0.len(),
            "{errors}"
        );
        for error in &errors.0 {
            let whole = error.message.starts_with("is not ");
            assert!(
                !error.key.is_empty() || whole,
                "only the build found it: {error}\n{text}"
            );
        }
    }
    said.is_ok()
}

#[test]
fn deep_nesting_and_aliases_that_multiply_are_refused() {
    let lists = "[".repeat(100_000);
    let bomb = (0..9).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
        text + &format!(
            "a{}: &a{} [{}]\n",
            n + 1,
            n + 1,
            vec![format!("*a{n}"); 20].join(",")
        )
    });
    for (text, language) in [
        (lists.clone(), Language::Yaml),
        ("{a: ".repeat(100_000), Language::Yaml),
        ("- ".repeat(100_000), Language::Yaml),
        (bomb, Language::Yaml),
        (format!("a = {lists}"), Language::Toml),
        (format!("a = {}", "{a = ".repeat(100_000)), Language::Toml),
        (
            format!("{} = 1", vec!["a"; 100_000].join(".")),
            Language::Toml,
        ),
    ] {
        assert!(!say(&text, language));
    }
}

/// Right configs that touch every form, to be bent.
const SEEDS: [(&str, Language); 4] = [
    (
        "http: { host: ::1, port: 1, max_body: 6MiB, body_timeout: 5s }\nvalidation: { required: [id], plugins: [ { name: A, x: [1] } ] }\n",
        Language::Yaml,
    ),
    (
        "routes:\n  - name: a\n    sink: { kind: sqlite, retain: { age: 1d } }\n    filter: { attributes: { k: v }, sources: [1, b] }\n    retry: { attempts: 3 }\nquery: { events_from: a }\n",
        Language::Yaml,
    ),
    (
        "admission: { rate_limit: { rps: 1.5, per: key }, overflow: { policy: drop, sample_rate: 0.5 } }\njournal: { embedded: { fsync: interval } }\n",
        Language::Yaml,
    ),
    (
        "[http]\nport = 1\nmax_body = '6MiB'\n[[routes]]\nname = 'a'\nsink = { kind = 'stats' }\nbatch.max_events = 5\n[[auth.keys]]\nname = 'k'\nsha256 = 'ff'\n",
        Language::Toml,
    ),
];

#[test]
fn two_hundred_thousand_bent_configs_are_valid_or_refused_for_a_reason() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % (below as u64)).unwrap()
    };
    let mut valid = 0;
    for round in 0..200_000 {
        let (seed, language) = SEEDS[round % SEEDS.len()];
        let mut text: Vec<char> = seed.chars().collect();
        for _ in 0..=random(3) {
            let at = random(text.len());
            match random(4) {
                0 => drop(text.remove(at)),
                1 => {
                    let end = (at + 1 + random(12)).min(text.len());
                    drop(text.drain(at..end));
                }
                2 => {
                    let piece = PIECES[random(PIECES.len())];
                    text.splice(at..at, piece.chars());
                }
                _ => {
                    let end = (at + random(20)).min(text.len());
                    let copy = text[at..end].to_vec();
                    let to = random(text.len());
                    text.splice(to..to, copy);
                }
            }
            if text.is_empty() {
                break;
            }
        }
        let text: String = text.into_iter().collect();
        valid += usize::from(say(&text, language));
    }
    assert!(
        valid > 1_000,
        "only {valid} were valid: the bending is too rough to try what lies behind the parser"
    );
}

#[test]
fn roles_are_words_and_the_embedded_journal_is_one_processs() {
    let config = load("c.yaml", "", &[("TELEMETRYX_ROLES", "ingest, deliver")]).unwrap();
    assert_eq!(config.roles, [Role::Ingest, Role::Deliver]);
    assert!(!config.has(Role::Query));
    for (roles, expected) in [
        ("[]", "c.yaml:1: roles: is empty"),
        ("[deliver, query]", "c.yaml:1: roles: `ingest` is missing"),
        ("[query, ingest]", "c.yaml:1: roles: `deliver` is missing"),
    ] {
        let errors = load("c.yaml", &format!("roles: {roles}\n"), &[]).unwrap_err();
        assert!(errors.starts_with(expected), "{errors}");
    }
}
