//! A route's consumer: a member of the route's group, and the partitions that the group gives to this process.
//!
//! A thread polls it for ever, so that the group never takes the process for hung while a sink is down: what is polled
//! there is only who reads what. Events of each partition are in a queue of their own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::{Condvar, Mutex};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::super::{Assignment, Assignments, JournalError};
use super::assignment::{Held, KafkaAssignment, Start};
use super::watch::Watch;
use crate::kafka::context::Said;
use crate::kafka::settings::words;

/// How long a partition that goes to another process is waited for: its route settles what is under way and commits.
const HAND_OVER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often the thread looks whether to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Without a partition for so long, a process is said to be idle.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// A consumer of a route.
pub(super) type RouteConsumer = BaseConsumer<Member>;

/// See the module.
pub(super) struct Reader {
    route: String,
    watch: Arc<Watch>,
    consumer: Mutex<Weak<RouteConsumer>>,
    held: Mutex<HashMap<u32, Arc<Held>>>,
    handed: mpsc::UnboundedSender<Arc<Held>>,
    stopped: AtomicBool,
    is_idle: AtomicBool,
    has_ended: Mutex<bool>,
    ending: Condvar,
}

/// What librdkafka calls: from the thread that polls, but for its log.
pub(super) struct Member {
    said: Said,
    reader: Arc<Reader>,
}

/// What the route gets.
struct Coming {
    reader: Arc<Reader>,
    partitions: mpsc::UnboundedReceiver<Arc<Held>>,
}

/// Joins the group of `route`.
pub(super) fn subscribe(
    watch: &Arc<Watch>,
    route: &str,
) -> Result<Box<dyn Assignments>, JournalError> {
    if watch.is_closed() {
        return Err(JournalError::Closed);
    }
    let (handed, partitions) = mpsc::unbounded_channel();
    let reader = Arc::new(Reader {
        route: route.to_owned(),
        watch: Arc::clone(watch),
        consumer: Mutex::default(),
        held: Mutex::default(),
        handed,
        stopped: AtomicBool::new(false),
        is_idle: AtomicBool::new(false),
        has_ended: Mutex::new(false),
        ending: Condvar::new(),
    });
    // Its backlog is seen from now on.
    watch.seen().commits(route);
    watch.add_reader(&reader);
    let thread = std::thread::Builder::new().name("kafka-group".to_owned());
    let member = Arc::clone(&reader);
    thread
        .spawn(move || member.run())
        .map_err(|error| JournalError::Io(error.to_string()))?;
    Ok(Box::new(Coming { reader, partitions }))
}

#[async_trait]
impl Assignments for Coming {
    async fn next(&mut self) -> Result<Box<dyn Assignment>, JournalError> {
        let held = self.partitions.recv().await.ok_or(JournalError::Closed)?;
        Ok(Box::new(KafkaAssignment::new(held)))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.reader.stop();
    }
}

impl Reader {
    pub(super) fn route(&self) -> &str {
        &self.route
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The consumer, while there is one.
    pub(super) fn consumer(&self) -> Option<Arc<RouteConsumer>> {
        self.consumer.lock().upgrade()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::Relaxed)
    }

