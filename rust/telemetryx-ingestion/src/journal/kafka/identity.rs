//! A name for the topic that no other has, nor one made anew under the same name.
//!
//! Kafka knows such a name and librdkafka does not tell it. So the processes agree on one by records of the control topic:
//!
//! ```text
//! journal/identity/<generation>/<name>   claims the name; of one generation, the first claim holds
//! journal/used/<generation>              there are events under that name; written before the first is acknowledged
//! ```
//!
//! (`journal/probe` and `journal/spill/…` are the engine's as well, and others' business.)
//!
//! A topic that holds nothing at all, and never did, though events are known under its name, is another one: its processes
//! claim a name of the next generation. Retention takes events and leaves offsets, so it is not mistaken for that.

use uuid::Uuid;

/// What the names of the engine's own records begin with.
pub(super) const OWN: &str = "journal/";

/// The name that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) generation: u64,
    pub(super) name: u128,
    pub(super) used: bool,
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is known.
    Take(Identity),
    /// Write these records, and look again.
    Write(Vec<String>),
}

/// The name that the records of the control topic, in their order, agree on.
pub(super) fn agreed<'r>(records: impl Iterator<Item = &'r str>) -> Option<Identity> {
    let mut agreed: Option<Identity> = None;
    for record in records {
        let Some(record) = record.strip_prefix(OWN) else {
            continue;
        };
        let mut parts = record.split('/');
        let (kind, generation) = (parts.next(), parts.next());
        let Some(generation) = generation.and_then(|text| text.parse::<u64>().ok()) else {
            continue;
        };
        match (kind, &mut agreed) {
            (Some("identity"), before) => {
                let name = parts.next();
                let name = name.and_then(|text| u128::from_str_radix(text, 16).ok());
                let is_later = before.is_none_or(|before| before.generation < generation);
                if let Some(name) = name.filter(|_| is_later) {
                    *before = Some(Identity {
                        generation,
                        name,
                        used: false,
                    });
                }
            }
            (Some("used"), Some(agreed)) if agreed.generation == generation => agreed.used = true,
            _ => {}
        }
    }
    agreed
}

/// What is to be done by one who found the topic `written` or empty, and knows (`former`) that the topic of that name is gone.
pub(super) fn next(agreed: Option<Identity>, written: bool, former: Option<u128>) -> Next {
    let claim = |generation: u64| {
        let name = Uuid::now_v7().as_u128();
        let mut records = vec![format!("{OWN}identity/{generation}/{name:032x}")];
        records.extend(written.then(|| used(generation)));
        Next::Write(records)
    };
    match agreed {
        None => claim(1),
        Some(identity) if former == Some(identity.name) => claim(identity.generation + 1),
        Some(identity) if identity.used && !written => claim(identity.generation + 1),
        Some(identity) if written && !identity.used => Next::Write(vec![used(identity.generation)]),
        Some(identity) => Next::Take(identity),
    }
}

/// The record that says that events are known under the name.
pub(super) fn used(generation: u64) -> String {
    format!("{OWN}used/{generation}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acts until it is known; `records` grows.
    fn settle(records: &mut Vec<String>, written: bool, former: Option<u128>) -> Identity {
        for _ in 0..5 {
            match next(agreed(records.iter().map(String::as_str)), written, former) {
                Next::Take(identity) => return identity,
                Next::Write(more) => records.extend(more),
            }
        }
        panic!("never settled: {records:?}");
    }

    #[test]
    fn a_topic_keeps_its_name_until_it_is_made_anew() {
        let mut records = vec!["letters/1".to_owned()];
        let first = settle(&mut records, false, None);
        // Started again before and after the first event.
        assert_eq!(settle(&mut records, false, None), first);
        records.push(used(first.generation));
        let known = settle(&mut records, true, None);
        assert_eq!((known.name, known.used), (first.name, true));
        // Deleted and made anew.
        let second = settle(&mut records, false, None);
        assert_ne!(second.name, first.name);
        assert_eq!(settle(&mut records, true, None).name, second.name);
        // The same while a process runs, and others have written already.
        let third = settle(&mut records, true, Some(second.name));
        assert_ne!(third.name, second.name);
        assert_eq!(settle(&mut records, true, Some(second.name)), third);
    }

    #[test]
    fn of_two_who_claim_at_once_the_first_is_right_for_both() {
        let claims = [
            "journal/identity/1/0a",
            "journal/identity/1/0b",
            "journal/used/1",
        ];
        let identity = agreed(claims.into_iter()).unwrap();
        assert_eq!((identity.name, identity.used), (0xa, true));
    }
}
