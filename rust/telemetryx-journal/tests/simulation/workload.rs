//! Actions: one schedule is a journal on a disk of its own, and a few dozen things that happen to it.

use std::sync::Arc;
use std::time::Duration;

use telemetryx_journal::sim::{
    Faults, Random, SimClock, SimStorage, SteppedAppend, SteppedJournal,
};
use telemetryx_journal::{
    Cursor, CursorError, FsyncPolicy, Health, JournalOptions, Offset, Retention,
};

use crate::model::{Contents, CursorModel, Model, check_offset_at, check_read_from, read_all};

/// What happened, so that a run in which something never did does not pass for a good one.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    acknowledged: u64,
    refused: u64,
    power_cuts: u64,
    kills: u64,
    torn_tails: u64,
    damaged: u64,
    failures: u64,
    full: u64,
    closes: u64,
    expired: u64,
    commits: u64,
    cursors_damaged: u64,
    failed_opens: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, more: &Counts) {
        for (all, more) in self.fields().into_iter().zip(more.values()) {
            *all += more;
        }
    }

    fn values(&self) -> [u64; 13] {
        [
            self.acknowledged,
            self.refused,
            self.power_cuts,
            self.kills,
            self.torn_tails,
            self.damaged,
            self.failures,
            self.full,
            self.closes,
            self.expired,
            self.commits,
            self.cursors_damaged,
            self.failed_opens,
        ]
    }

    fn fields(&mut self) -> [&mut u64; 13] {
        [
            &mut self.acknowledged,
            &mut self.refused,
            &mut self.power_cuts,
            &mut self.kills,
            &mut self.torn_tails,
            &mut self.damaged,
            &mut self.failures,
            &mut self.full,
            &mut self.closes,
            &mut self.expired,
            &mut self.commits,
            &mut self.cursors_damaged,
            &mut self.failed_opens,
        ]
    }

    pub(crate) fn assert_everything_happened(&self) {
        assert!(
            self.values().iter().all(|count| *count > 0),
            "something hardly ever happened: {self:?}"
        );
    }
}

pub(crate) struct Schedule {
    random: Random,
    storage: SimStorage,
    clock: SimClock,
    options: JournalOptions,
    /// Whether this schedule flips bits.
    damaging: bool,
    faulty: bool,
    verbose: bool,
    /// The durable end before the last crash.
    durable: u64,
    model: Model,
    counts: Counts,
    journal: Option<SteppedJournal>,
    cursors: Vec<Cursor>,
    waiting: Vec<(u64, SteppedAppend)>,
}

impl Schedule {
    pub(crate) fn new(seed: u64, verbose: bool) -> Schedule {
        let mut random = Random::new(seed);
        let fsync = match random.below(4) {
            0 => FsyncPolicy::Interval(Duration::from_millis(20)),
            _ => FsyncPolicy::Always,
        };
        let retain = match random.below(3) {
            0 => Retention {
                bytes: Some(20_000),
                age: None,
            },
            1 => Retention {
                bytes: None,
                age: Some(Duration::from_secs(1)),
            },
            _ => Retention::default(),
        };
        let options = JournalOptions {
            segment_bytes: 4096 << random.below(4),
            max_group_bytes: 2000 << random.below(4),
            fsync,
            retain,
            cursor_bytes: 0,
            ..JournalOptions::default()
        };
        Schedule {
            storage: SimStorage::new(random.next_u64()),
            clock: SimClock::new(),
            damaging: random.percent(30),
            faulty: random.percent(60),
            random,
            options,
            verbose,
            durable: 0,
            model: Model::default(),
            counts: Counts::default(),
            journal: None,
            cursors: Vec::new(),
            waiting: Vec::new(),
        }
    }

    pub(crate) fn run(mut self) -> Counts {
        self.storage.set_faults(self.calm());
        self.open();
        for _ in 0..20 + self.random.below(60) {
            self.act();
        }
        self.crash(true);
        self.check();
        self.counts
    }

    fn say(&self, what: &str) {
        if self.verbose {
            println!("{what}");
        }
    }

    fn journal(&self) -> &SteppedJournal {
        self.journal.as_ref().expect("open")
    }

