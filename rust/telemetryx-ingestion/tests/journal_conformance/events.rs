//! Events that know their place in the order of their key, and what was read of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use telemetryx_common::{Event, EventType, wire};
use telemetryx_ingestion::clock;
use telemetryx_ingestion::journal::{Delivery, EncodedBatch};

/// The id of the event at this place of this key.
pub(crate) fn id_of(key: &str, place: u64) -> String {
    format!("{key}:{place:06}")
}

/// The event at this place of this key, accepted now.
pub(crate) fn event(key: &str, place: u64) -> Event<'static> {
    let now = clock::now();
    Event {
        id: Cow::Owned(id_of(key, place)),
        event_type: EventType::from_name(Cow::Borrowed("step")),
        partition_key: Some(Cow::Owned(key.to_owned())),
        payload: Cow::Owned(format!(r#"{{"place":{place}}}"#)),
        received_at: now,
        ..Event::new(now)
    }
}

/// What `append` takes.
pub(crate) fn encoded(events: &[Event<'_>]) -> EncodedBatch {
    let mut body = Vec::new();
    for event in events {
        wire::encode_event(event, &event.id, &mut body);
    }
    EncodedBatch {
        body: body.into(),
        events: u32::try_from(events.len()).unwrap(),
        earliest: events.iter().map(|event| event.ts).min().unwrap(),
        latest: events.iter().map(|event| event.ts).max().unwrap(),
        is_own: false,
    }
}

/// Makes events of several keys, each in its order.
#[derive(Debug, Default, Clone)]
pub(crate) struct Maker {
    places: BTreeMap<String, u64>,
}

impl Maker {
    /// The next event of this key.
    pub(crate) fn next(&mut self, key: &str) -> Event<'static> {
        let place = self.places.entry(key.to_owned()).or_insert(0);
        *place += 1;
        event(key, *place - 1)
    }

    /// So many events, the keys in turn.
    pub(crate) fn batch(&mut self, keys: &[impl AsRef<str>], events: usize) -> Vec<Event<'static>> {
        let keys = keys.iter().map(AsRef::as_ref).cycle();
        keys.take(events).map(|key| self.next(key)).collect()
    }
}

/// The ids of events.
pub(crate) fn ids(events: &[Event<'_>]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

/// An event that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) id: String,
}

/// The events of a delivery, which says of itself what is true.
#[track_caller]
pub(crate) fn decoded(delivery: &Delivery) -> Vec<Got> {
    let mut got = Vec::new();
    let mut at = delivery.first;
    for slice in &delivery.slices {
        assert!(slice.first >= at, "slices are in order: {delivery:?}");
        assert!(slice.events > 0, "no slice is empty: {delivery:?}");
        at = slice.first;
        for event in wire::events(&slice.body) {
            let event = event.expect("what was appended can be read");
            got.push(Got {
                partition: delivery.partition,
                offset: at,
                id: event.id.into_owned(),
            });
            at += 1;
        }
        assert_eq!(at, slice.first + u64::from(slice.events), "{delivery:?}");
    }
    assert!(at <= delivery.end, "{delivery:?}");
    let bytes: usize = delivery.slices.iter().map(|slice| slice.body.len()).sum();
    assert_eq!(bytes, delivery.bytes, "{delivery:?}");
    assert_eq!(delivery.events(), got.len() as u64, "{delivery:?}");
    got
}

/// Each of these ids was read, and each once; nothing else was.
#[track_caller]
pub(crate) fn assert_exactly(got: &[Got], ids: impl IntoIterator<Item = impl AsRef<str>>) {
    let wanted: BTreeSet<String> = ids.into_iter().map(|id| id.as_ref().to_owned()).collect();
    let found: BTreeSet<String> = got.iter().map(|got| got.id.clone()).collect();
    let missing: Vec<_> = wanted.difference(&found).take(5).collect();
    let strange: Vec<_> = found.difference(&wanted).take(5).collect();
    assert!(
        missing.is_empty() && strange.is_empty(),
        "of {} missing: {missing:?} …, not sent: {strange:?} …",
        wanted.len()
    );
    assert_eq!(got.len(), found.len(), "an event is there twice");
}

/// Every key lies in one partition, and there in the order of its places; offsets rise.
#[track_caller]
pub(crate) fn assert_in_order(got: &[Got]) {
    let mut offsets = BTreeMap::new();
    let mut keys: BTreeMap<&str, (u32, u64)> = BTreeMap::new();
    for got in got {
        if let Some(before) = offsets.insert(got.partition, got.offset) {
            assert!(before < got.offset, "{got:?} comes after offset {before}");
        }
        let (key, place) = got.id.rsplit_once(':').unwrap();
        let place = place.parse().unwrap();
        if let Some((partition, before)) = keys.insert(key, (got.partition, place)) {
            assert_eq!(partition, got.partition, "key {key} is in two partitions");
            assert!(before < place, "{got:?} comes after place {before}");
        }
    }
}
