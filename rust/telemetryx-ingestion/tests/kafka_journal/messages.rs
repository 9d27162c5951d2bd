//! An event as a message, and a message as an event; ranges and times.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use telemetryx_common::{Event, Source, Timestamp, wire};
use telemetryx_ingestion::clock;
use telemetryx_ingestion::journal::{AppendError, EncodedBatch, Journal};
use telemetryx_testkit::eventually_some;

use crate::world::{LIMIT, SOON, World, batch, ids, numbered};

#[test]
fn an_append_is_where_it_says_with_key_headers_and_value() {
    let world = World::shared();
    for (topic, keys, kind) in [
        ("there.protobuf", "", "application/x-protobuf"),
        ("there.json", "format = 'json'", "application/json"),
    ] {
        let journal = world.open(topic, keys);
        assert!(
            journal.status().warnings.is_empty(),
            "{:?}",
            journal.status()
        );
        let position = world.wait(journal.append(numbered("a", 0, 500))).unwrap();
        assert_eq!(position.events(), 500);
        assert!(position.ranges.len() <= 12, "{position:?}");
        let messages = world.kafka.messages(topic);
        assert_eq!(messages.len(), 500);
        for message in &messages {
            let number: usize = message
                .header("event_id")
                .trim_start_matches("a-")
                .parse()
                .unwrap();
            let key = format!("a-s{}", number % 20);
            assert_eq!(message.key.as_deref(), Some(key.as_bytes()));
            assert_eq!(message.header("content-type"), kind);
            assert_eq!(
                (message.header("type"), message.header("schema_version")),
                ("event", "1")
            );
        }
        // Read back, in both forms the event that was accepted.
        for range in &position.ranges {
            let scanned = journal.scan(range.partition, range.first, range.end(), LIMIT);
            let read = world.wait(scanned).unwrap();
            assert_eq!(read.events(), u64::from(range.events.min(100)));
            for (offset, id) in ids(&read) {
                let same = |one: &&telemetryx_testkit::KafkaMessage| {
                    (one.partition as u32, one.offset as u64) == (range.partition, offset)
                };
                assert_eq!(messages.iter().find(same).unwrap().header("event_id"), id);
            }
            let event = wire::events(&read.slices[0].body).next().unwrap().unwrap();
            assert!(
                event.received_at > event.ts,
                "the moment of acceptance is kept"
            );
            assert!(event.payload.starts_with(r#"{"n": "#));
        }
        world.wait(journal.refresh()).unwrap();
        let held: u64 = journal.extents().iter().map(|extent| extent.end).sum();
        assert_eq!((held, journal.backlog().events), (500, 500));
        world.wait(journal.close());
        let closed = world.wait(journal.append(numbered("a", 0, 1)));
        assert!(matches!(closed, Err(AppendError::Closed)));
    }
}

#[test]
fn the_key_is_the_partition_key_and_a_trace_is_continued_in_a_header() {
    let world = World::shared();
    let journal = world.open("traced", "partitions = 1");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut event = Event::new(clock::now());
    event.source = Source::Name("door".into());
    event.partition_key = Some("house".into());
    event.attributes = vec![("traceparent".into(), parent.into())];
    let mut body = Vec::new();
    wire::encode_event(&event, "traced", &mut body);
    let batch = EncodedBatch {
        body: body.into(),
        ..batch([("door", "traced".to_owned())])
    };
    world.wait(journal.append(batch)).unwrap();
    let messages = world.kafka.messages("traced");
    assert_eq!(messages[0].key.as_deref(), Some(&b"house"[..]));
    assert_eq!(messages[0].header("traceparent"), parent);
    let names: Vec<_> = messages[0].headers.iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "event_id",
            "type",
            "schema_version",
            "content-type",
            "traceparent"
        ]
    );
}

#[test]
fn a_scan_reads_any_range_and_a_time_is_found_again() {
    let world = World::shared();
    let journal = world.open("scanned", "partitions = 2");
    let of_one = |from: usize| batch((from..from + 300).map(|n| ("s", format!("x-{n}"))));
    let first = world.wait(journal.append(of_one(0))).unwrap();
    let partition = first.ranges[0].partition;
    let between = eventually_some(SOON, "a millisecond has passed", || {
        let now = clock::now();
        std::thread::sleep(Duration::from_millis(20));
        Some(Timestamp::from_unix_nanos(now.unix_nanos() + 10_000_000))
    });
    world.wait(journal.append(of_one(300))).unwrap();
    let at = |time| world.wait(journal.offset_at(partition, time)).unwrap();
    assert_eq!(at(Timestamp::UNIX_EPOCH), 0);
    assert_eq!(at(between), 300);
    let later = Timestamp::from_unix_nanos(clock::now().unix_nanos() + 3_600_000_000_000);
    assert_eq!(at(later), 600);
    // In parts, each where the last one ended.
    let (mut next, mut found) = (50, Vec::new());
    while next < 550 {
        let part = world
            .wait(journal.scan(partition, next, 550, LIMIT))
            .unwrap();
        assert!((1..=100).contains(&part.events()), "{part:?}");
        found.extend(ids(&part));
        next = part.end;
    }
    let expected: Vec<_> = (50..550).map(|n| (n, format!("x-{n}"))).collect();
    assert_eq!(found, expected);
    let again = world.wait(journal.scan(partition, 7, 9, LIMIT)).unwrap();
    assert_eq!(ids(&again), [(7, "x-7".to_owned()), (8, "x-8".to_owned())]);
}

#[test]
fn what_others_wrote_is_read_or_unreadable_and_stops_nothing() {
    let world = World::shared();
    let journal = world.open("foreign", "partitions = 1");
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", world.kafka.brokers());
    let producer: BaseProducer = client.create().unwrap();
    let values = [
        Some(&b"no event"[..]),
        Some(br#"{"ts":"2026-01-02T03:04:05Z","type":"by.hand"}"#),
        None,
        Some(b"{}"),
    ];
    for value in values {
        let record = BaseRecord::<[u8], [u8]>::to("foreign").key(b"k");
        let record = value.into_iter().fold(record, BaseRecord::payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(SOON).unwrap();
    world.wait(journal.append(numbered("a", 0, 3))).unwrap();
    let mut part = world.first_part(&journal);
    let delivery = world.wait(async {
        let mut delivery = part.subscription.next(LIMIT).await.unwrap();
        while delivery.end < 7 {
            let more = part.subscription.next(LIMIT).await.unwrap();
            more.slices
                .into_iter()
                .for_each(|slice| delivery.push(slice));
        }
        delivery
    });
    assert_eq!((delivery.first, delivery.end, delivery.missing), (0, 7, 0));
    let mut unreadable = Vec::new();
    let cause = telemetryx_ingestion::route::Cause::Replay;
    let batch = delivery.decode(cause, Timestamp::UNIX_EPOCH, |offset, _| {
        unreadable.push(offset)
    });
    assert_eq!(unreadable, [0, 2, 3]);
    let names: Vec<_> = batch
        .events()
        .iter()
        .map(|event| event.id.to_string())
        .collect();
    assert_eq!(names, ["foreign-0-1", "a-0", "a-1", "a-2"]);
    assert!(delivery.encoded(0).unwrap().ends_with(b"no event"));
}
