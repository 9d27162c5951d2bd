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
use super::super::identity::{self, Found};
use super::super::producer::Sender;
use super::super::table;
use super::super::topic::{self, Observer};
use super::Watch;
use super::naming::{Another, Doubt, Doubted};
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

/// What the thread keeps for itself.
#[derive(Default)]
pub(super) struct Looking {
    observer: Option<Observer>,
    /// One for the group of each route that this process does not read.
    groups: HashMap<String, Observer>,
    partitions: u32,
    pub(super) checked: Option<Instant>,
    lags: HashMap<(String, u32), KafkaLag>,
    pub(super) doubt: Option<Doubt>,
    /// The name of a topic that is gone, and how that showed.
    pub(super) former: Option<(u128, Another)>,
    /// The passwords and certificates of the clients.
    made_with: Option<Fingerprint>,
}

impl Looking {
    /// True while the next look is to show whether the topic is another one.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }
}

impl Watch {
    /// Looks once.
    ///
    /// # Errors
    /// Why Kafka cannot be used, in its words.
    pub(super) fn look(&self, looking: &mut Looking) -> Result<(), String> {
        self.renew(looking)?;
        // It lasts only if this look has it again.
        let doubt_before = looking.doubt.take();
        let doubt = |doubted| Doubt::after(doubt_before, doubted);
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
            if self.is_ready() {
                self.doubt_topic(looking, doubt(Doubted::Topic), Another::Missing);
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
            return match self.doubt_topic(looking, doubt(Doubted::Topic), another) {
                true => Err("the topic was made anew".to_owned()),
                false => Ok(()),
            };
        }
        let heard = self.heard.load(Ordering::Acquire);
        let has_news = heard > self.generation.load(Ordering::Acquire)
            || id.is_some() && self.seen.topic_id().is_none();
        if !self.is_ready() || has_news {
            let found = Found {
                topic: id,
                written: extents.iter().any(|extent| extent.end > 0),
            };
            let agreed = self.agree(found, looking.former, doubt);
            let generation = agreed.map_err(|disagreement| {
                looking.doubt = disagreement.doubt;
                disagreement.words
            })?;
            looking.former = None;
            // Unless somebody claimed yet another one meanwhile. One of a control topic that is no more counts for nothing.
            let order = Ordering::AcqRel;
            self.heard
                .compare_exchange(heard, generation, order, Ordering::Relaxed)
                .ok();
        }
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

    fn open_sender(&self, message_bytes_max: usize) -> Result<(), String> {
        let client = self.settings.producing(message_bytes_max)?;
        let sender = Sender::open(&client, message_bytes_max)?;
        self.sender.store(Some(Arc::new(sender)));
        Ok(())
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
