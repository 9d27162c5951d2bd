//! The sink `kafka` with a real Apache Kafka: every event is a message, in the order of its key, whoever is killed, hangs
//! or comes back; what Kafka refuses is a dead letter in its words; what doubles has the same id.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};

use prost::Message;
use serde_json::{Value, json};
use support::kills::kill_under_load;
use support::{Load, SOON, TS, Tally, assert_books_balance, service, settle, start};
use telemetryx_proto::v1;
use telemetryx_testkit::{Kafka, KafkaMessage, Service, TestSeed, eventually};

/// One Kafka for the tests that leave it as it is.
fn shared() -> Arc<Kafka> {
    static SHARED: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let kafka = Arc::new(Kafka::builder().patient().start());
        *shared = Arc::downgrade(&kafka);
        kafka
    })
}

/// A route `out` into this topic; `keys` are more keys of the sink, each with a comma before it.
fn config(kafka: &Kafka, topic: &str, keys: &str) -> String {
    format!(
        "routes: [ {{ name: stats, sink: {{ kind: stats }} }},
          {{ name: out, sink: {{ kind: kafka, brokers: '{}', topic: {topic}{keys} }},
            retry: {{ initial: 20ms, max: 200ms }}, breaker: {{ failures: 1000000 }} }} ]",
        kafka.brokers()
    )
}

#[track_caller]
fn given(service: &Service, events: &[Value]) {
    let body = Value::from(events).to_string();
    service.post_json("/ingest", body).expect_status(202);
    settle(service);
}

fn decode(message: &KafkaMessage) -> v1::Event {
    let event = v1::Event::decode(message.value.as_slice()).unwrap();
    assert_eq!(
        event.encode_to_vec(),
        message.value,
        "the bytes that are stored"
    );
    event
}

fn key(message: &KafkaMessage) -> &str {
    std::str::from_utf8(message.key.as_deref().unwrap()).unwrap()
}

/// How often each id is in the topic.
fn ids(messages: &[KafkaMessage]) -> HashMap<String, u64> {
    let mut ids = HashMap::new();
    for message in messages {
        *ids.entry(message.header("id").to_owned()).or_insert(0) += 1;
    }
    ids
}

/// The route's sink is down, with words like these.
#[track_caller]
fn assert_down(service: &Service, words: &str) {
    eventually(SOON, words, || {
        let shown = service.get("/status").json()["routes"]["out"].to_string();
        shown.contains(words) && service.get("/health").json()["status"] == "degraded"
    });
}

/// What was acknowledged is in the topic, nothing that was refused is, and the events of a key are in their order when
/// each is looked at where it is first. How many are there more than once.
#[track_caller]
fn assert_kept(tally: &Tally, service: &Service, kafka: &Kafka, topic: &str) -> usize {
    tally.assert_counted(service);
    let messages = kafka.messages(topic);
    let ids = ids(&messages);
    let missing = tally
        .acknowledged
        .iter()
        .filter(|id| !ids.contains_key(*id));
    assert_eq!(missing.count(), 0, "of {}", tally.acknowledged.len());
    let accepted = assert_books_balance(service)["accepted"].as_u64().unwrap();
    assert_eq!(ids.len() as u64, accepted, "each id was sent once");
    let mut last = HashMap::<&str, u64>::new();
    let mut seen = HashMap::new();
    for message in &messages {
        let id = message.header("id");
        let first = *seen.entry(id).or_insert(message);
        assert_eq!(first.value, message.value, "the same event");
        if first == message {
            let number = id.rsplit_once('-').unwrap().1.parse().unwrap();
            let before = last.insert(key(message), number);
            assert!(
                before.is_none_or(|before| before < number),
                "{id} after {before:?}"
            );
        }
    }
    messages.len() - ids.len()
}

/// Load during which something happens.
fn loaded(service: &Service, name: &str, happens: impl FnOnce()) -> Tally {
    let load = Load::start(service, name, 2, 50, 200);
    load.wait_for(2000);
    happens();
    load.wait_for(2000);
    load.stop()
}

