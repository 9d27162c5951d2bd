//! Ids for events that came without one. Never called for an event that has its own.

use sha1::{Digest, Sha1};
use uuid::{NoContext, Uuid};

use crate::Timestamp;

/// Under which idempotency keys become ids. Never change it: a retry would no longer find its first try.
const IDEMPOTENCY_NAMESPACE: Uuid = Uuid::from_u128(0x5b0c_8a4e_6f0d_4d6a_9d0e_74c3_2f1b_8e57);
/// The part of a UUID below its version and variant: what is counted up.
const TAIL: u128 = (1 << 62) - 1;
/// The highest bit of the tail. Clear in a fresh id, so that counting up never overflows.
const TAIL_TOP: u128 = 1 << 61;

/// The ids of one batch: one UUID, counted up from event to event.
///
/// One random UUID a batch and one addition an event, in place of one system call an event; and the ids of a batch
/// sort as its events do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventIds {
    first: u128,
}

impl EventIds {
    /// Fresh ids: UUIDv7 of that time.
    #[must_use]
    pub fn fresh(now: Timestamp) -> Self {
        let nanos = now.unix_nanos().max(0).unsigned_abs();
        let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let rest = u32::try_from(rest).unwrap_or_default();
        let first = Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, seconds, rest)).as_u128();
        EventIds {
            first: first & !TAIL_TOP,
        }
    }

    /// The ids that belong to an idempotency key and a body: the same on every try and every machine.
    ///
    /// Another body under the same key gets other ids: it is no retry, and its events must not be taken for stored ones.
    #[must_use]
    pub fn from_idempotency_key(key: &str, body: &[u8]) -> Self {
        let content = uuid_v5(&IDEMPOTENCY_NAMESPACE, body);
        EventIds {
            first: uuid_v5(&content, key.as_bytes()).as_u128(),
        }
    }

    /// The id of the event at that place of the batch, written into `buffer`.
    pub fn id_for(self, index: u32, buffer: &mut [u8; 36]) -> &str {
        let tail = (self.first & TAIL).wrapping_add(u128::from(index)) & TAIL;
        let id = Uuid::from_u128(self.first & !TAIL | tail);
        id.hyphenated().encode_lower(buffer)
    }
}

/// As `Uuid::new_v5`, with the processor's own instructions for SHA-1 where it has them: a body can be long.
fn uuid_v5(namespace: &Uuid, name: &[u8]) -> Uuid {
    let digest = Sha1::new()
        .chain_update(namespace.as_bytes())
        .chain_update(name)
        .finalize();
    let mut bytes = [0; 16];
    for (byte, from) in bytes.iter_mut().zip(digest) {
        *byte = from;
    }
    uuid::Builder::from_sha1_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(of: EventIds, count: u32) -> Vec<String> {
        (0..count)
            .map(|index| of.id_for(index, &mut [0; 36]).to_owned())
            .collect()
    }

    #[test]
    fn fresh_ids_are_version_7_distinct_and_in_order() {
        let now = Timestamp::from_unix_nanos(1_735_689_600_123_456_789);
        let made = ids(EventIds::fresh(now), 10_000);
        assert!(made.is_sorted_by(|a, b| a < b));
        let last = Uuid::parse_str(&made[9_999]).unwrap();
        assert_eq!(last.get_version_num(), 7);
        assert_eq!(last.get_variant(), uuid::Variant::RFC4122);
        let (seconds, nanos) = last.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos), (1_735_689_600, 123_000_000));
        assert_ne!(EventIds::fresh(now), EventIds::fresh(now));
    }

    #[test]
    fn an_idempotency_key_always_gives_the_same_ids() {
        let of_key = |key| ids(EventIds::from_idempotency_key(key, b"body"), 3);
        assert_eq!(of_key("k-1"), of_key("k-1"));
        assert_ne!(of_key("k-1"), of_key("k-2"));
        assert_ne!(
            EventIds::from_idempotency_key("k-1", b"body"),
            EventIds::from_idempotency_key("k-1", b"another")
        );
        assert_eq!(
            Uuid::parse_str(&of_key("k-1")[2])
                .unwrap()
                .get_version_num(),
            5
        );
        assert_eq!(of_key("k-1")[0], "83e6e6f8-97d4-5adc-be9a-a6d0ef7608e4");
    }

    #[test]
    fn counting_up_never_touches_version_or_variant() {
        let full = EventIds {
            first: Uuid::new_v5(&IDEMPOTENCY_NAMESPACE, b"x").as_u128() | TAIL,
        };
        let next = Uuid::parse_str(full.id_for(1, &mut [0; 36])).unwrap();
        assert_eq!(next.get_version_num(), 5);
        assert_eq!(next.get_variant(), uuid::Variant::RFC4122);
    }
}
