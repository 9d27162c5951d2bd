//! Topics that are not as they should be, lose events, are made anew.

use std::collections::{HashMap, HashSet};

use rdkafka::admin::AdminOptions;
use rdkafka::{Offset, TopicPartitionList};
use telemetryx_ingestion::journal::{Journal, JournalError};
use telemetryx_testkit::eventually;

use crate::appending::{Appending, BATCH, assert_there};
use crate::reading::{Reading, all_read};
use crate::world::{LIMIT, Part, SOON, World, batch, numbered};

#[test]
fn events_that_retention_took_are_missing_and_said_to_be() {
    let world = World::shared();
    let journal = world.open("retention", "partitions = 1");
    world.wait(journal.append(numbered("a", 0, 300))).unwrap();
    let delete_to = |to: i64| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("retention", 0, Offset::Offset(to))
            .unwrap();
        let admin = world.admin();
        let done = world.wait(admin.delete_records(&list, &AdminOptions::new()));
        done.unwrap();
    };
    let Part {
        assignment,
        mut subscription,
        assignments: _kept,
    } = world.first_part(&journal);
    world.wait(async {
        let delivery = subscription.next(LIMIT).await.unwrap();
        assert_eq!(
            (delivery.first, delivery.end, delivery.missing),
            (0, 100, 0)
        );
        subscription.commit(delivery.id(), b"state").await.unwrap();
    });
    let too_much = world.wait(subscription.commit(
        telemetryx_ingestion::journal::DeliveryId(100),
        &[b'x'; 5000],
    ));
    assert!(
        matches!(too_much, Err(JournalError::StateTooLarge { .. })),
        "{too_much:?}"
    );
    drop(subscription);
    // In the middle of what is not read yet, and then of all there is.
    delete_to(250);
    eventually(SOON, "it is seen", || {
        world.wait(journal.refresh()).unwrap();
        journal.extents()[0].start == 250
    });
    let mut subscription = world.wait(assignment.open()).unwrap();
    assert_eq!(
        (subscription.position(), subscription.state()),
        (100, &b"state"[..])
    );
    let (mut missing, mut events, mut gaps) = (0, 0, Vec::new());
    while missing + events < 200 {
        let delivery = world.wait(subscription.next(LIMIT)).unwrap();
        missing += delivery.missing;
        events += delivery.events();
        gaps.extend(delivery.gaps.clone());
        world
            .wait(subscription.commit(delivery.id(), b"more"))
            .unwrap();
    }
    assert_eq!((missing, events), (150, 50), "{gaps:?}");
    assert!(
        gaps[0].contains("removed before this route came to them"),
        "{gaps:?}"
    );
    world.wait(journal.append(numbered("a", 300, 10))).unwrap();
    drop(subscription);
    delete_to(310);
    let mut subscription = world.wait(assignment.open()).unwrap();
    // There is nothing that could be read behind them.
    let delivery = world.wait(subscription.next(LIMIT)).unwrap();
    assert_eq!(
        (delivery.first, delivery.end, delivery.missing),
        (300, 310, 10)
    );
    world.wait(journal.append(numbered("a", 310, 10))).unwrap();
    let delivery = world.wait(subscription.next(LIMIT)).unwrap();
    assert_eq!((delivery.first, delivery.missing), (310, 0));
}

#[test]
fn a_topic_that_is_not_as_it_should_be_is_said_at_the_start() {
    let world = World::shared();
    let settings = [
        ("cleanup.policy", "compact"),
        ("min.insync.replicas", "1"),
        ("retention.ms", "600000"),
        ("max.message.bytes", "4000"),
    ];
    world.kafka.create_topic("other", 3, &settings);
    let keys = "replication_factor = 3\nmin_insync_replicas = 2";
    let journal = world.open_anyhow("other", keys);
    // The control topic cannot be made so: one broker is not three.
    let status = journal.status();
    assert!(status.reason.unwrap().contains("other.control"));
    let journal = world.open("other", "min_insync_replicas = 1");
    let warnings = journal.status().warnings.join("\n");
    for words in [
        "has 3 partitions",
        "is compacted",
        "keeps events for 600 s only",
        "takes messages of at most 4000 bytes",
        "message.timestamp.type `CreateTime`",
    ] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
    assert!(!warnings.contains("control"), "{warnings}");
    assert_eq!(journal.extents().len(), 3);
    world
        .kafka
        .create_topic("weak", 12, &[("min.insync.replicas", "1")]);
    world
        .kafka
        .create_topic("weak.control", 1, &[("cleanup.policy", "delete")]);
    let journal = world.open("weak", keys);
    let warnings = journal.status().warnings.join("\n");
    for words in [
        "too few min.insync.replicas: 1 instead of 2",
        "has 1 replicas",
        "topic `weak.control` has cleanup.policy `delete`",
    ] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
}