#[test]
fn events_are_messages_with_key_headers_and_time_in_the_order_of_their_key() {
    let kafka = shared();
    kafka.create_topic("exact", 12, &[]);
    // Less room than a batch needs.
    let keys = ", options: { queue.buffering.max.messages: 20 }";
    let service = start(&config(&kafka, "exact", keys));
    let mut seed = TestSeed::new();
    let mut sent = Vec::new();
    for batch in 0..20 {
        let events: Vec<_> = (0..50)
            .map(|n| {
                let nanos = seed.below(1_000_000_000);
                let mut event = json!({
                    "id": format!("{batch}-{n}"),
                    "ts": format!("20{:02}-03-04T05:06:07.{nanos:09}Z", seed.below(27)),
                    "type": format!("t{}", seed.below(5)),
                    "schema_version": 1 + seed.below(300),
                    "payload": { "n": seed.below(1000), "text": "ü\n\u{1f600}" },
                });
                event["source"] = match seed.below(3) {
                    0 => json!(seed.below(u64::MAX)),
                    1 => json!(format!("door {}", seed.below(20))),
                    _ => json!(seed.below(20).to_string()),
                };
                if seed.below(2) == 0 {
                    event["partition_key"] = format!("key {}", seed.below(20)).into();
                }
                if seed.below(2) == 0 {
                    event["attributes"] = json!({ "b": "1", "a": "ä" });
                }
                event
            })
            .collect();
        given(&service, &events);
        sent.extend(events);
    }
    let messages = kafka.messages("exact");
    assert_eq!(messages.len(), sent.len());
    let mut by_id: HashMap<_, _> = messages.iter().map(|one| (one.header("id"), one)).collect();
    for event in &sent {
        let id = event["id"].as_str().unwrap();
        let message = by_id.remove(id).unwrap();
        let value = decode(message);
        let source = match &event["source"] {
            Value::String(name) => v1::event::Source::SourceName(name.clone()),
            number => v1::event::Source::SourceNumber(number.as_u64().unwrap()),
        };
        let ts: jiff::Timestamp = event["ts"].as_str().unwrap().parse().unwrap();
        let attributes: BTreeMap<String, String> =
            serde_json::from_value(event.get("attributes").cloned().unwrap_or(json!({}))).unwrap();
        let partition_key = event["partition_key"].as_str().unwrap_or_default();
        let expected = v1::Event {
            id: id.to_owned(),
            time_unix_nano: ts.as_nanosecond() as i64,
            r#type: event["type"].as_str().unwrap().to_owned(),
            schema_version: event["schema_version"].as_u64().unwrap() as u32,
            partition_key: partition_key.to_owned(),
            attributes: attributes.into_iter().collect(),
            payload: event["payload"].to_string().into_bytes().into(),
            received_unix_nano: value.received_unix_nano,
            source: Some(source),
        };
        assert_eq!(value, expected);
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let expected_key = match partition_key {
            "" => text(&event["source"]),
            key => key.to_owned(),
        };
        assert_eq!(key(message), expected_key);
        assert_eq!(message.timestamp, Some(ts.as_millisecond()));
        let headers: Vec<_> = message
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        assert_eq!(
            headers,
            [
                ("id", id.to_owned()),
                ("type", text(&event["type"])),
                ("schema_version", text(&event["schema_version"])),
                ("content-type", "application/x-protobuf".to_owned()),
            ]
        );
    }
    assert!(by_id.is_empty());
    // Messages come partition by partition: within one, each key must be in the order in which it was sent.
    let place: HashMap<_, _> = sent
        .iter()
        .map(|event| event["id"].as_str().unwrap())
        .zip(0..)
        .collect();
    let mut last = HashMap::<&str, i32>::new();
    let mut partition = HashMap::new();
    for message in &messages {
        let now = place[message.header("id")];
        let before = last.insert(key(message), now);
        assert!(before.is_none_or(|before| before < now));
        let there = *partition.entry(key(message)).or_insert(message.partition);
        assert_eq!(there, message.partition, "a key stays in its partition");
    }
    assert_books_balance(&service);
}

