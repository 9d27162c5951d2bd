//! What all processes know alike, through an outage.

use std::sync::{Arc, Mutex};

use telemetryx_ingestion::journal::{Journal, TableChange};
use telemetryx_testkit::{Kafka, eventually, eventually_some};

use crate::world::{SOON, World};

#[test]
fn a_table_is_told_alike_to_all_in_one_order_and_outlives_an_outage() {
    let world = World::of(Kafka::start());
    let journals: Vec<_> = (0..2).map(|_| world.open("tabled", "")).collect();
    let tables: Vec<_> = journals
        .iter()
        .map(|journal| journal.table().unwrap())
        .collect();
    let World { mut kafka, runtime } = world;
    let put = |table: usize, name: &str, value: Option<&str>| {
        let value = value.map(|text| bytes::Bytes::copy_from_slice(text.as_bytes()));
        runtime.block_on(tables[table].put(vec![(name.to_owned(), value)]))
    };
    put(0, "a", Some("1")).unwrap();
    put(1, "b", Some("2")).unwrap();
    type Told = Arc<Mutex<Vec<TableChange>>>;
    let told = [Told::default(), Told::default()];
    let following: Vec<_> = tables
        .iter()
        .zip(&told)
        .map(|(table, told)| {
            let told = Arc::clone(told);
            let on = move |change| told.lock().unwrap().push(change);
            table.follow(Box::new(on)).unwrap()
        })
        .collect();
    let has = |told: &Told, change: &TableChange| told.lock().unwrap().contains(change);
    eventually(SOON, "both are up to date", || {
        told.iter().all(|told| has(told, &TableChange::UpToDate))
    });
    let kafka = Arc::get_mut(&mut kafka).unwrap();
    kafka.kill(0);
    kafka.restart(0);
    eventually(SOON, "it is written again", || {
        put(0, "c", Some("3")).is_ok()
    });
    // The other process sees for itself that Kafka is back.
    let last = eventually_some(SOON, "it is removed", || put(1, "a", None).ok());
    let removed = TableChange::Value {
        sequence: last,
        name: "a".to_owned(),
        value: None,
    };
    eventually(SOON, "both know the last", || {
        told.iter().all(|told| has(told, &removed))
    });
    let values = |told: &Told| {
        let told = told.lock().unwrap();
        let values = told
            .iter()
            .filter(|change| **change != TableChange::UpToDate);
        values.cloned().collect::<Vec<_>>()
    };
    assert_eq!(values(&told[0]), values(&told[1]));
    assert_eq!(
        told[0]
            .lock()
            .unwrap()
            .iter()
            .filter(|change| **change == TableChange::UpToDate)
            .count(),
        1
    );
    drop(following);
}
