//! What is in the topics of a Kafka: made by name, and read with librdkafka's consumer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::Kafka;
use crate::eventually::{eventually, eventually_some};

/// No answer within this time fails the test.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);
/// A topic that takes longer to read fails it too.
const READ_WAIT_MAX: Duration = Duration::from_secs(60);

/// A message as it is in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaMessage {
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Vec<u8>,
    /// Its headers, as text.
    pub headers: Vec<(String, String)>,
    /// Milliseconds since 1970, as its producer said.
    pub timestamp: Option<i64>,
}

impl KafkaMessage {
    /// The header of that name.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(have, _)| have == name);
        &found
            .unwrap_or_else(|| panic!("no header `{name}`: {self:?}"))
            .1
    }
}

impl Kafka {
    /// Makes a topic; `settings` as `max.message.bytes`.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let replicas = TopicReplication::Fixed(self.nodes.len() as i32);
        let topic = settings.iter().fold(
            NewTopic::new(name, partitions, replicas),
            |topic, (key, value)| topic.set(key, value),
        );
        self.administer(async |admin, options| {
            let made = admin.create_topics([&topic], options).await?;
            made.into_iter().for_each(|one| {
                one.expect("the topic can be made");
            });
            Ok(())
        });
        // Known to all brokers.
        eventually(ANSWER_WAIT_MAX, "the topic is there", || {
            let consumer = self.consumer();
            let found = consumer.fetch_metadata(Some(name), ANSWER_WAIT_MAX);
            found.is_ok_and(|found| {
                let topic = &found.topics()[0];
                topic.partitions().len() == partitions as usize
                    && topic.partitions().iter().all(|part| part.leader() >= 0)
            })
        });
    }

    /// Removes a topic.
    #[track_caller]
    pub fn delete_topic(&self, name: &str) {
        self.administer(async |admin, options| {
            admin.delete_topics(&[name], options).await.map(drop)
        });
    }

    /// Every message that is in a topic now, partition by partition in order.
    ///
    /// # Panics
    /// If it cannot be read.
    #[track_caller]
    pub fn messages(&self, topic: &str) -> Vec<KafkaMessage> {
        let consumer = self.consumer();
        let mut found = None;
        eventually(ANSWER_WAIT_MAX, "each partition has a leader", || {
            // A leader that is new does not know it yet, and says so.
            let Ok(metadata) = consumer.fetch_metadata(Some(topic), ANSWER_WAIT_MAX) else {
                return false;
            };
            let parts = found.insert(metadata).topics()[0].partitions();
            !parts.is_empty() && parts.iter().all(|part| part.leader() >= 0)
        });
        let metadata = found.expect("it was asked");
        let mut ends = BTreeMap::new();
        let mut list = TopicPartitionList::new();
        for part in metadata.topics()[0].partitions() {
            let (low, high) = eventually_some(ANSWER_WAIT_MAX, "the leader answers", || {
                consumer
                    .fetch_watermarks(topic, part.id(), ANSWER_WAIT_MAX)
                    .ok()
            });
            if low < high {
                ends.insert(part.id(), high);
                let from = Offset::Offset(low);
                list.add_partition_offset(topic, part.id(), from)
                    .expect("an offset that there is");
            }
        }
        consumer.assign(&list).expect("partitions can be assigned");
        let (mut messages, begun) = (Vec::new(), Instant::now());
        while !ends.is_empty() {
            assert!(
                begun.elapsed() < READ_WAIT_MAX,
                "`{topic}` cannot be read to its end"
            );
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
                continue;
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let headers = message.headers().into_iter().flat_map(|all| {
                all.iter()
                    .map(|one| (one.key.to_owned(), text(one.value.unwrap_or_default())))
                    .collect::<Vec<_>>()
            });
            messages.push(KafkaMessage {
                partition: message.partition(),
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().unwrap_or_default().to_vec(),
                headers: headers.collect(),
                timestamp: message.timestamp().to_millis(),
            });
            if ends
                .get(&message.partition())
                .is_some_and(|end| message.offset() + 1 >= *end)
            {
                ends.remove(&message.partition());
            }
        }
        messages.sort_by_key(|message| (message.partition, message.offset));
        messages
    }

    pub(super) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        let running = self.nodes.iter().filter(|node| node.process.is_there());
        let direct: Vec<_> = running
            .map(|node| format!("127.0.0.1:{}", node.direct_port))
            .collect();
        client
            .set("bootstrap.servers", direct.join(","))
            .set_log_level(RDKafkaLogLevel::Critical);
        client
    }

    fn consumer(&self) -> BaseConsumer {
        let mut client = self.client();
        client
            .set("group.id", "tests")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "10")
            .set("auto.offset.reset", "error");
        client.create().expect("the consumer's settings are right")
    }

    #[track_caller]
    fn administer(
        &self,
        work: impl AsyncFnOnce(
            &AdminClient<DefaultClientContext>,
            &AdminOptions,
        ) -> Result<(), rdkafka::error::KafkaError>,
    ) {
        let admin = self.client().create().expect("the settings are right");
        let options = AdminOptions::new()
            .operation_timeout(Some(ANSWER_WAIT_MAX))
            .request_timeout(Some(ANSWER_WAIT_MAX));
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime can be made")
            .block_on(work(&admin, &options))
            .expect("the broker does it");
    }
}