#[test]
fn keys_are_in_the_partitions_that_javas_producer_chooses_and_times_before_1970_are_its_first() {
    let kafka = shared();
    kafka.create_topic("murmur", 12, &[]);
    let service = start(&config(&kafka, "murmur", ", format: json"));
    // Hashes from the tests of Kafka's own `Utils.murmur2`.
    let known = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        (
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        ),
        ("abc", 479_470_107_i32),
    ];
    let mut events: Vec<_> = known
        .iter()
        .map(|(key, _)| json!({ "id": key, "ts": TS, "source": key, "payload": [1, "ü"] }))
        .collect();
    events.push(json!({ "id": "old", "ts": "1969-07-20T20:17:40Z", "attributes": { "a": "b" } }));
    given(&service, &events);
    let messages = kafka.messages("murmur");
    assert_eq!(messages.len(), events.len());
    for message in &messages {
        let value: Value = serde_json::from_slice(&message.value).unwrap();
        assert_eq!(value["id"], message.header("id"));
        assert_eq!(message.header("content-type"), "application/json");
        if message.header("id") == "old" {
            assert_eq!(message.timestamp, Some(1));
            assert_eq!(value["ts"], "1969-07-20T20:17:40Z");
            assert_eq!(
                (key(message), &value["attributes"]["a"]),
                ("unknown", &json!("b"))
            );
            continue;
        }
        assert_eq!(
            (&value["payload"], &value["ts"]),
            (&json!([1, "ü"]), &json!(TS))
        );
        let (_, hash) = known
            .iter()
            .find(|(known, _)| *known == key(message))
            .unwrap();
        assert_eq!(
            message.partition,
            (hash & i32::MAX) % 12,
            "{}",
            key(message)
        );
    }
}

#[test]
fn a_broker_that_is_killed_or_hangs_delays_its_route_and_nothing_is_lost_or_doubled() {
    let mut kafka = Kafka::start();
    kafka.create_topic("killed", 12, &[]);
    let service = start(&config(&kafka, "killed", ", timeout: 1s"));
    let mut all = loaded(&service, "before", || kafka.kill(0));
    assert_down(&service, "onnect");
    kafka.restart(0);
    settle(&service);
    all.add(loaded(&service, "hung", || kafka.hang(0)));
    assert_down(&service, "no answer within 1s");
    kafka.go_on(0);
    all.add(loaded(&service, "after", || ()));
    assert_eq!(all.statuses.keys().collect::<Vec<_>>(), [&202]);
    assert_eq!(assert_kept(&all, &service, &kafka, "killed"), 0);
    assert_eq!(service.get("/health").json()["status"], "healthy");
    // Once a change; a Java that has just come back may be away for a second more.
    let said = service.log().matches("the sink is down").count();
    assert!((2..=4).contains(&said), "once a change: {}", service.log());
}

#[test]
fn batches_that_are_given_up_are_dead_letters_and_do_not_stop_those_behind_them() {
    let kafka = Kafka::start();
    kafka.create_topic("given-up", 3, &[]);
    let config = config(&kafka, "given-up", ", timeout: 1s");
    let service = start(&config.replace("max: 200ms", "max: 200ms, attempts: 2"));
    let dead = || {
        let books = assert_books_balance(&service);
        books["routes"]["out"]["dead"].as_u64().unwrap()
    };
    given(&service, &[json!({ "id": "first", "ts": TS })]);
    // A Kafka that has just begun may be too slow for it.
    let before = dead();
    kafka.hang(0);
    for n in 0..3 {
        let event = json!({ "id": format!("given-up-{n}"), "ts": TS });
        given(&service, &[event]);
    }
    assert_eq!(dead(), before + 3);
    kafka.go_on(0);
    let events: Vec<_> = (0..200)
        .map(|n| json!({ "id": format!("behind-{n}"), "ts": TS, "source": n % 3 }))
        .collect();
    eventually(SOON, "Kafka answers again", || {
        given(&service, &[json!({ "id": "probe", "ts": TS })]);
        service.get("/health").json()["status"] == "healthy"
    });
    let before = dead();
    given(&service, &events);
    assert_eq!(dead(), before);
    let ids = ids(&kafka.messages("given-up"));
    for event in &events {
        assert_eq!(ids.get(event["id"].as_str().unwrap()), Some(&1));
    }
    assert!(ids.contains_key("first"));
}

