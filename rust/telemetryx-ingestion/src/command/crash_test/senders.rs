//! Those who send meanwhile: a load for each protocol, and what it was promised.

use std::sync::Arc;

use parking_lot::Mutex;

use super::rounds::CrashPlan;
use super::service::{RING_KEY, ServiceUnderTest};
use super::verdict::Acknowledgements;
use crate::command::load::Protocol;
use crate::command::load::engine::{Load, LoadPlan};
use crate::command::load::template::Shape;

/// Ids are this, the protocol and a number.
const ID_PREFIX: &str = "crash";
/// Frames under way on each connection of framed TCP.
const FRAMES_IN_FLIGHT: usize = 16;

/// One protocol's load, until it is stopped.
pub(super) struct Sender {
    protocol: Protocol,
    shape: Shape,
    load: Load,
    acknowledged: Arc<Mutex<Acknowledgements>>,
}

/// What a sender did.
#[derive(Debug)]
pub(super) struct SentBy {
    pub(super) protocol: Protocol,
    pub(super) shape: Shape,
    pub(super) sent: u64,
    pub(super) acknowledged: Acknowledgements,
}

impl Sender {
    /// Starts to send; rate and connections are shared evenly by all protocols of the plan.
    pub(super) fn start(plan: &CrashPlan, protocol: Protocol, service: &ServiceUnderTest) -> Self {
        let share = plan.protocols.len();
        let shape = Shape {
            protocol,
            batch: if protocol.has_batches() {
                plan.batch
            } else {
                1
            },
            id_prefix: Some(format!("{ID_PREFIX}-{protocol}")),
            hmac_key: RING_KEY.to_owned(),
            ..Shape::default()
        };
        let acknowledged = Arc::new(Mutex::new(Acknowledgements::default()));
        let book = Arc::clone(&acknowledged);
        let load = Load::start(LoadPlan {
            rate: plan.rate.div_ceil(share as u64),
            connections: plan.connections.div_ceil(share),
            in_flight: FRAMES_IN_FLIGHT,
            keep_going: true,
            on_acknowledged: Some(Arc::new(move |request| book.lock().add(request))),
            ..LoadPlan::new(service.target(protocol), shape.clone())
        });
        Self {
            protocol,
            shape,
            load,
            acknowledged,
        }
    }

    /// Events acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.lock().count()
    }

    pub(super) async fn stop(self) -> SentBy {
        let sent = self.load.stop().await.sent;
        SentBy {
            protocol: self.protocol,
            shape: self.shape,
            sent,
            acknowledged: std::mem::take(&mut *self.acknowledged.lock()),
        }
    }
}
