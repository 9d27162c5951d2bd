//! Predicted state: what was appended, what was acknowledged where, what may be lost. And the invariants over what is read back.

use std::collections::{BTreeMap, HashMap, HashSet};

use telemetryx_journal::sim::Random;
use telemetryx_journal::{Entry, GapReason, Journal, Offset, Position, Record};

/// What we know about the journal without looking into it.
#[derive(Default)]
pub(crate) struct Model {
    /// Every record ever appended, by its id, with its events.
    appended: HashMap<u64, u32>,
    /// Where acknowledged records stand.
    acknowledged: BTreeMap<u64, u64>,
    /// Bits of segments were flipped: durable events may be lost, if that is reported.
    pub(crate) segments_damaged: bool,
    /// A sync failed while appends were acknowledged without one: as above.
    pub(crate) interval_failures: bool,
    /// The cursors' last good commits and the failed attempts since.
    pub(crate) cursors: HashMap<String, CursorModel>,
    next_id: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct CursorModel {
    pub(crate) committed: (u64, Vec<u8>),
    pub(crate) attempted: Vec<(u64, Vec<u8>)>,
    /// For cursors whose slots were damaged: everything that was ever committed.
    pub(crate) history: Vec<(u64, Vec<u8>)>,
    pub(crate) damaged: bool,
    /// Where the journal began when the cursor was opened: a creation that failed half way holds nothing.
    pub(crate) start: u64,
}

/// What a full read returned.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) entries: Vec<Entry>,
}

impl Model {
    /// A record whose bytes follow from its id.
    pub(crate) fn new_record(&mut self, random: &mut Random) -> (u64, Record) {
        self.next_id += 1;
        let id = self.next_id;
        let length = match random.below(10) {
            0 => 2000 + random.below(8000),
            1 => 600 + random.below(1400),
            _ => random.below(300),
        };
        let events = 1 + random.below(5) as u32;
        self.appended.insert(id, events);
        (
            id,
            Record::new(body(id, length as usize), events, id as i64, id as i64 + 1),
        )
    }

    pub(crate) fn acknowledge(&mut self, id: u64, position: Position) {
        assert_eq!(position.events, self.appended[&id]);
        let earlier = self.acknowledged.insert(position.first.get(), id);
        assert_eq!(earlier, None, "offset {} given out twice", position.first);
    }

    /// Acknowledged without a sync and not synced when the power was cut: may be gone, and their offsets are free again.
    pub(crate) fn forget_from(&mut self, end: u64) {
        self.acknowledged.split_off(&end);
    }

    pub(crate) fn acknowledged_end(&self) -> u64 {
        self.acknowledged
            .last_key_value()
            .map_or(0, |(first, id)| first + u64::from(self.appended[id]))
    }

    fn may_lose(&self) -> bool {
        self.segments_damaged || self.interval_failures
    }

    /// Reads everything and checks it against what was promised.
    pub(crate) fn check(&self, journal: &Journal) -> Contents {
        let contents = read_all(journal);
        let mut seen = HashSet::new();
        let mut found = HashMap::new();
        let mut gaps = Vec::new();
        for entry in &contents.entries {
            match entry {
                Entry::Gap { from, to, reason } => {
                    assert_eq!(
                        *reason,
                        GapReason::Damaged,
                        "nothing after the start is expired"
                    );
                    assert!(
                        self.may_lose(),
                        "a gap {from}..{to} although nothing was damaged"
                    );
                    gaps.push((from.get(), to.get()));
                }
                Entry::Record(record) => {
                    let id = id_of(&record.body);
                    assert_eq!(
                        record.body,
                        body(id, record.body.len()),
                        "the bytes of record {id} changed"
                    );
                    assert_eq!(
                        self.appended.get(&id),
                        Some(&record.events),
                        "record {id} was never appended like this"
                    );
                    assert_eq!(record.time_min, id as i64);
                    assert!(seen.insert(id), "record {id} is there twice");
                    found.insert(record.first.get(), id);
                }
            }
        }
        for (first, id) in self.acknowledged.range(contents.start..contents.end) {
            match found.get(first) {
                Some(there) => assert_eq!(there, id, "another record stands at {first}"),
                None => assert!(
                    gaps.iter().any(|(from, to)| from <= first && first < to),
                    "acknowledged record {id} at {first} is missing in silence"
                ),
            }
        }
        for (name, cursor) in self.cursors.iter().filter(|(_, cursor)| !cursor.damaged) {
            let tried = cursor.attempted.iter().map(|(position, _)| *position).max();
            let passed = cursor.committed.0.max(tried.unwrap_or(0)).max(cursor.start);
            assert!(
                contents.start <= passed,
                "retention removed up to {}, cursor {name} needs {passed}",
                contents.start
            );
        }
        if !gaps.is_empty() {
            let status = journal.status();
            assert!(status.damage_count > 0, "gaps without a report");
        }
        contents
    }