#[test]
fn a_topic_that_is_missing_is_told_and_needs_no_restart_once_it_is_made() {
    let kafka = Kafka::builder()
        .property("auto.create.topics.enable=false")
        .start();
    let service = start(&config(&kafka, "missing", ", timeout: 2s"));
    let mut all = loaded(&service, "early", || ());
    assert_down(&service, "kafka topic `missing`: ");
    assert_down(&service, "nknown topic");
    kafka.create_topic("missing", 3, &[]);
    assert_eq!(assert_kept(&all, &service, &kafka, "missing"), 0);
    // Removed under us, and made again: what was in it is gone, what comes is there.
    kafka.delete_topic("missing");
    all.add(loaded(&service, "gone", || ()));
    assert_down(&service, "nknown");
    kafka.create_topic("missing", 5, &[]);
    let late = loaded(&service, "late", || ());
    settle(&service);
    let ids = ids(&kafka.messages("missing"));
    let missing = late.acknowledged.iter().filter(|id| !ids.contains_key(*id));
    assert_eq!(missing.count(), 0);
    all.add(late);
    all.assert_counted(&service);
}

#[test]
fn a_wrong_password_and_a_missing_right_are_told_in_kafkas_words() {
    let users = "org.apache.kafka.common.security.plain.PlainLoginModule required user_admin=\"right\" user_nobody=\"right\";";
    let kafka = Kafka::builder()
        .property("listener.security.protocol.map=CLIENTS:SASL_PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT")
        .property("sasl.enabled.mechanisms=PLAIN")
        .property(&format!("listener.name.clients.plain.sasl.jaas.config={users}"))
        .property("authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer")
        .property("super.users=User:ANONYMOUS;User:admin")
        .start();
    kafka.create_topic("guarded", 3, &[]);
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("password");
    let keys = |user: &str| {
        format!(
            ", timeout: 2s, options: {{ security.protocol: sasl_plaintext, sasl.mechanism: PLAIN,
               sasl.username: {user}, sasl.password_file: {file:?} }}"
        )
    };
    std::fs::write(&file, "wrong\n").unwrap();
    let mut service = start(&config(&kafka, "guarded", &keys("nobody")));
    let all = loaded(&service, "guarded", || ());
    assert_down(&service, "uthentication failed");
    std::fs::write(&file, "right\n").unwrap();
    assert_down(&service, "uthorization failed");
    service.kill();
    service.set_config(&config(&kafka, "guarded", &keys("admin")));
    service.restart();
    assert_eq!(assert_kept(&all, &service, &kafka, "guarded"), 0);
    assert!(!service.log().contains("right"), "no secret in the log");
}

