//! One look at Kafka.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::super::super::{Committed, Extent};
use super::super::assignment::Start;
use super::super::identity::{self, Found, Identity, Next};
use super::super::producer::Sender;
use super::super::seen::Name;
use super::super::table;
use super::super::topic::{self, Observer};
use super::Watch;
use crate::kafka::code_of;
use crate::kafka::context::Said;
use crate::kafka::security::Fingerprint;
use crate::kafka::settings::words;
use crate::kafka::topic_id::topic_id;
use crate::observe::KafkaLag;

/// The settings of the topic are checked so often.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// How often, and after which time, a partition that is not known is asked for again.
const UNKNOWN_TRIES_MAX: u32 = 10;
const UNKNOWN_PAUSE: Duration = Duration::from_millis(100);
/// What looks like another topic for so long is one. A broker that just became the leader may tell of less than there is,
/// for a moment, or of a topic that was deleted.
const DOUBT_MAX: Duration = Duration::from_secs(2);

/// What the thread keeps for itself.
#[derive(Default)]
pub(super) struct Looking {
    observer: Option<Observer>,
    /// One for the group of each route that this process does not read.
    groups: HashMap<String, Observer>,
    partitions: u32,
    checked: Option<Instant>,
    lags: HashMap<(String, u32), KafkaLag>,
    doubt: Doubt,
    /// Brokers lost what they had acknowledged: offsets stand for other events than before.
    has_lost: bool,
    /// The newest generation that was heard of when the name was last agreed on.
    heard: u64,
    /// The passwords and certificates of the clients.
    made_with: Option<Fingerprint>,
}

impl Looking {
    /// True while the next look is to show whether the topic is another one.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.0.is_some()
    }
}

/// Since when the topic looks as if it were another one.
#[derive(Default)]
struct Doubt(Option<Instant>);

impl Doubt {
    /// It looks so. True if it has for long enough.
    fn is_over(&mut self) -> bool {
        let since = self.0.get_or_insert_with(Instant::now);
        since.elapsed() >= DOUBT_MAX
    }
}

/// How a topic shows that it is not the one that was seen before, or no more what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Another {
    Missing,
    HasOtherId,
    HasShrunk,
}