    fn act(&mut self) {
        match self.random.below(100) {
            0..=44 => self.append(),
            45..=59 => self.turn(),
            60..=64 => self.advance(),
            65..=76 => self.commit_cursor(),
            77..=81 => self.open_cursor(),
            82..=86 if self.faulty => {
                let faults = self.trouble();
                self.storage.set_faults(faults);
            }
            87..=90 => self.storage.set_faults(self.calm()),
            91..=93 => self.check(),
            94..=95 if self.damaging => self.flip_bits(),
            96 => self.close(),
            97 | 98 => self.crash(true),
            99 => self.crash(false),
            _ => self.turn(),
        }
    }

    fn calm(&self) -> Faults {
        Faults {
            short_writes: 10,
            ..Faults::default()
        }
    }

    fn trouble(&mut self) -> Faults {
        let mut faults = self.calm();
        match self.random.below(6) {
            0 => faults.sync_fails = 30,
            1 => faults.write_fails = 20,
            2 => faults.sync_dir_fails = 40,
            3 => faults.capacity = 5_000 + self.random.below(60_000),
            4 => faults.preallocates = false,
            _ => (faults.sync_fails, faults.write_fails, faults.sync_dir_fails) = (10, 5, 10),
        }
        self.say(&format!("{faults:?}"));
        faults
    }

    fn append(&mut self) {
        for _ in 0..1 + self.random.below(4) {
            let (id, record) = self.model.new_record(&mut self.random);
            self.say(&format!(
                "append {id}: {} events, {} bytes",
                record.events,
                record.body.len()
            ));
            let waiter = self.journal().append(record).expect("room in the queue");
            self.waiting.push((id, waiter));
        }
    }