    /// Leaves the group soon.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.watch.is_closed()
    }

    /// Waits until it has left; blocks.
    pub(super) fn ended(&self, until: Instant) {
        let mut ended = self.has_ended.lock();
        while !*ended && !self.ending.wait_until(&mut ended, until).timed_out() {}
    }

    fn run(self: Arc<Self>) {
        let mut said = None;
        while !self.is_stopped() {
            // Without the topic and its name nothing can be read.
            if !self.watch.is_ready() {
                std::thread::sleep(LOOK);
                continue;
            }
            let (clients, identity) = (self.watch.clients(), self.watch.seen().identity());
            match self.open() {
                Ok(consumer) => {
                    said = None;
                    self.poll(consumer, || {
                        let watch = &self.watch;
                        watch.is_ready()
                            && (watch.clients(), watch.seen().identity()) == (clients, identity)
                    });
                }
                Err(error) => {
                    if said.as_ref() != Some(&error) {
                        tracing::warn!(
                            route = self.route,
                            error,
                            "the route's group cannot be joined"
                        );
                        said = Some(error);
                    }
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
        *self.has_ended.lock() = true;
        self.ending.notify_all();
    }

    fn open(self: &Arc<Self>) -> Result<Arc<RouteConsumer>, String> {
        let settings = self.watch.settings();
        let group = settings.group(&self.route);
        let client = settings.reading(Some(&group))?;
        let member = Member {
            said: Said::by(&group),
            reader: Arc::clone(self),
        };
        let consumer: RouteConsumer = client.create_with_context(member).map_err(words)?;
        let consumer = Arc::new(consumer);
        *self.consumer.lock() = Arc::downgrade(&consumer);
        consumer.subscribe(&[&settings.topic]).map_err(words)?;
        Ok(consumer)
    }

    /// Until it is to stop, or another client is to take its place since this is not the right one any more.
    fn poll(&self, consumer: Arc<RouteConsumer>, is_right: impl Fn() -> bool) {
        let mut without_since = Instant::now();
        while !self.is_stopped() && is_right() {
            match consumer.poll(LOOK) {
                // Between the assignment and the moment when its queue is split off there is nothing to be fetched.
                Some(Ok(message)) => tracing::error!(
                    route = self.route,
                    offset = rdkafka::Message::offset(&message),
                    "an event came by the wrong queue"
                ),
                Some(Err(error)) => {
                    tracing::debug!(route = self.route, %error, "reading from Kafka")
                }
                None => {}
            }
            if !self.held.lock().is_empty() {
                without_since = Instant::now();
                self.is_idle.store(false, Ordering::Relaxed);
            } else if without_since.elapsed() > IDLE_AFTER
                && self.watch.seen().problem().is_none()
                && !self.is_idle.swap(true, Ordering::Relaxed)
            {
                tracing::info!(
                    route = self.route,
                    "this process is idle for the route: other processes read all partitions"
                );
            }
        }
        // What waits to be handed out is of no use; what was, is given back before the group is left.
        let all: Vec<_> = self.held.lock().drain().map(|(_, held)| held).collect();
        self.give_back(&all, false);
        drop(all);
        drop(consumer);
    }

    /// Waits, if there is time, until nobody uses these partitions; then nobody can.
    fn give_back(&self, partitions: &[Arc<Held>], are_lost: bool) {
        for held in partitions {
            held.revoked().cancel();
        }
        let until = Instant::now() + HAND_OVER_WAIT_MAX;
        for held in partitions {
            if !are_lost && !held.wait_dropped(until) {
                tracing::warn!(
                    route = self.route,
                    partition = held.partition(),
                    "a partition was not given back in time: some of it may be delivered twice"
                );
            }
            held.end();
        }
    }

    fn assign(self: &Arc<Self>, member: &RouteConsumer, list: &TopicPartitionList) {
        let Some(consumer) = self.consumer().filter(|_| !self.is_stopped()) else {
            // On its way out.
            member.incremental_assign(list).ok();
            return;
        };
        let patience = self.watch.settings().patience();
        // What cannot be asked now is asked when the partition is opened.
        let committed = consumer.committed_offsets(list.clone(), patience).ok();
        let name = self.watch.seen().name();
        let mut starts = TopicPartitionList::with_capacity(list.count());
        let mut all = Vec::new();
        for element in list.elements() {
            let found = committed.as_ref();
            let found =
                found.and_then(|all| all.find_partition(element.topic(), element.partition()));
            let start = found.map(|found| Start::of(&found, name.topic_id));
            let from = match &start {
                None => Offset::Stored,
                Some(None) => Offset::Beginning,
                Some(Some(start)) => start.offset(),
            };
            let queue = consumer.split_partition_queue(element.topic(), element.partition());
            let number = u32::try_from(element.partition());
            let (Some(queue), Ok(number)) = (queue, number) else {
                tracing::error!(
                    route = self.route,
                    partition = element.partition(),
                    "no queue"
                );
                continue;
            };
            let added = starts.add_partition_offset(element.topic(), element.partition(), from);
            if let Err(error) = added {
                tracing::error!(route = self.route, partition = number, %error, "no place to begin at");
                continue;
            }
            all.push(Arc::new(Held::new(
                name,
                number,
                Arc::clone(self),
                queue,
                start,
            )));
        }
        if let Err(error) = member.incremental_assign(&starts) {
            tracing::error!(route = self.route, %error, "partitions cannot be assigned");
            return;
        }
        for held in all {
            tracing::info!(
                route = self.route,
                partition = held.partition(),
                "this process reads a partition"
            );
            self.held.lock().insert(held.partition(), Arc::clone(&held));
            self.handed.send(held).ok();
        }
    }

    fn revoke(&self, member: &RouteConsumer, list: &TopicPartitionList) {
        let are_lost = member.assignment_lost();
        let gone: Vec<_> = {
            let mut held = self.held.lock();
            let numbers = list.elements().into_iter();
            let numbers = numbers.filter_map(|element| u32::try_from(element.partition()).ok());
            numbers.filter_map(|number| held.remove(&number)).collect()
        };
        for held in &gone {
            let (route, partition) = (&self.route, held.partition());
            if are_lost {
                tracing::warn!(
                    route,
                    partition,
                    "the group gave a partition to another process: this one did not answer"
                );
            } else {
                tracing::info!(route, partition, "a partition goes to another process");
            }
        }
        self.give_back(&gone, are_lost);
        if let Err(error) = member.incremental_unassign(list) {
            tracing::error!(route = self.route, %error, "partitions cannot be given back");
        }
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.said.log(level, facility, message);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.said.error(error, reason);
    }
}

impl ConsumerContext for Member {
    fn rebalance(
        &self,
        consumer: &RouteConsumer,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.reader.assign(consumer, list);
            }
            _ => self.reader.revoke(consumer, list),
        }
    }
}
