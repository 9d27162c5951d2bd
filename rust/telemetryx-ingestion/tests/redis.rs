//! The `redis` sink with a real Redis: each accepted event counted once, whoever is killed, hangs or comes back; what is
//! published; what is said while Redis is away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "it issues only")]
#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::collections::BTreeMap;

use certificates::Authority;
use serde_json::{Value, json};
use support::kills::kill_under_load;
use support::{Load, SOON, TS, assert_books_balance, event, metric, service, settle, start};
use telemetryx_testkit::{RedisServer, Service, TestSeed, eventually, eventually_some, free_port};

/// A route named `stats` whose sink is Redis and which answers `/stats`.
fn config(redis: &RedisServer, more: &str) -> String {
    config_of(&redis.url(), more)
}

fn config_of(url: &str, more: &str) -> String {
    format!(
        "routes: [ {{ name: stats, sink: {{ kind: redis, url: {url:?}, {more} }},
            retry: {{ initial: 5ms, max: 50ms }}, breaker: {{ failures: 3, open_for: 100ms }} }} ]
query: {{ counters_from: stats }}"
    )
}

/// A hash as Redis has it.
#[track_caller]
fn hash(redis: &RedisServer, key: &str) -> BTreeMap<String, String> {
    let answer = redis.ask(&["HGETALL", key]);
    let (pairs, []) = answer.list().as_chunks::<2>() else {
        panic!("{answer:?}")
    };
    pairs
        .iter()
        .map(|[name, value]| (name.text().to_owned(), value.text().to_owned()))
        .collect()
}

#[track_caller]
fn keys(redis: &RedisServer, pattern: &str) -> Vec<String> {
    let answer = redis.ask(&["KEYS", pattern]);
    answer
        .list()
        .iter()
        .map(|key| key.text().to_owned())
        .collect()
}

fn sum(hash: &BTreeMap<String, String>) -> u64 {
    hash.values()
        .map(|count| count.parse::<u64>().unwrap())
        .sum()
}

/// What Redis has counted by itself, by source and their types, by type and by minute is what was accepted.
#[track_caller]
fn assert_exact(service: &Service, redis: &RedisServer) -> u64 {
    settle(service);
    let accepted = assert_books_balance(service)["accepted"].as_u64().unwrap();
    let text = accepted.to_string();
    assert_eq!(hash(redis, "{telemetryx}:totals")["events"], text);
    assert_eq!(sum(&hash(redis, "{telemetryx}:types")), accepted, "types");
    assert_eq!(
        sum(&hash(redis, "{telemetryx}:sources")),
        accepted,
        "sources"
    );
    let minutes = keys(redis, "{telemetryx}:minute:*");
    let in_minutes: u64 = minutes.iter().map(|key| sum(&hash(redis, key))).sum();
    assert_eq!(in_minutes, accepted, "minutes");
    let sources = keys(redis, "{telemetryx}:source:*");
    let in_sources: u64 = sources
        .iter()
        .flat_map(|key| hash(redis, key))
        .filter(|(field, _)| field.starts_with("type:"))
        .map(|(_, count)| count.parse::<u64>().unwrap())
        .sum();
    assert_eq!(in_sources, accepted, "types of sources");
    accepted
}

#[track_caller]
fn stats(service: &Service) -> Value {
    service.get("/stats").expect_status(200).json()
}

fn health(service: &Service) -> Value {
    service.get("/health").expect_status(200).json()
}

/// Waits until all is counted and `/stats` says so.
#[track_caller]
fn wait_until_up_to_date(service: &Service) {
    settle(service);
    eventually(SOON, "`/stats` is no longer behind", || {
        stats(service).get("behind").is_none()
    });
}

/// Any events at all: sources that are names, numbers and the same number as a name, types, times before and after 1970.
fn random_events(seed: &mut TestSeed, count: u64) -> String {
    let mut one = |_| {
        let source = match seed.below(4) {
            0 => json!(seed.below(3)),
            1 => json!(seed.below(3).to_string()),
            2 => json!(format!("door \"{}\" ü:{{}}", seed.below(3))),
            _ => json!("(other)"),
        };
        let nanos = seed.below(2_000_000_000_000_000_000);
        let ts = format!(
            "19{:02}-03-04T05:06:07.{:09}Z",
            seed.below(100),
            nanos % 1_000_000_000
        );
        json!({ "ts": ts, "source": source, "type": format!("t{}", seed.below(5)), "payload": 1 })
    };
    Value::from((0..count).map(&mut one).collect::<Vec<_>>()).to_string()
}

