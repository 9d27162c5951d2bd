//! What the topic is called, and how it shows that it is another one.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::super::Extent;
use super::super::identity::{self, Found, Identity, Next};
use super::super::seen::Name;
use super::super::table;
use super::Watch;
use super::look::Looking;

/// What looks like another topic for so long is one. A broker that just became the leader may tell of less than there is,
/// for a moment, or of a topic that was deleted.
const DOUBT_MAX: Duration = Duration::from_secs(2);
/// What a broker tells of a topic that was there before is not believed for so long.
const DISBELIEF_MAX: Duration = Duration::from_secs(30);

/// What is doubted, look after look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubted {
    /// That it is the topic that was seen before.
    Topic,
    /// That it is the topic whose name is of this generation.
    Name(u64),
    /// That what a broker tells is of this topic.
    Broker,
}

/// A doubt that the looks before this one had, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    doubted: Doubted,
    since: Instant,
}

impl Doubt {
    /// The doubt of this look, after that of the look before.
    pub(super) fn after(before: Option<Self>, doubted: Doubted) -> Self {
        let same = before.filter(|before| before.doubted == doubted);
        same.unwrap_or_else(|| Self {
            doubted,
            since: Instant::now(),
        })
    }

    fn has_lasted(&self, most: Duration) -> bool {
        self.since.elapsed() >= most
    }

    /// Fails until it has lasted for so long.
    fn or_give_up(self, most: Duration, words: &str) -> Result<(), Disagreement> {
        if self.has_lasted(most) {
            return Ok(());
        }
        Err(Disagreement {
            words: words.to_owned(),
            doubt: Some(self),
        })
    }
}

/// Why there is no agreement on a name yet.
pub(super) struct Disagreement {
    pub(super) words: String,
    /// For the next look.
    pub(super) doubt: Option<Doubt>,
}

impl From<String> for Disagreement {
    fn from(words: String) -> Self {
        Self { words, doubt: None }
    }
}

/// How a topic shows that it is not the one that was seen before, or no more what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Another {
    Missing,
    HasOtherId,
    HasShrunk,
}

impl Another {
    fn words(self) -> &'static str {
        match self {
            Self::Missing => "the topic is gone",
            Self::HasOtherId => {
                "the topic was deleted and made anew (it has another id): every route begins at its beginning, what was in the \
                 former is gone, and receipts of it are not known any more"
            }
            Self::HasShrunk => {
                "every partition of the topic holds less than it did: it was deleted and made anew, or brokers lost what \
                 they had acknowledged"
            }
        }
    }
}

/// Every partition that held something holds less.
fn has_shrunk(before: &[Extent], now: &[Extent]) -> bool {
    let mut held = before.iter().filter(|extent| extent.end > 0).map(|before| {
        let mut now = now.iter();
        now.any(|now| now.partition == before.partition && now.end < before.end)
    });
    held.next()
        .is_some_and(|shrunk| shrunk && held.all(|shrunk| shrunk))
}

impl Watch {
    /// How this is not the topic that was seen before, if so.
    pub(super) fn is_another(&self, id: Option<u128>, extents: &[Extent]) -> Option<Another> {
        if !self.is_ready() {
            return None;
        }
        let differ = |(now, before)| now != before;
        if id.zip(self.seen.topic_id()).is_some_and(differ) {
            return Some(Another::HasOtherId);
        }
        has_shrunk(&self.seen.extents(), extents).then_some(Another::HasShrunk)
    }

    /// The topic of the name that is known seems to be no more. True if that has lasted for long enough.
    pub(super) fn doubt_topic(
        &self,
        looking: &mut Looking,
        doubt: Doubt,
        another: Another,
    ) -> bool {
        if !doubt.has_lasted(DOUBT_MAX) {
            looking.doubt = Some(doubt);
            return false;
        }
        tracing::error!(topic = self.settings.topic, "{}", another.words());
        looking.checked = None;
        looking.former = Some((self.seen.identity(), another));
        self.is_ready.send_replace(false);
        true
    }

    /// Agrees with the other processes on the name of the topic; its generation. `former`: the name of the topic that is gone;
    /// `doubt`: what of this look goes on with a doubt of the look before.
    pub(super) fn agree(
        &self,
        found: Found,
        former: Option<(u128, Another)>,
        doubt: impl Fn(Doubted) -> Doubt,
    ) -> Result<u64, Disagreement> {
        let before = self.seen.name();
        let is_back = found.topic.is_some() && found.topic == before.topic_id;
        // It was only away: it has the name that it had.
        let former = former.filter(|(_, another)| *another == Another::HasShrunk || !is_back);
        let former = former.map(|(name, _)| name);
        loop {
            let names = table::names(&self.settings)?;
            let names = || names.iter().map(String::as_str);
            let agreed = identity::agreed(names());
            if let Some(agreed) = agreed {
                let is_late = |id| identity::is_of_former(names(), &agreed, id);
                if found.topic.is_some_and(is_late) {
                    doubt(Doubted::Broker)
                        .or_give_up(DISBELIEF_MAX, "a broker tells of the topic before this one")?;
                } else if former != Some(agreed.name) && found.is_another_than(&agreed) {
                    // When it was looked at, it may have been empty still.
                    doubt(Doubted::Name(agreed.generation)).or_give_up(
                        DOUBT_MAX,
                        "the topic is not the one that events were in before",
                    )?;
                }
            }
            match identity::next(agreed, found, former) {
                Next::Take(Identity {
                    generation,
                    name,
                    topic,
                    used,
                }) => {
                    self.generation.store(generation, Ordering::Release);
                    let used = if used { generation } else { 0 };
                    self.used.store(used, Ordering::Release);
                    if name != before.identity {
                        self.seen.forget();
                    }
                    self.seen.set_name(Name {
                        identity: name,
                        topic_id: found.topic.or(topic),
                    });
                    return Ok(generation);
                }
                Next::Write(records) => {
                    let Some(sender) = self.sender.load_full() else {
                        return Err("there is no producer".to_owned().into());
                    };
                    let records = records.into_iter();
                    let records: Vec<_> = records
                        .map(|name| (name, Some(Bytes::from_static(b"1"))))
                        .collect();
                    let put = table::put(&sender, &self.settings, &records);
                    self.runtime
                        .block_on(put)
                        .map_err(|error| error.to_string())?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_made_anew_holds_less_in_every_partition_that_held_something() {
        let extents = |ends: &[u64]| -> Vec<_> {
            let ends = (0..).zip(ends);
            let extent = |(partition, end): (u32, &u64)| Extent {
                partition,
                start: 0,
                end: *end,
            };
            ends.map(extent).collect()
        };
        let before = extents(&[7, 0, 3]);
        assert!(has_shrunk(&before, &extents(&[0, 0, 0])));
        assert!(has_shrunk(&before, &extents(&[1, 5, 2, 0])));
        // A new leader that does not know of all yet; nothing new; nothing known.
        assert!(!has_shrunk(&before, &extents(&[0, 0, 3])));
        assert!(!has_shrunk(&before, &before));
        assert!(!has_shrunk(&extents(&[0, 0]), &extents(&[0, 0])));
    }
}