    fn turn(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.turn();
        }
        self.hear_answers();
    }

    fn hear_answers(&mut self) {
        let failures = self
            .journal
            .as_ref()
            .map_or(0, |journal| journal.journal.status().failures);
        if failures > 0 && self.options.fsync != FsyncPolicy::Always {
            self.model.interval_failures = true;
        }
        for (id, mut waiter) in std::mem::take(&mut self.waiting) {
            match waiter.answer() {
                None => self.waiting.push((id, waiter)),
                Some(Ok(position)) => {
                    self.say(&format!("  {id} acknowledged at {}", position.first));
                    self.model.acknowledge(id, position);
                    self.counts.acknowledged += 1;
                    if self.options.fsync == FsyncPolicy::Always {
                        assert!(
                            self.journal().journal.durable_end() >= position.end(),
                            "acknowledged before it is durable"
                        );
                    }
                }
                Some(Err(error)) => {
                    self.say(&format!("  {id} refused: {error}"));
                    assert!(error.is_retryable(), "{error}");
                    self.counts.refused += 1;
                }
            }
        }
    }

    fn advance(&mut self) {
        let by = [5, 50, 300, 6000][self.random.below(4) as usize];
        self.clock.advance(Duration::from_millis(by));
        self.turn();
    }

    fn check(&mut self) {
        let contents = self.model.check(&self.journal().journal);
        self.check_details(&contents);
    }

    fn check_details(&mut self, contents: &Contents) {
        let journal = &self.journal.as_ref().expect("open").journal;
        let from = contents.start + self.random.below(contents.end - contents.start + 1);
        check_read_from(journal, contents, from);
        if !self.model.segments_damaged && !self.model.interval_failures {
            check_offset_at(journal, contents, self.random.below(20_000_000_000) as i64);
        }
        if self.cursors.is_empty() {
            return;
        }
        let slowest = self
            .cursors
            .iter()
            .map(|cursor| cursor.position().get())
            .min()
            .unwrap_or(0);
        // A cursor opened before and dropped since counts, too.
        let least = contents.end - slowest.max(contents.start);
        assert!(journal.backlog().events >= least);
        assert!(
            self.cursors
                .iter()
                .all(|cursor| cursor.position().get() >= contents.start
                    || cursor.position().get() >= slowest)
        );
    }

    fn open_cursor(&mut self) {
        let name = ["mailer", "sink"][self.random.below(2) as usize];
        if self.cursors.iter().any(|cursor| cursor.name() == name) {
            self.cursors.retain(|cursor| cursor.name() != name);
        }
        match self.journal().journal.cursor(name) {
            Ok(cursor) => {
                self.say(&format!("cursor {name} at {}", cursor.position()));
                let found = (cursor.position().get(), cursor.state().to_vec());
                let model = self
                    .model
                    .cursors
                    .entry(name.to_owned())
                    .or_insert_with(|| CursorModel {
                        committed: found.clone(),
                        ..CursorModel::default()
                    });
                model.start = self.journal.as_ref().expect("open").journal.start().get();
                if model.history.is_empty() {
                    model.committed = found.clone();
                    model.history.push(found.clone());
                }
                let allowed = found == model.committed
                    || model.attempted.contains(&found)
                    || (model.damaged && model.history.contains(&found));
                assert!(
                    allowed,
                    "cursor {name} stands at {found:?}, expected {model:?}"
                );
                if model.damaged {
                    model.history.push(found.clone());
                }
                model.committed = found;
                model.attempted.clear();
                self.cursors.push(cursor);
            }
            Err(CursorError::Damaged { .. }) => {
                let known = self
                    .model
                    .cursors
                    .get(name)
                    .is_some_and(|model| model.damaged);
                assert!(known, "cursor {name} is damaged, and nobody damaged it");
                self.counts.cursors_damaged += 1;
                if self.journal().journal.forget_cursor(name).is_ok() {
                    self.model.cursors.remove(name);
                }
            }
            Err(CursorError::Io { .. }) => self.say("cursor could not be opened"),
            Err(error) => panic!("{error}"),
        }
    }

    fn commit_cursor(&mut self) {
        let end = self.journal().journal.durable_end().get();
        let start = self.journal().journal.start().get();
        if self.cursors.is_empty() {
            return;
        }
        let which = self.random.below(self.cursors.len() as u64) as usize;
        let state: Vec<u8> = (0..self.random.below(40))
            .map(|_| self.random.next_u64() as u8)
            .collect();
        let cursor = &mut self.cursors[which];
        let now = cursor.position().get();
        let (to, result) = if self.random.percent(10) {
            let to = start + self.random.below(end - start + 1);
            (to, cursor.reset(Offset::new(to), &state))
        } else {
            let to = now + self.random.below(end - now + 1);
            (to, cursor.commit(Offset::new(to), &state))
        };
        let name = cursor.name().to_owned();
        self.say(&format!("cursor {name} to {to}: {result:?}"));
        let model = self.model.cursors.get_mut(&name).expect("known");
        model.history.push((to, state.clone()));
        match result {
            Ok(()) => {
                model.committed = (to, state);
                model.attempted.clear();
                self.counts.commits += 1;
            }
            Err(CursorError::Io { .. }) => model.attempted.push((to, state)),
            Err(error) => panic!("{error}"),
        }
    }

    fn flip_bits(&mut self) {
        let files: Vec<(String, u64)> = self
            .storage
            .dump()
            .into_iter()
            .map(|(name, bytes)| (name, bytes.len() as u64))
            .collect();
        let which = self.random.below(files.len() as u64) as usize;
        let Some((name, length)) = files.get(which) else {
            return;
        };
        self.flip_bits_of(name, *length);
        // With both slots gone it has to be refused.
        if let Some(cursor) = name.strip_suffix(".a")
            && self.random.percent(50)
        {
            self.flip_bits_of(&format!("{cursor}.b"), *length);
        }
    }

    fn flip_bits_of(&mut self, name: &str, length: u64) {
        // Not only somewhere in the preallocated zeros.
        let reach = match self.random.percent(50) {
            true => length,
            false if name.starts_with("cursors/") => length.min(80),
            false => length.min(800),
        };
        for _ in 0..1 + self.random.below(3) {
            let (byte, bit) = (self.random.below(reach), self.random.below(8) as u8);
            if self.storage.flip_bit(name, byte, bit) {
                self.say(&format!("flip bit {bit} of byte {byte} in {name}"));
                match name.strip_prefix("cursors/") {
                    None => self.model.segments_damaged = true,
                    Some(file) => {
                        let cursor = file.split('.').next().unwrap_or_default();
                        self.model
                            .cursors
                            .entry(cursor.to_owned())
                            .or_default()
                            .damaged = true;
                    }
                }
            }
        }
    }

    fn close(&mut self) {
        self.say("close");
        self.cursors.clear();
        let journal = self.journal.take().expect("open");
        let durable = journal.journal.clone();
        let clean = journal.close();
        self.hear_final_answers();
        self.note_health(&durable);
        self.durable = durable.durable_end().get();
        if clean.is_err() && self.options.fsync != FsyncPolicy::Always {
            self.model.forget_from(durable.durable_end().get());
        }
        drop(durable);
        self.counts.closes += 1;
        self.open();
        if clean.is_ok() && !self.model.segments_damaged {
            let report = self.journal().journal.recovery();
            assert!(
                report.clean && report.torn_bytes == 0,
                "closed, and yet: {report}"
            );
        }
    }

    fn hear_final_answers(&mut self) {
        for (id, mut waiter) in std::mem::take(&mut self.waiting) {
            if let Some(Ok(position)) = waiter.answer() {
                self.model.acknowledge(id, position);
            }
        }
    }

    fn note_health(&mut self, journal: &telemetryx_journal::Journal) {
        let status = journal.status();
        self.counts.failures += status.failures;
        self.counts.full += u64::from(matches!(status.health, Health::NoSpace { .. }));
        if status.failures > 0 && self.options.fsync != FsyncPolicy::Always {
            self.model.interval_failures = true;
        }
        self.model.segments_damaged |= status.damage_count > 0 && self.model.segments_damaged;
    }

    /// A power cut, or a kill that leaves the page cache alone. What waits is never answered.
    fn crash(&mut self, power: bool) {
        self.hear_answers();
        let journal = self.journal.take().expect("open");
        self.note_health(&journal.journal);
        let durable = journal.journal.durable_end().get();
        self.durable = durable;
        self.say(if power { "power cut" } else { "kill" });
        if power {
            self.counts.power_cuts += 1;
            self.storage.power_cut();
            if self.options.fsync != FsyncPolicy::Always {
                self.model.forget_from(durable);
            }
        } else {
            self.counts.kills += 1;
            self.storage.kill();
            if self.model.interval_failures {
                self.model.forget_from(durable);
            }
        }
        self.cursors.clear();
        self.waiting.clear();
        drop(journal);
        self.open();
    }

    /// Opens the journal, sometimes with a failing disk first, and checks what recovery made of it, twice.
    fn open(&mut self) {
        let storage = || Arc::new(self.storage.clone());
        let clock = || Arc::new(self.clock.clone());
        // With the faults as they are; what this attempt reports is not reported again.
        let reported;
        match SteppedJournal::open(storage(), clock(), self.options.clone()) {
            Ok(journal) => {
                let report = journal.journal.recovery();
                self.say(&format!("first: {report}"));
                reported = report.torn_bytes > 0 || !report.damage.is_empty();
                self.counts.torn_tails += u64::from(report.torn_bytes > 0);
                self.counts.damaged += u64::from(!report.damage.is_empty());
            }
            Err(error) => {
                self.say(&format!("open fails: {error}"));
                // It may have cut or sealed already.
                reported = true;
                self.counts.failed_opens += 1;
                // Written and not synced before the crash, and now this sync forgot it.
                if self.options.fsync != FsyncPolicy::Always {
                    self.model.forget_from(self.durable);
                }
                if self.random.percent(30) {
                    self.storage.power_cut();
                }
            }
        }
        self.storage.kill();
        self.storage.set_faults(self.calm());
        let journal = SteppedJournal::open(storage(), clock(), self.options.clone())
            .expect("recovery on a good disk");
        self.say(&format!("{}", journal.journal.recovery()));
        let report = journal.journal.recovery().clone();
        self.counts.torn_tails += u64::from(report.torn_bytes > 0);
        self.counts.damaged += u64::from(!report.damage.is_empty());
        self.counts.expired += u64::from(report.start > Offset::ZERO);
        self.model
            .check_end_after_recovery(&journal.journal, reported);
        let contents = self.model.check(&journal.journal);
        drop(journal);
        self.storage.power_cut();
        let again = SteppedJournal::open(storage(), clock(), self.options.clone())
            .expect("a second recovery");
        assert_eq!(
            again.journal.recovery().torn_bytes,
            0,
            "recovery left a torn tail behind"
        );
        self.say(&format!("again: {}", again.journal.recovery()));
        let found = read_all(&again.journal);
        assert_eq!(
            (found.start, found.end),
            (contents.start, contents.end),
            "a second recovery ends elsewhere"
        );
        let differs = found
            .entries
            .iter()
            .zip(&contents.entries)
            .find(|(now, before)| now != before);
        assert!(differs.is_none(), "a second recovery finds {differs:?}");
        assert_eq!(found.entries.len(), contents.entries.len());

        self.journal = Some(again);
    }
}
