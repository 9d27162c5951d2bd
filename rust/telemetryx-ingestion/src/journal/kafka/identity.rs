//! A name for the topic that no other has, nor one made anew under the same name.
//!
//! The processes agree on one by records of the control topic:
//!
//! ```text
//! journal/identity/<generation>/<name>   claims the name; of one generation, the first claim holds
//! journal/topic/<generation>/<id>        it is the name of the topic to which Kafka gave this id; the first holds
//! journal/used/<generation>              there are events under that name; written before the first is acknowledged
//! ```
//!
//! (`journal/probe` and `journal/spill/…` are the engine's as well, and others' business.)
//!
//! A topic with another id is another one: its processes claim a name of the next generation. Kafka's id alone would not do:
//! brokers before Kafka 2.8 tell none, and a topic whose brokers lost what they had acknowledged has the same, though other
//! events will have the offsets of those that are lost. So one that holds nothing at all, and never did, though events are
//! known under its name, has another name, too. Retention takes events and leaves offsets, so it is not mistaken for that.

use uuid::Uuid;

/// What the names of the engine's own records begin with.
pub(super) const OWN: &str = "journal/";

/// The name that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) generation: u64,
    pub(super) name: u128,
    /// What Kafka calls the topic, if it was ever told.
    pub(super) topic: Option<u128>,
    pub(super) used: bool,
}

/// The topic as it is found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// What Kafka calls it, if the brokers tell.
    pub(super) topic: Option<u128>,
    /// There are events in it, or were.
    pub(super) written: bool,
}

impl Found {
    /// It does not look like the one of that name.
    pub(super) fn is_another_than(&self, identity: &Identity) -> bool {
        let differ = |(of_name, found)| of_name != found;
        identity.used && !self.written || identity.topic.zip(self.topic).is_some_and(differ)
    }
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is known.
    Take(Identity),
    /// Write these records, and look again.
    Write(Vec<String>),
}

/// A record of the control topic about names.
struct Record<'r> {
    kind: &'r str,
    generation: u64,
    /// The name that is claimed, or the id.
    number: Option<u128>,
}

impl<'r> Record<'r> {
    fn read(record: &'r str) -> Option<Self> {
        let mut parts = record.strip_prefix(OWN)?.split('/');
        let (kind, generation) = (parts.next()?, parts.next()?.parse().ok()?);
        let number = parts.next();
        Some(Self {
            kind,
            generation,
            number: number.and_then(|text| u128::from_str_radix(text, 16).ok()),
        })
    }
}

/// The name that the records of the control topic, in their order, agree on.
pub(super) fn agreed<'r>(records: impl Iterator<Item = &'r str>) -> Option<Identity> {
    let mut agreed: Option<Identity> = None;
    for record in records.filter_map(Record::read) {
        let Record {
            kind,
            generation,
            number,
        } = record;
        match (kind, &mut agreed) {
            ("identity", before) => {
                let is_later = before.is_none_or(|before| before.generation < generation);
                if let Some(name) = number.filter(|_| is_later) {
                    *before = Some(Identity {
                        generation,
                        name,
                        topic: None,
                        used: false,
                    });
                }
            }
            ("topic", Some(agreed)) if agreed.generation == generation => {
                agreed.topic = agreed.topic.or(number);
            }
            ("used", Some(agreed)) if agreed.generation == generation => agreed.used = true,
            _ => {}
        }
    }
    agreed
}

/// The generation that a name is claimed of by this record, if it is one that claims.
pub(super) fn claimed(record: &str) -> Option<u64> {
    let record = Record::read(record)?;
    (record.kind == "identity" && record.number.is_some()).then_some(record.generation)
}

/// True if a topic of that id was there before the one of the name that holds. Kafka gives no id twice, so whoever tells of it
/// has not heard of the newer one.
pub(super) fn is_of_former<'r>(
    mut records: impl Iterator<Item = &'r str>,
    agreed: &Identity,
    id: u128,
) -> bool {
    let is_former = |record: Record<'_>| {
        record.kind == "topic" && record.generation < agreed.generation && record.number == Some(id)
    };
    agreed.topic.is_some_and(|topic| topic != id)
        && records.any(|record| Record::read(record).is_some_and(is_former))
}