/// Every answer of `/stats`, the rates without minutes in which nothing came.
fn all_answers(service: &Service) -> Vec<Value> {
    let mut answers = vec![stats(service)];
    for source in ["0", "1", "2", "door%20%220%22%20%C3%BC%3A%7B%7D", "(other)"] {
        answers.push(service.get(&format!("/stats/{source}")).json());
    }
    for path in ["/stats/rates?window=1h", "/stats/rates?window=1h&type=t1"] {
        let mut rates = service.get(path).expect_status(200).json();
        let minutes = rates["rates"].as_array_mut().unwrap();
        assert_eq!(minutes.len(), 60);
        minutes.retain(|minute| minute["events"] != 0);
        answers.push(rates);
    }
    answers
}

#[test]
fn answers_are_those_of_the_stats_sink_on_the_same_events() {
    let redis = RedisServer::start();
    let both = |from: &str| {
        let url = redis.url();
        format!(
            "routes: [ {{ name: stats, sink: {{ kind: stats }} }}, {{ name: redis, sink: {{ kind: redis, url: {url:?} }} }} ]
query: {{ counters_from: {from} }}"
        )
    };
    let mut seed = TestSeed::new();
    let mut service = start(&both("redis"));
    for _ in 0..20 {
        let body = random_events(&mut seed, 1 + 50);
        service.post_json("/ingest", body).expect_status(202);
    }
    assert_eq!(assert_exact(&service, &redis), 20 * 51);
    let from_redis = all_answers(&service);
    assert_eq!(service.get("/stats/nobody").status, 404);
    let too_long = service
        .get("/stats/rates?window=2881m")
        .expect_status(400)
        .json();
    assert!(too_long.to_string().contains("at most 2880m"), "{too_long}");
    service.set_config(&both("stats"));
    service.terminate();
    service.restart();
    assert_eq!(from_redis, all_answers(&service));
    assert_eq!(from_redis[0]["events_count"], 20 * 51);

    // Minutes end by themselves, about two days after they are over.
    let minutes = keys(&redis, "{telemetryx}:minute:*");
    assert!(!minutes.is_empty());
    for minute in minutes {
        let left = redis.ask(&["TTL", &minute]).number();
        assert!((47 * 3600..=49 * 3600).contains(&left), "{minute}: {left}");
    }
    assert_eq!(redis.ask(&["TTL", "{telemetryx}:totals"]).number(), -1);
}

#[test]
fn kills_of_the_service_under_load_count_each_event_once() {
    let redis = RedisServer::start();
    let mut service = start(&config(&redis, ""));
    let tally = kill_under_load(&mut service);
    tally.assert_counted(&service);
    assert_exact(&service, &redis);
    assert!(!service.log().contains("forgotten"), "nothing was lost");
}

#[test]
fn redis_killed_and_restarted_under_load_loses_no_count_and_the_door_stays_open() {
    let mut redis = RedisServer::start();
    let service = start(&config(&redis, ""));
    let load = Load::start(&service, "r", 1, 20, 20);
    // Of a Redis that never answered nothing is known.
    eventually(SOON, "the first events are counted", || {
        stats(&service)["events_count"].as_u64() > Some(0)
    });
    for _ in 0..2 {
        load.wait_for(1_000);
        redis.kill();
        load.wait_for(1_000);
        let known = eventually_some(SOON, "`/stats` says that it is behind", || {
            let stats = stats(&service);
            (stats["behind"]["events"].as_u64()? > 500).then_some(stats)
        });
        assert!(
            known["events_count"].as_u64().unwrap() > 0,
            "the last known: {known}"
        );
        assert!(known["behind"]["since"].as_str().unwrap().ends_with('Z'));
        eventually(SOON, "/health says it too", || {
            health(&service)["routes"]["stats"]["state"] == "down"
        });
        assert_eq!(service.get("/stats/r-0").status, 503);
        assert_eq!(service.get("/stats/rates").status, 503);
        redis.restart();
        eventually(SOON, "it catches up", || {
            stats(&service).get("behind").is_none()
        });
    }
    let tally = load.stop();
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&202]);
    tally.assert_counted(&service);
    assert_exact(&service, &redis);
    assert_eq!(health(&service)["status"], "healthy");
}