#[test]
fn an_event_larger_than_the_topic_takes_is_refused_with_the_limit() {
    let world = World::shared();
    world
        .kafka
        .create_topic("tight", 1, &[("max.message.bytes", "4000")]);
    let journal = world.open("tight", "partitions = 1");
    let large = batch([("small", "a".to_owned()), ("large", "b".repeat(5000))]);
    let refused = world.wait(journal.append(large)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "an event, as a message of Kafka with its headers, is over the limit of 4000 bytes (max.message.bytes of topic `tight`)"
    );
    let appended = world.wait(journal.append(numbered("a", 0, 3))).unwrap();
    assert_eq!(appended.ranges[0].first, 0, "nothing of the other is there");
}

#[test]
fn a_topic_keeps_its_name_and_one_made_anew_has_another() {
    let world = World::shared();
    let first = world.open("named", "partitions = 2");
    let second = world.open("named", "partitions = 2");
    let name = first.identity();
    assert_ne!(name, 0);
    assert_eq!(second.identity(), name);
    world.wait(second.append(numbered("a", 0, 10))).unwrap();
    world.wait(async { tokio::join!(first.close(), second.close()) });
    let again = world.open("named", "partitions = 2");
    assert_eq!(again.identity(), name);
    world.wait(again.close());
    world.kafka.delete_topic("named");
    let anew = world.open_anyhow("named", "partitions = 2");
    eventually(SOON, "it is made anew, with another name", || {
        ![0, name].contains(&anew.identity()) && anew.status().is_ok()
    });
    let position = world.wait(anew.append(numbered("b", 0, 10))).unwrap();
    assert_eq!(position.ranges[0].first, 0);
    // The same before the eyes of one who goes on.
    let name = anew.identity();
    world.kafka.delete_topic("named");
    eventually(SOON, "it has another name again", || {
        ![0, name].contains(&anew.identity()) && anew.status().is_ok()
    });
    world.wait(anew.append(numbered("c", 0, 10))).unwrap();
}

#[test]
fn a_topic_that_is_deleted_under_load_is_made_anew_and_read_from_its_beginning() {
    let world = World::shared();
    let journal = world.open("torn", "partitions = 3");
    let other = world.open("torn", "partitions = 3");
    // As every service does; so they hear of names that others claim.
    let _following = [&journal, &other].map(|journal| {
        let table = journal.table().unwrap();
        table.follow(Box::new(|_| {})).unwrap()
    });
    let reading = Reading::start(&world, &journal);
    let appending = Appending::start(&world, &journal, "torn");
    for _ in 0..3 {
        appending.wait_for(20);
        eventually(SOON, "it is read", || reading.count() > 10 * BATCH);
        let name = journal.identity();
        world.kafka.delete_topic("torn");
        // Filled again before anybody looked.
        world.kafka.create_topic("torn", 3, &[]);
        eventually(SOON, "it is another one, and the same for both", || {
            let identity = journal.identity();
            ![0, name].contains(&identity)
                && other.identity() == identity
                && [&journal, &other].iter().all(|it| it.status().is_ok())
        });
    }
    let before = appending.acknowledged();
    appending.wait_for(20);
    let mut appended = appending.stop(&world);
    // What was acknowledged before may have gone with a topic of before.
    appended.acknowledged.drain(..before);
    assert_there(&world, "torn", "torn", &appended);
    all_read(&world, &journal);
    world.wait(journal.refresh()).unwrap();
    let messages = world.kafka.messages("torn");
    let places: HashMap<_, _> = messages
        .iter()
        .map(|it| {
            let place = (it.partition as u32, it.offset as u64);
            (it.header("event_id").to_owned(), place)
        })
        .collect();
    assert_eq!(places.len(), messages.len(), "each is there once");
    let mut read = reading.seen.lock().unwrap().clone();
    read.retain(|(.., id)| places.contains_key(id));
    for (partition, offset, id) in &read {
        assert_eq!(places[id], (*partition, *offset), "{id}");
    }
    // Some of them again: those that came before it was known that the topic is another one.
    let ids: HashSet<_> = read.iter().map(|(.., id)| id).collect();
    assert_eq!(ids.len(), places.len(), "each is read");
    // What is saved with the position counts each once.
    for committed in journal.commits("r") {
        assert_eq!(committed.state, committed.position.to_string());
    }
    world.wait(reading.stop());
}
