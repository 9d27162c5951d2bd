//! The id of a topic, which one that is made anew under the same name does not have (KIP-516).
//!
//! librdkafka tells it in answer to its `DescribeTopics`, which the crate `rdkafka` does not wrap.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

/// What librdkafka made, and how it is freed.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    /// # Errors
    /// It made nothing.
    fn new(made: *mut T, free: unsafe extern "C" fn(*mut T)) -> Result<Self, RDKafkaErrorCode> {
        if made.is_null() {
            return Err(RDKafkaErrorCode::Fail);
        }
        Ok(Self(made, free))
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: librdkafka made it, and nobody else frees it.
        unsafe { (self.1)(self.0) }
    }
}

/// The id of this topic, as this broker knows it; `None` if it tells none, as before Kafka 2.8. Blocks.
///
/// # Errors
/// `UnknownTopicOrPartition`: there is no such topic. `OperationTimedOut`, and what else Kafka says.
pub(crate) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    broker: i32,
    patience: Duration,
) -> Result<Option<u128>, RDKafkaErrorCode> {
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let name = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    let mut names = [name.as_ptr()];
    let client = client.native_ptr();
    // SAFETY: the client lives as long as its borrow, and what is made of it here is freed before; librdkafka copies the names.
    // What an event tells lives as long as the event.
    unsafe {
        let topics = native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        let topics = Owned::new(topics, native::rd_kafka_TopicCollection_destroy)?;
        let queue = native::rd_kafka_queue_new(client);
        let queue = Owned::new(queue, native::rd_kafka_queue_destroy)?;
        let describe = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = native::rd_kafka_AdminOptions_new(client, describe);
        let options = Owned::new(options, native::rd_kafka_AdminOptions_destroy)?;
        let set = native::rd_kafka_AdminOptions_set_request_timeout;
        checked(set(options.0, millis, ptr::null_mut(), 0))?;
        // Not the controller, which may be away while all leaders are there.
        let set = native::rd_kafka_AdminOptions_set_broker;
        checked(set(options.0, broker, ptr::null_mut(), 0))?;
        native::rd_kafka_DescribeTopics(client, topics.0, options.0, queue.0);
        let event = native::rd_kafka_queue_poll(queue.0, millis);
        let event = Owned::new(event, native::rd_kafka_event_destroy)
            .map_err(|_| RDKafkaErrorCode::OperationTimedOut)?;
        match checked(native::rd_kafka_event_error(event.0)) {
            Err(RDKafkaErrorCode::UnsupportedFeature) => return Ok(None),
            told => told?,
        }
        let result = native::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(RDKafkaErrorCode::Fail);
        }
        let mut count = 0;
        let described = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if described.is_null() || count == 0 {
            return Err(RDKafkaErrorCode::Fail);
        }
        let described = *described;
        let error = native::rd_kafka_TopicDescription_error(described);
        checked(native::rd_kafka_error_code(error))?;
        let id = native::rd_kafka_TopicDescription_topic_id(described);
        let high = native::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned();
        let low = native::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned();
        let id = u128::from(high) << 64 | u128::from(low);
        Ok((id != 0).then_some(id))
    }
}

fn checked(code: RDKafkaRespErr) -> Result<(), RDKafkaErrorCode> {
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        error => Err(error),
    }
}