#[test]
fn redis_that_hangs_holds_up_neither_the_door_nor_stats() {
    let redis = RedisServer::start();
    let mut service = start(&config(&redis, "timeout: 300ms"));
    service.post_json("/ingest", event("a")).expect_status(202);
    settle(&service);
    assert_eq!(
        stats(&service),
        json!({ "sources_count": 1, "events_count": 1 })
    );
    // What is known is saved with the route's cursor.
    service.terminate();
    service.restart();
    redis.hang();
    service.post_json("/ingest", event("b")).expect_status(202);
    let behind = eventually_some(SOON, "it is behind", || {
        let stats = stats(&service);
        (stats["behind"]["events"] == 1).then_some(stats)
    });
    assert_eq!(behind["events_count"], 1);
    let refused = service.get("/stats/door").expect_status(503).json();
    assert!(
        refused.to_string().contains("no answer within"),
        "{refused}"
    );
    // Also after a start at which Redis does not answer.
    service.kill();
    service.restart();
    service.post_json("/ingest", event("c")).expect_status(202);
    let behind = stats(&service);
    assert_eq!(
        (&behind["events_count"], &behind["behind"]["events"]),
        (&json!(1), &json!(2))
    );
    redis.go_on();
    wait_until_up_to_date(&service);
    assert_eq!(assert_exact(&service, &redis), 3);
    assert_eq!(stats(&service)["events_count"], 3);
}

#[test]
fn summaries_and_events_are_published_once() {
    let redis = RedisServer::start();
    let mut subscriber = redis.connect();
    subscriber.ask(&["SUBSCRIBE", "counts"]);
    let service = start(&config(&redis, "channel: counts, publish: events"));
    let mut seed = TestSeed::new();
    for _ in 0..5 {
        let body = random_events(&mut seed, 20);
        service.post_json("/ingest", body).expect_status(202);
    }
    settle(&service);
    let (mut events, mut summed, mut types) = (0, 0, BTreeMap::<String, u64>::new());
    while summed < 100 {
        let message = subscriber.read().unwrap();
        let [kind, channel, text] = message.list() else {
            panic!("{message:?}")
        };
        assert_eq!((kind.text(), channel.text()), ("message", "counts"));
        let message: Value = serde_json::from_str(text.text()).unwrap();
        let Some(summary) = message.get("summary") else {
            assert!(
                message["id"].is_string() && message["payload"] == 1,
                "{message}"
            );
            events += 1;
            continue;
        };
        summed += summary["events"].as_u64().unwrap();
        assert_eq!(summary["route"], "stats");
        assert_eq!(summary["totals"]["events"], summed);
        for (name, count) in summary["types"].as_object().unwrap() {
            *types.entry(name.clone()).or_default() += count.as_u64().unwrap();
        }
    }
    assert_eq!((events, summed), (100, 100));
    let counted = hash(&redis, "{telemetryx}:types");
    let counted: BTreeMap<String, u64> = counted
        .into_iter()
        .map(|(name, count)| (name, count.parse().unwrap()))
        .collect();
    assert_eq!(types, counted);
}

#[test]
fn wrong_password_is_told_in_the_words_of_redis_and_a_new_one_needs_no_restart() {
    let redis = RedisServer::start_with(&["--requirepass", "right"]);
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let service = start(&config(&redis, &format!("password_file: {file:?}")));
    service.post_json("/ingest", event("a")).expect_status(202);
    let health = eventually_some(SOON, "the sink is down", || {
        let health = health(&service);
        (health["status"] == "degraded").then_some(health)
    });
    let error = health["routes"]["stats"]["error"].as_str().unwrap();
    assert!(error.contains("WRONGPASS"), "{error}");
    let unknown = service.get("/stats").expect_status(503).json();
    assert!(unknown.to_string().contains("WRONGPASS"), "{unknown}");
    std::fs::write(&file, "right\n").unwrap();
    wait_until_up_to_date(&service);
    assert_eq!(assert_exact(&service, &redis), 1);
    assert!(!service.log().contains("right"), "no secret in the log");
}

#[test]
fn redis_that_forgot_is_told_of_and_counting_goes_on() {
    let redis = RedisServer::start();
    let mut service = start(&config(&redis, ""));
    for id in ["a", "b", "c"] {
        service.post_json("/ingest", event(id)).expect_status(202);
    }
    settle(&service);
    service.terminate();
    redis.ask(&["FLUSHALL"]);
    service.restart();
    service.post_json("/ingest", event("d")).expect_status(202);
    settle(&service);
    assert!(
        service
            .log()
            .contains("up to 3 events are not counted any more"),
        "{}",
        service.log()
    );
    assert_eq!(stats(&service)["events_count"], 1);
    assert_books_balance(&service);
}