#[test]
fn wrong_settings_are_named_by_check_and_no_secret_is_shown() {
    let check = |keys: &str| {
        let config = format!("routes: [ {{ name: out, sink: {{ kind: kafka, {keys} }} }} ]");
        service().config(&config).run(&["check"])
    };
    let right = check(
        "brokers: [a:9092, b], topic: t, options: { linger.ms: 5, compression.type: lz4, acks: all,
         security.protocol: sasl_plaintext, sasl.mechanism: PLAIN, sasl.username: me, sasl.password: hunter2 }",
    );
    assert_eq!(right.code, Some(0), "{right:?}");
    assert!(
        !right.stdout.contains("hunter2") && right.stdout.contains("lz4"),
        "{right:?}"
    );
    for (keys, words) in [
        ("topic: t", "`brokers` is missing"),
        (
            "brokers: 'http://a:1', topic: t",
            "`brokers`: `http://a:1` is not `host` or `host:port`",
        ),
        ("brokers: 'a,b:x', topic: t", "`brokers`: `b:x`"),
        ("brokers: a", "`topic` is missing"),
        ("brokers: a, topic: 'a b'", "`topic`: `a b` is no name"),
        (
            "brokers: a, topic: t, format: xml",
            "expected `protobuf` or `json`",
        ),
        ("brokers: a, topic: t, timeout: 0s", "`timeout` must be"),
        (
            "brokers: a, topic: t, options: { acks: 1 }",
            "`options.acks`: it can only be `all`",
        ),
        (
            "brokers: a, topic: t, options: { enable.idempotence: false }",
            "`options.enable.idempotence`",
        ),
        (
            "brokers: a, topic: t, options: { delivery.timeout.ms: 5 }",
            "`options.delivery.timeout.ms`: it cannot be set",
        ),
        (
            "brokers: a, topic: t, options: { security.protocol: SASL_SSL }",
            "`options.sasl.mechanism` is missing",
        ),
        (
            "brokers: a, topic: t, options: { ssl.ca.location: x }",
            "must be `ssl` or `sasl_ssl`",
        ),
        (
            "brokers: a, topic: t, options: { lingerms: 5 }",
            "No such configuration property",
        ),
        (
            "brokers: a, topic: t, options: { linger.ms: soon }",
            "`options.linger.ms`: ",
        ),
        (
            "brokers: a, topic: t, options: { linger.ms: [1] }",
            "it is of type array",
        ),
        (
            "brokers: a, topic: t, options: { max.in.flight: 6 }",
            "`options`: `max.in.flight`",
        ),
        (
            "brokers: a, topic: t, options: { sasl.mechanism: GSSAPI }",
            "it must be one of PLAIN",
        ),
        (
            "brokers: a, topic: t, options: { sasl.password_file: /no/such }",
            "`sasl.password_file`: /no/such",
        ),
    ] {
        let wrong = check(keys);
        assert_eq!(wrong.code, Some(2), "{keys}: {wrong:?}");
        assert!(wrong.stderr.contains(words), "{words} in {wrong:?}");
    }
    // Each mistake by itself.
    let wrong = check("brokers: a, topic: '', timeout: 1h, options: { acks: 0, x: 1 }");
    for key in ["`topic`", "`timeout`", "`options.acks`", "`options.x`"] {
        assert!(wrong.stderr.contains(key), "{key} in {wrong:?}");
    }
}

#[test]
fn a_broker_of_three_may_be_killed_under_load() {
    let mut kafka = Kafka::builder().brokers(3).start();
    kafka.create_topic("three", 12, &[]);
    let service = start(&config(&kafka, "three", ""));
    let mut all = loaded(&service, "first", || kafka.kill(1));
    all.add(loaded(&service, "second", || ()));
    settle(&service);
    kafka.restart(1);
    all.add(loaded(&service, "third", || ()));
    assert_eq!(assert_kept(&all, &service, &kafka, "three"), 0);
}

#[test]
fn a_service_that_is_killed_in_the_middle_loses_nothing_and_doubles_keep_their_id() {
    let kafka = shared();
    kafka.create_topic("service-killed", 12, &[]);
    let mut service = start(&config(&kafka, "service-killed", ""));
    let all = kill_under_load(&mut service);
    assert_kept(&all, &service, &kafka, "service-killed");
}

