//! Finds in the topic what was handed over: each message that comes from a spill says so in a header.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::{Offset, TopicPartitionList};

use super::super::settings::Settings;
use crate::kafka::context::Said;
use crate::kafka::settings::words;

/// `<identity of the spill>/<offset there>`, the identity hexadecimal.
const HEADER: &str = "spill";
/// Kafka must give something within this time.
const NEWS_WAIT_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// Part of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) partition: u32,
    pub(super) from: u64,
    /// Up to here; to the end if it is `None`.
    pub(super) to: Option<u64>,
}

/// Headers of a message, and the one that says where in the spill it was.
pub(super) fn mark(headers: Option<OwnedHeaders>, id: u128, offset: u64) -> OwnedHeaders {
    let value = format!("{id:032x}/{offset}");
    headers.unwrap_or_default().insert(Header {
        key: HEADER,
        value: Some(value.as_bytes()),
    })
}

fn marked(message: &BorrowedMessage<'_>, id: u128) -> Option<u64> {
    let headers = message.headers()?;
    let header = headers.iter().find(|header| header.key == HEADER)?;
    let text = std::str::from_utf8(header.value?).ok()?;
    let (whose, offset) = text.split_once('/')?;
    let whose = u128::from_str_radix(whose, 16).ok()?;
    (whose == id).then(|| offset.parse().ok()).flatten()
}

/// Where in these regions the events of the spill `id` with these offsets are, by offset: partition and offset there. The first
/// place of each, if it is there more than once. Blocks, until `stop` at most.
///
/// # Errors
/// Kafka's words.
pub(super) fn find(
    settings: &Settings,
    regions: &[Region],
    id: u128,
    wanted: &Range<u64>,
    stop: impl Fn() -> bool,
) -> Result<BTreeMap<u64, (u32, u64)>, String> {
    let mut found = BTreeMap::new();
    // The name of a group is needed to be given partitions by hand; there is no such group.
    let mut client = settings.reading(Some(&settings.group("spill")))?;
    client.set("enable.partition.eof", "true");
    // What hides behind another's open transaction is there as well.
    client.set("isolation.level", "read_uncommitted");
    let made = client.create_with_context(Said::by("journal-spill"));
    let consumer: BaseConsumer<Said> = made.map_err(words)?;
    let mut open = BTreeMap::new();
    let mut list = TopicPartitionList::new();
    for region in regions {
        let native = i32::try_from(region.partition).map_err(|error| error.to_string())?;
        let (start, end) = consumer
            .fetch_watermarks(&settings.topic, native, settings.patience())
            .map_err(|error| consumer.client().context().words(&error))?;
        let (start, end) = (start.max(0).cast_unsigned(), end.max(0).cast_unsigned());
        let (from, to) = (region.from.max(start), region.to.unwrap_or(end).min(end));
        if from < to {
            let from = i64::try_from(from).map_err(|error| error.to_string())?;
            list.add_partition_offset(&settings.topic, native, Offset::Offset(from))
                .map_err(words)?;
            open.insert(native, to);
        }
    }
    consumer.assign(&list).map_err(words)?;
    let mut news = Instant::now();
    while !open.is_empty() {
        if stop() {
            return Err("it was given up".to_owned());
        }
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                news = Instant::now();
                let offset = message.offset().max(0).cast_unsigned();
                let partition = message.partition();
                let Some(to) = open.get(&partition).copied() else {
                    continue;
                };
                if offset < to
                    && let Some(spilled) =
                        marked(&message, id).filter(|spilled| wanted.contains(spilled))
                {
                    let place = (partition.max(0).cast_unsigned(), offset);
                    found.entry(spilled).or_insert(place);
                }
                if offset + 1 >= to {
                    open.remove(&partition);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                news = Instant::now();
                open.remove(&partition);
            }
            Some(Err(error)) if news.elapsed() > NEWS_WAIT_MAX => return Err(words(error)),
            None if news.elapsed() > NEWS_WAIT_MAX => {
                let last = consumer.client().context().last_error();
                return Err(last.unwrap_or_else(|| "Kafka gives nothing".to_owned()));
            }
            Some(Err(_)) | None => {}
        }
    }
    Ok(found)
}