#[test]
fn a_dead_letter_sent_again_is_counted_once_and_a_replay_is_refused() {
    let redis = RedisServer::start();
    let strict = config(&redis, "").replace(
        "retry:",
        "processors: [ { name: SchemaMigration, types: { login: { 1: { rename: { a: b } } } } } ], retry:",
    );
    let mut service = start(&strict);
    let bad = format!(r#"{{"id":"x","ts":"{TS}","type":"login","payload":"text"}}"#);
    service.post_json("/ingest", bad).expect_status(202);
    service
        .post_json("/ingest", format!(r#"{{"ts":"{TS}","payload":{{}}}}"#))
        .expect_status(202);
    settle(&service);
    assert_eq!(
        stats(&service)["events_count"],
        1,
        "the dead one is not counted"
    );
    service.set_config(&config(&redis, ""));
    service.terminate();
    service.restart();
    let sent = service.run(&["dead-letters", "redrive", "--all", "--wait"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert_eq!(assert_exact(&service, &redis), 2);
    let marks = keys(&redis, "{telemetryx}:redriven:stats:*");
    assert_eq!(marks.len(), 1, "{marks:?}");
    assert!(redis.ask(&["TTL", &marks[0]]).number() > 29 * 24 * 3600);
    let refused = service.run(&["replay", "--route", "stats", "--from", "0"]);
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("the `redis` sink counts"),
        "{refused:?}"
    );
}

#[test]
fn hostile_names_make_no_more_fields_than_the_limits_say() {
    let redis = RedisServer::start();
    let service = start(&config(&redis, "max_sources: 5, max_types: 3"));
    for batch in 0..4 {
        let events: Vec<_> = (0..200)
            .map(|n| json!({ "ts": TS, "source": format!("s{batch}-{n}"), "type": format!("t{batch}-{n}") }))
            .collect();
        let body = Value::from(events).to_string();
        service.post_json("/ingest", body).expect_status(202);
    }
    assert_eq!(assert_exact(&service, &redis), 800);
    assert_eq!(
        stats(&service),
        json!({ "sources_count": 6, "events_count": 800 })
    );
    assert_eq!(hash(&redis, "{telemetryx}:types").len(), 4);
    assert_eq!(keys(&redis, "{telemetryx}:source:*").len(), 6);
    for minute in keys(&redis, "{telemetryx}:minute:*") {
        assert!(hash(&redis, &minute).len() <= 4);
    }
    let other = service.get("/stats/(other)").expect_status(200).json();
    assert_eq!(other["total_events"], 795);
    let hidden = service.get("/stats/s3-9").expect_status(404).json();
    assert!(hidden.to_string().contains("max_sources"), "{hidden}");
}

#[test]
fn a_batch_with_more_sources_and_types_than_one_command_of_redis_takes_is_counted() {
    let redis = RedisServer::start();
    let url = redis.url();
    let mut service = start(&format!(
        "routes: [ {{ name: redis, sink: {{ kind: redis, url: {url:?}, max_types: 5000 }},
            batch: {{ max_events: 20000, flush_interval: 200ms }} }} ]
query: {{ counters_from: redis }}"
    ));
    let one = |n: u64| {
        let (source, kind) = if n < 2_500 { (0, n) } else { (n, n % 7) };
        json!({ "ts": TS, "source": source, "type": format!("t{kind}") })
    };
    for round in 1..=3 {
        let body = Value::from((0..5_000).map(one).collect::<Vec<_>>()).to_string();
        service.post_json("/ingest", body).expect_status(202);
        assert_eq!(assert_exact(&service, &redis), round * 5_000);
        if round == 2 {
            service.kill();
            service.restart();
        }
    }
    assert_eq!(hash(&redis, "{telemetryx}:sources").len(), 2_501);
    let many = service.get("/stats/0").expect_status(200).json();
    assert_eq!(many["total_events"], 7_500);
    assert_eq!(
        many["event_types"].as_object().unwrap().len(),
        2_500,
        "{many}"
    );
}

#[test]
fn keys_of_one_prefix_are_on_one_node_of_a_cluster_and_we_find_it() {
    let ports: Vec<_> = (0..2).map(|_| free_port().to_string()).collect();
    let nodes: Vec<_> = ports
        .iter()
        .map(|port| RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-port", port]))
        .collect();
    nodes[0].ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    nodes[1].ask(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    let port = nodes[1].port().to_string();
    nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &ports[1]]);
    eventually(SOON, "the cluster is up", || {
        nodes.iter().all(|node| {
            let info = node.ask(&["CLUSTER", "INFO"]);
            info.text().contains("cluster_state:ok")
                && info.text().contains("cluster_known_nodes:2")
        })
    });
    let slot = nodes[0]
        .ask(&["CLUSTER", "KEYSLOT", "{telemetryx}"])
        .number();
    let (with, without) = if slot < 8192 { (0, 1) } else { (1, 0) };
    // The node that is asked first has none of the keys.
    let service = start(&config(&nodes[without], "channel: counts"));
    for id in ["a", "b"] {
        service.post_json("/ingest", event(id)).expect_status(202);
    }
    assert_eq!(assert_exact(&service, &nodes[with]), 2);
    assert_eq!(stats(&service)["events_count"], 2);
    assert!(keys(&nodes[without], "*").is_empty());
}

#[test]
fn tls_is_spoken_with_the_authority_that_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let authority = Authority::new(scratch.path(), "ca");
    let pair = authority.issue("redis");
    let port = free_port().to_string();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (cert, key, ca) = (path(&pair.cert), path(&pair.key), path(&authority.file));
    let redis = RedisServer::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
    ]);
    let client = authority.issue("client");
    let tls = format!(
        "tls: {{ ca_file: {ca:?}, cert_file: {:?}, key_file: {:?} }}",
        client.cert, client.key
    );
    let service = start(&config_of(&format!("rediss://127.0.0.1:{port}"), &tls));
    service.post_json("/ingest", event("a")).expect_status(202);
    assert_eq!(assert_exact(&service, &redis), 1);
}