/// What is to be done by one who found the topic so, and knows (`former`) that the topic of that name is gone.
pub(super) fn next(agreed: Option<Identity>, found: Found, former: Option<u128>) -> Next {
    let topic = |generation: u64| {
        let id = found.topic;
        id.map(|id| format!("{OWN}topic/{generation}/{id:032x}"))
    };
    let claim = |generation: u64| {
        let name = Uuid::now_v7().as_u128();
        let mut records = vec![format!("{OWN}identity/{generation}/{name:032x}")];
        records.extend(topic(generation));
        records.extend(found.written.then(|| used(generation)));
        Next::Write(records)
    };
    let Some(identity) = agreed else {
        return claim(1);
    };
    let generation = identity.generation;
    if former == Some(identity.name) || found.is_another_than(&identity) {
        return claim(generation + 1);
    }
    let is_new = identity.topic.is_none();
    let mut records: Vec<_> = is_new
        .then(|| topic(generation))
        .flatten()
        .into_iter()
        .collect();
    records.extend((found.written && !identity.used).then(|| used(generation)));
    match records.is_empty() {
        true => Next::Take(identity),
        false => Next::Write(records),
    }
}

/// The record that says that events are known under the name.
pub(super) fn used(generation: u64) -> String {
    format!("{OWN}used/{generation}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Found = Found {
        topic: None,
        written: false,
    };
    const WRITTEN: Found = Found {
        topic: None,
        written: true,
    };

    /// Acts until it is known; `records` grows.
    fn settle(records: &mut Vec<String>, found: Found, former: Option<u128>) -> Identity {
        for _ in 0..5 {
            match next(agreed(records.iter().map(String::as_str)), found, former) {
                Next::Take(identity) => return identity,
                Next::Write(more) => records.extend(more),
            }
        }
        panic!("never settled: {records:?}");
    }

    #[test]
    fn a_topic_keeps_its_name_until_it_is_made_anew() {
        let mut records = vec!["letters/1".to_owned()];
        let first = settle(&mut records, EMPTY, None);
        // Started again before and after the first event.
        assert_eq!(settle(&mut records, EMPTY, None), first);
        records.push(used(first.generation));
        let known = settle(&mut records, WRITTEN, None);
        assert_eq!((known.name, known.used), (first.name, true));
        // Deleted and made anew.
        let second = settle(&mut records, EMPTY, None);
        assert_ne!(second.name, first.name);
        assert_eq!(settle(&mut records, WRITTEN, None).name, second.name);
        // The same while a process runs, and others have written already.
        let third = settle(&mut records, WRITTEN, Some(second.name));
        assert_ne!(third.name, second.name);
        assert_eq!(settle(&mut records, WRITTEN, Some(second.name)), third);
    }

    #[test]
    fn one_that_has_another_id_has_another_name_though_there_are_events_in_it() {
        let of = |id| Found {
            topic: Some(id),
            written: true,
        };
        // Known before its id was.
        let mut records = Vec::new();
        let first = settle(&mut records, WRITTEN, None);
        let known = settle(&mut records, of(7), None);
        assert_eq!((known.name, known.topic), (first.name, Some(7)));
        assert_eq!(settle(&mut records, of(7), None), known);
        let second = settle(&mut records, of(8), None);
        assert_ne!(second.name, first.name);
        assert_eq!((second.topic, second.used), (Some(8), true));
        let names = || records.iter().map(String::as_str);
        assert!(is_of_former(names(), &second, 7), "who tells of it is late");
        assert!(!is_of_former(names(), &second, 8));
        assert!(!is_of_former(names(), &second, 9));
        assert_eq!(names().filter_map(claimed).collect::<Vec<_>>(), [1, 2]);
        // One broker tells none; the topic lost all that was in it.
        assert_eq!(settle(&mut records, WRITTEN, None), second);
        let lost = settle(&mut records, of(8), Some(second.name));
        assert_ne!(lost.name, second.name);
        assert_eq!(lost.topic, Some(8));
    }

    #[test]
    fn of_two_who_claim_at_once_the_first_is_right_for_both() {
        let claims = [
            "journal/identity/1/0a",
            "journal/identity/1/0b",
            "journal/topic/1/0c",
            "journal/topic/1/0d",
            "journal/used/1",
        ];
        let identity = agreed(claims.into_iter()).unwrap();
        assert_eq!(
            (identity.name, identity.topic, identity.used),
            (0xa, Some(0xc), true)
        );
    }
}