    /// After a recovery: nothing acknowledged may lie behind the end, unless damage hides even the proof that it was there, and
    /// then bytes were reported as cut.
    pub(crate) fn check_end_after_recovery(&mut self, journal: &Journal, reported: bool) {
        let end = journal.durable_end().get();
        if self.acknowledged_end() > end {
            assert!(
                self.segments_damaged,
                "acknowledged up to {}, recovered up to {end}",
                self.acknowledged_end()
            );
            let report = journal.recovery();
            assert!(
                reported || report.torn_bytes > 0 || !report.damage.is_empty(),
                "lost events without a word: {report}"
            );
            self.forget_from(end);
        }
    }
}

/// Everything there is, in chunks of changing size; checks that entries follow each other without holes.
pub(crate) fn read_all(journal: &Journal) -> Contents {
    let (start, end) = (journal.start(), journal.durable_end());
    let mut reader = journal.reader(start).expect("a reader at the start");
    let mut entries = Vec::new();
    let mut next = start;
    let mut size = 1;
    loop {
        let chunk = reader.next(size).expect("reading");
        if chunk.is_empty() {
            break;
        }
        size = (size * 7) % 5003;
        for entry in chunk.entries {
            let first = match &entry {
                Entry::Record(record) => record.first,
                Entry::Gap { from, .. } => *from,
            };
            assert_eq!(first, next, "entries must follow each other");
            next = entry.end();
            entries.push(entry);
        }
    }
    assert_eq!(next, end, "reading must reach the durable end");
    Contents {
        start: start.get(),
        end: end.get(),
        entries,
    }
}

/// Reading from anywhere gives what reading from the start gives.
pub(crate) fn check_read_from(journal: &Journal, contents: &Contents, from: u64) {
    let mut reader = journal.reader(Offset::new(from)).expect("a reader");
    let first = reader.next(1).expect("reading").entries.into_iter().next();
    let expected = contents
        .entries
        .iter()
        .find(|entry| entry.end().get() > from);
    match (first, expected) {
        (Some(Entry::Gap { from: gap, to, .. }), Some(Entry::Gap { to: end, .. })) => {
            assert_eq!((gap.get(), to), (from, *end))
        }
        (first, expected) => {
            let ends = (first.as_ref().map(Entry::end), expected.map(Entry::end));
            assert!(
                first.as_ref() == expected,
                "reading from {from} gives another entry: {ends:?}"
            );
        }
    }
}

pub(crate) fn check_offset_at(journal: &Journal, contents: &Contents, time: i64) {
    let expected = contents.entries.iter().find_map(|entry| match entry {
        Entry::Record(record) if record.appended_at >= time => Some(record.first.get()),
        _ => None,
    });
    let offset = journal.offset_at(time).expect("reading").get();
    assert_eq!(offset, expected.unwrap_or(contents.end), "offset at {time}");
}

fn body(id: u64, length: usize) -> Vec<u8> {
    let mut body = id.to_le_bytes().to_vec();
    let mut random = Random::new(id);
    while body.len() < length.max(8) {
        body.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    body.truncate(length.max(8));
    body
}

fn id_of(body: &[u8]) -> u64 {
    u64::from_le_bytes(body[..8].try_into().expect("eight bytes"))
}