#[test]
fn check_names_each_wrong_key_and_shows_no_secret() {
    let check = |sink: &str| {
        let config = format!("routes: [ {{ name: r, sink: {{ kind: redis, {sink} }} }} ]");
        service().config(&config).run(&["check"])
    };
    for (sink, word) in [
        ("", "`url` or `url_file` is missing"),
        ("url: \"http://h\"", "`url` must be redis://"),
        ("url: \"redis://h\", prefix: \"a{b\"", "`prefix`"),
        ("url: \"redis://h\", minutes_ttl: 1s", "`minutes_ttl`"),
        (
            "url: \"redis://h\", publish: events",
            "`publish` needs a `channel`",
        ),
        ("url: \"redis://h\", tls: {}", "`tls` is set"),
        (
            "url: \"redis://h\", password_file: /no/such",
            "`password_file`",
        ),
        ("url: \"redis://h\", urls: x", "unknown field `urls`"),
    ] {
        let shown = check(sink);
        assert_eq!(shown.code, Some(2), "{sink}: {shown:?}");
        assert!(shown.stderr.contains(word), "{sink}: {shown:?}");
    }
    let shown =
        check("url: \"redis://me:hunter2@h:1/2\", channel: c, publish: summary, minutes_ttl: 1h");
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(!format!("{shown:?}").contains("hunter2"), "{shown:?}");
    // Each mistake has a line, with its place before it.
    let shown = check("prefix: \"a{b\", minutes_ttl: 1s");
    let lines: Vec<_> = shown.stderr.lines().collect();
    for word in ["`url`", "`prefix`", "`minutes_ttl`"] {
        let of_it = lines.iter().filter(|line| line.contains(word));
        let of_it: Vec<_> = of_it.collect();
        assert_eq!(of_it.len(), 1, "{word}: {shown:?}");
        assert!(of_it[0].contains("routes[0].sink (redis): `"), "{shown:?}");
    }
}

#[test]
fn batches_that_come_again_because_the_answer_was_lost_count_once() {
    // Redis gets a batch while it hangs, and the same one again over another connection.
    let redis = RedisServer::start();
    let service = start(&config(&redis, "timeout: 150ms"));
    let load = Load::start(&service, "h", 2, 50, 20);
    for _ in 0..8 {
        load.wait_for(500);
        let retries = || metric(&service, "route_retries_total{route=\"stats\"}");
        let before = retries();
        redis.hang();
        eventually(SOON, "a batch is sent again", || retries() > before);
        redis.go_on();
    }
    let tally = load.stop();
    tally.assert_counted(&service);
    assert_exact(&service, &redis);
}