impl Another {
    fn words(self) -> &'static str {
        match self {
            Self::Missing => "the topic is gone",
            Self::HasOtherId => "the topic was deleted and made anew: it has another id",
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
    /// Looks once.
    ///
    /// # Errors
    /// Why Kafka cannot be used, in its words.
    pub(super) fn look(&self, looking: &mut Looking) -> Result<(), String> {
        self.renew(looking)?;
        if looking.observer.is_none() {
            let mut client = self.settings.reading(None)?;
            // What there is, and not what readers may see of it while a transaction of somebody else is open.
            client.set("isolation.level", "read_uncommitted");
            let made = client.create_with_context(Said::by("journal-watch"));
            looking.observer = Some(made.map_err(words)?);
        }
        let Looking {
            observer: Some(observer),
            ..
        } = looking
        else {
            return Ok(());
        };
        let checked = looking.checked;
        if !self.is_ready() || checked.is_none_or(|checked| checked.elapsed() > CHECK_EVERY) {
            let topic = topic::prepare(observer, &self.settings, &self.runtime)?;
            let most = topic.message_bytes_max;
            let sender = self.sender.load();
            if sender
                .as_ref()
                .is_none_or(|sender| sender.message_bytes_max() != most)
            {
                self.open_sender(most)?;
            }
            self.seen.set_warnings(topic.warnings);
            looking.checked = Some(Instant::now());
        }
        if let Some(sender) = self.sender.load().as_ref()
            && let Some(reason) = sender.fatal()
        {
            tracing::error!(
                reason,
                "the Kafka producer cannot go on; another one is made"
            );
            self.open_sender(sender.message_bytes_max())?;
        }
        let found = topic::look_up(observer, &self.settings.topic, &self.settings, |topic| {
            let mut leaders = topic.partitions().iter().map(|it| it.leader());
            (
                topic.partitions().len(),
                leaders.find(|broker| *broker >= 0),
            )
        })?;
        let Some((partitions, leader)) = found else {
            if looking.doubt.is_over() && self.is_ready() {
                self.is_gone(looking, Another::Missing);
            }
            return Err(format!("topic `{}` is gone", self.settings.topic));
        };
        looking.partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
        let (topic, patience) = (&self.settings.topic, self.settings.patience());
        let id = leader.map(|broker| topic_id(observer.client(), topic, broker, patience));
        let id = id
            .transpose()
            .map_err(|code| format!("topic `{topic}`: {code}"))?
            .flatten();
        let extents = self.extents(observer, looking.partitions)?;
        if let Some(another) = self.is_another(id, &extents) {
            if !looking.doubt.is_over() {
                return Ok(());
            }
            self.is_gone(looking, another);
            return Err("the topic was made anew".to_owned());
        }
        let heard = self.heard.load(Ordering::Acquire);
        let has_news = heard > looking.heard.max(self.generation.load(Ordering::Acquire))
            || id.is_some() && self.seen.topic_id().is_none();
        if !self.is_ready() || has_news {
            let found = Found {
                topic: id,
                written: extents.iter().any(|extent| extent.end > 0),
            };
            self.agree(found, looking.has_lost, &mut looking.doubt)?;
            (looking.has_lost, looking.heard) = (false, heard);
        }
        looking.doubt = Doubt::default();
        self.seen.set_extents(extents);
        // Events are taken in all the same, also while a coordinator of groups is away.
        let fault = self.look_at_groups(looking).err();
        self.seen.set_positions_fault(fault);
        for (route, partition, lag) in self.seen.lags() {
            let gauge = looking.lags.entry((route, partition));
            let gauge =
                gauge.or_insert_with_key(|(route, partition)| KafkaLag::new(route, *partition));
            gauge.set(lag);
        }
        self.probe()
    }

    /// Has all clients made anew when Kafka cannot be used and a password or a certificate has changed since they were.
    fn renew(&self, looking: &mut Looking) -> Result<(), String> {
        if self.seen.problem().is_none() {
            return Ok(());
        }
        let now = self.settings.fingerprint();
        if looking
            .made_with
            .replace(now)
            .is_none_or(|before| before == now)
        {
            return Ok(());
        }
        tracing::info!("a password or certificate for Kafka has changed; it is used from now on");
        looking.observer = None;
        looking.groups.clear();
        self.clients.fetch_add(1, Ordering::Release);
        match self.sender.load().as_ref() {
            Some(sender) => self.open_sender(sender.message_bytes_max()),
            None => Ok(()),
        }
    }

    /// How this is not the topic that was seen before, if so.
    fn is_another(&self, id: Option<u128>, extents: &[Extent]) -> Option<Another> {
        if !self.is_ready() {
            return None;
        }
        let differ = |(now, before)| now != before;
        if id.zip(self.seen.topic_id()).is_some_and(differ) {
            return Some(Another::HasOtherId);
        }
        has_shrunk(&self.seen.extents(), extents).then_some(Another::HasShrunk)
    }

    /// The topic of the name that is known is no more.
    fn is_gone(&self, looking: &mut Looking, another: Another) {
        tracing::error!(topic = self.settings.topic, "{}", another.words());
        looking.checked = None;
        looking.doubt = Doubt::default();
        looking.has_lost = another == Another::HasShrunk;
        self.is_ready.send_replace(false);
        self.seen.forget();
    }

    fn open_sender(&self, message_bytes_max: usize) -> Result<(), String> {
        let client = self.settings.producing(message_bytes_max)?;
        let sender = Sender::open(&client, message_bytes_max)?;
        self.sender.store(Some(Arc::new(sender)));
        Ok(())
    }

    /// Agrees with the other processes on the name of the topic.
    fn agree(&self, found: Found, has_lost: bool, doubt: &mut Doubt) -> Result<(), String> {
        let before = self.seen.identity();
        // It was only away, or is here all the time.
        let is_known = found.topic.is_some() && found.topic == self.seen.topic_id();
        let is_same = !has_lost && (is_known || self.is_ready());
        let former = (before != 0 && !is_same).then_some(before);
        loop {
            let names = table::names(&self.settings)?;
            let names = || names.iter().map(String::as_str);
            let agreed = identity::agreed(names());
            if let Some(agreed) = agreed.filter(|agreed| former != Some(agreed.name)) {
                if found
                    .topic
                    .is_some_and(|id| identity::is_of_former(names(), &agreed, id))
                {
                    return Err("a broker tells of the topic before this one".to_owned());
                }
                // A look ago, it may have been empty still.
                if found.is_another_than(&agreed) && !doubt.is_over() {
                    return Err("the topic is not the one that events were in before".to_owned());
                }
            }
            match identity::next(agreed, found, former) {
                Next::Take(Identity {
                    generation,
                    name,
                    used,
                    ..
                }) => {
                    self.generation.store(generation, Ordering::Release);
                    let used = if used { generation } else { 0 };
                    self.used.store(used, Ordering::Release);
                    self.seen.set_name(Name {
                        identity: name,
                        topic_id: found.topic,
                    });
                    return Ok(());
                }
                Next::Write(records) => {
                    let Some(sender) = self.sender.load_full() else {
                        return Err("there is no producer".to_owned());
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

    /// What each partition holds.
    fn extents(&self, observer: &Observer, partitions: u32) -> Result<Vec<Extent>, String> {
        let starts = self.offsets(observer, partitions, Offset::Beginning)?;
        let ends = self.offsets(observer, partitions, Offset::End)?;
        let extents = (0..partitions).zip(starts).zip(ends);
        let extents = extents.map(|((partition, start), end)| Extent {
            partition,
            start: start.min(end),
            end,
        });
        Ok(extents.collect())
    }

    fn offsets(
        &self,
        observer: &Observer,
        partitions: u32,
        which: Offset,
    ) -> Result<Vec<u64>, String> {
        let said = observer.client().context();
        let list = self.list(partitions, which)?;
        let mut tries = 0;
        let found = loop {
            match observer.offsets_for_times(list.clone(), self.settings.patience()) {
                Ok(found) => break found,
                // Of a topic that was just made, not every broker may know every partition.
                Err(error)
                    if code_of(&error) == RDKafkaErrorCode::UnknownPartition
                        && tries < UNKNOWN_TRIES_MAX =>
                {
                    tries += 1;
                    std::thread::sleep(UNKNOWN_PAUSE);
                }
                Err(error) => {
                    topic::hear(observer);
                    return Err(said.words(&error));
                }
            }
        };
        let mut offsets = vec![0; partitions as usize];
        for element in found.elements() {
            element.error().map_err(|error| said.words(&error))?;
            let place = usize::try_from(element.partition()).ok();
            if let Some(place) = place.and_then(|place| offsets.get_mut(place))
                && let Offset::Offset(offset) = element.offset()
            {
                *place = u64::try_from(offset).unwrap_or_default();
            }
        }
        Ok(offsets)
    }

    fn list(&self, partitions: u32, offset: Offset) -> Result<TopicPartitionList, String> {
        let mut list = TopicPartitionList::with_capacity(partitions as usize);
        for partition in 0..partitions {
            let partition = i32::try_from(partition).map_err(|error| error.to_string())?;
            list.add_partition_offset(&self.settings.topic, partition, offset)
                .map_err(words)?;
        }
        Ok(list)
    }

    fn look_at_groups(&self, looking: &mut Looking) -> Result<(), String> {
        let readers = self.readers();
        self.seen.look_begins();
        for route in self.seen.routes() {
            let reader = readers.iter().find(|reader| reader.route() == route);
            let commits = match reader.and_then(|reader| reader.consumer()) {
                Some(consumer) => self.commits(&*consumer, looking.partitions)?,
                None => {
                    if !looking.groups.contains_key(&route) {
                        let group = self.settings.group(&route);
                        let client = self.settings.reading(Some(&group))?;
                        let made = client.create_with_context(Said::by(&group));
                        looking.groups.insert(route.clone(), made.map_err(words)?);
                    }
                    let observer = &looking.groups[&route];
                    topic::hear(observer);
                    self.commits(observer, looking.partitions)?
                }
            };
            self.seen.set_commits(&route, commits);
        }
        Ok(())
    }

    fn commits<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        partitions: u32,
    ) -> Result<Vec<Committed>, String> {
        let list = self.list(partitions, Offset::Invalid)?;
        let found = consumer.committed_offsets(list, self.settings.patience());
        let found = found.map_err(|error| format!("positions of a group: {}", words(error)))?;
        let topic_id = self.seen.topic_id();
        let commits = found.elements().into_iter().filter_map(|element| {
            let Start { position, state } = Start::of(&element, topic_id)?;
            Some(Committed {
                partition: u32::try_from(element.partition()).ok()?,
                position,
                state,
            })
        });
        Ok(commits.collect())
    }

    /// When appends failed and nobody appends any more, only this finds out that they would not fail now.
    fn probe(&self) -> Result<(), String> {
        let problem = self.seen.problem();
        let Some(sender) = self.sender.load_full() else {
            return Ok(());
        };
        if !problem.is_some_and(|problem| problem.is_of_appends()) {
            return Ok(());
        }
        let record = [(
            format!("{}probe", identity::OWN),
            Some(Bytes::from_static(b"1")),
        )];
        let put = table::put(&sender, &self.settings, &record);
        match self.runtime.block_on(put) {
            Ok(_) => {
                self.seen.acknowledged();
                Ok(())
            }
            Err(error) => Err(error.to_string()),
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