/// Text that does not shrink when it is compressed.
fn noise(seed: &mut TestSeed, bytes: usize) -> String {
    let letters = (0..bytes).map(|_| char::from(b'!' + seed.below(90) as u8));
    letters.filter(|c| !matches!(c, '"' | '\\')).collect()
}

#[test]
fn a_topic_that_takes_only_small_batches_gets_them() {
    let kafka = shared();
    kafka.create_topic("small", 1, &[("max.message.bytes", "4000")]);
    let service = start(&config(&kafka, "small", ""));
    let mut seed = TestSeed::new();
    for batch in 0..8 {
        let events: Vec<_> = (0..50)
            .map(|n| {
                let id = format!("e-{}", batch * 50 + n);
                json!({ "id": id, "ts": TS, "payload": noise(&mut seed, 200) })
            })
            .collect();
        given(&service, &events);
    }
    let messages = kafka.messages("small");
    let ids: Vec<_> = messages
        .iter()
        .map(|message| message.header("id"))
        .collect();
    let expected: Vec<_> = (0..400).map(|n| format!("e-{n}")).collect();
    assert_eq!(ids, expected);
    assert_eq!(assert_books_balance(&service)["routes"]["out"]["dead"], 0);
    let said = service.log().matches("smaller ones are sent").count();
    assert!(
        (1..8).contains(&said),
        "until they are small enough: {said}"
    );
}

#[test]
fn what_kafka_refuses_is_a_dead_letter_in_its_words_and_the_rest_is_there_once_and_in_order() {
    let kafka = shared();
    kafka.create_topic(
        "refusing",
        2,
        &[
            ("max.message.bytes", "20000"),
            ("message.timestamp.before.max.ms", "315360000000"),
        ],
    );
    let service = start(&config(
        &kafka,
        "refusing",
        ", options: { message.max.bytes: 100000 }",
    ));
    let mut seed = TestSeed::new();
    let events: Vec<_> = (0..300)
        .map(|n| {
            let (ts, bytes) = match n {
                30 | 200 => (TS, 50_000),
                100 => (TS, 120_000),
                150 => ("2001-01-01T00:00:00Z", 10),
                _ => (TS, 100),
            };
            json!({ "id": format!("e-{n}"), "ts": ts, "source": format!("s{}", n % 3), "payload": noise(&mut seed, bytes) })
        })
        .collect();
    given(&service, &events);
    let messages = kafka.messages("refusing");
    let ids = ids(&messages);
    assert_eq!((messages.len(), ids.len()), (296, 296));
    let mut last = HashMap::<&str, u64>::new();
    for message in &messages {
        let number = message
            .header("id")
            .strip_prefix("e-")
            .unwrap()
            .parse()
            .unwrap();
        let before = last.insert(key(message), number);
        assert!(before.is_none_or(|before| before < number));
    }
    let letters = |service: &Service| {
        let shown = service.run(&["dead-letters", "list", "--stage", "delivery", "--json"]);
        serde_json::from_str::<Value>(&shown.stdout).unwrap()
    };
    let shown = letters(&service);
    assert_eq!(shown["count"], 4, "{shown}");
    for words in [
        "message_too_large",
        "Message size too large",
        "invalid_timestamp",
        "imestamp",
    ] {
        assert!(shown.to_string().contains(words), "{words} in {shown}");
    }
    assert_eq!(assert_books_balance(&service)["routes"]["out"]["dead"], 4);
    // Sent again they are refused again, and nothing else is sent.
    let again = service.run(&["dead-letters", "redrive", "--all", "--wait"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert_eq!(letters(&service)["count"], 4);
    // What comes after them is delivered as before, also a replay, in which all is refused again.
    given(&service, &[json!({ "id": "after", "ts": TS })]);
    assert_eq!(kafka.messages("refusing").len(), 297);
    let replayed = service.run(&["replay", "--route", "out", "--from", "0"]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let messages = kafka.messages("refusing");
    assert_eq!((messages.len(), self::ids(&messages).len()), (2 * 297, 297));
    assert_books_balance(&service);
}
