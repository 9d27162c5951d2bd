//! Dead letters of a route, sent again because an operator asked for it.
//!
//! The book is moved from dead to delivered in memory, saved with the next commit together with the letter's number, and
//! only then is the letter removed: whenever a crash comes, the letter is counted once.

use telemetryx_common::wire;

use super::delivering::Stopped;
use super::runner::{Reader, RouteError};
use super::shared_sink::Delivered;
use super::{Cause, EventBatch, Letter};
use crate::clock;
use crate::control::Kept;
use crate::journal::log_of;
use crate::sinks::{DeliverError, RejectedBySink};

/// Letters taken at a time.
const AT_ONCE: u32 = 200;

/// What came of it.
pub(super) enum Redriven {
    /// No letter waits.
    Nothing,
    /// Some were settled; commit, then ask again.
    Some,
    /// The sink cannot take them now, for this reason; ask again later.
    Later(String),
    /// The route is to stop, and nobody knows whether the sink has a letter: no commit any more.
    Stopped,
}

/// Sends some of the letters that wait.
pub(super) async fn serve(reader: &mut Reader) -> Result<Redriven, RouteError> {
    let letters = reader
        .control
        .letters_to_redrive(
            Some((reader.handle.name(), reader.handle.partition())),
            AT_ONCE,
        )
        .map_err(|error| RouteError::Rewind(error.to_string()))?;
    let mut done = Redriven::Nothing;
    for letter in letters {
        if reader.redriven.contains(&letter.id) {
            // Sent, and gone with the next commit: then those behind it are found.
            done = Redriven::Some;
            continue;
        }
        if !reader.deliverer.sink.rests_for().is_zero() {
            let why = "its destination wants to be left alone for a while";
            return Ok(Redriven::Later(why.to_owned()));
        }
        done = Redriven::Some;
        let Ok(sent) = send(reader, &letter).await else {
            return Ok(Redriven::Stopped);
        };
        match sent {
            Ok(delivered) => {
                reader.redriven.push(letter.id);
                if !reader.handle.redriven(delivered) {
                    reader.metrics.internal_errors.increment(1);
                    tracing::error!(
                        letter = letter.id,
                        "a dead letter was sent again that no book has"
                    );
                }
            }
            Err(DeliverError::Rejected(why)) => {
                let (code, message) = why
                    .into_iter()
                    .next()
                    .map_or_else(Default::default, |why| (why.code, why.message));
                bury_again(reader, letter.id, code, message).await?;
            }
            Err(error) => return Ok(Redriven::Later(error.to_string())),
        }
    }
    Ok(done)
}

async fn bury_again(
    reader: &Reader,
    id: i64,
    code: &str,
    message: String,
) -> Result<(), RouteError> {
    let buried = reader
        .control
        .bury_again(id, code.to_owned(), message)
        .await;
    buried.map_err(|error| RouteError::Rewind(error.to_string()))
}

/// True if the sink has it now; false if the route does not want it any more.
///
/// # Errors
/// [`Stopped`]; the inner error is the sink's, or a processor's.
async fn send(reader: &Reader, letter: &Kept) -> Result<Result<bool, DeliverError>, Stopped> {
    let mut batch = match batch_of(reader, letter).await {
        Ok(batch) if batch.is_empty() => return Ok(Ok(false)),
        Ok(batch) => batch,
        Err(error) => return Ok(Err(error)),
    };
    let mut done = Delivered::default();
    let attempt = reader.deliverer.attempt(&mut batch, &mut done, false);
    if let Err(error) = attempt.await? {
        return Ok(Err(DeliverError::Retryable(error)));
    }
    Ok(match done.rejected.into_iter().next() {
        None => Ok(true),
        Some((_, event)) => Err(DeliverError::Rejected(vec![event])),
    })
}

/// The letter's event, processed.
async fn batch_of<'l>(reader: &Reader, letter: &'l Kept) -> Result<EventBatch<'l>, DeliverError> {
    let rejected = |code, message| {
        DeliverError::Rejected(vec![RejectedBySink {
            index: 0,
            code,
            message,
        }])
    };
    let log = log_of(reader.assignment.identity(), reader.handle.partition());
    let number = letter.id;
    let cause = Cause::Redrive(Letter { log, number });
    let mut batch = EventBatch::new(cause, clock::now());
    for event in wire::events(&letter.body) {
        let event = event.map_err(|error| rejected("unreadable", error.to_string()))?;
        batch.push(letter.offset.unwrap_or_default(), event);
    }
    // Without those that keep state: most have seen the event when it came the first time.
    let refused = reader
        .pipeline
        .stateless()
        .process(&mut batch)
        .await
        .map_err(DeliverError::Retryable)?;
    match refused.into_iter().next() {
        Some(refused) => Err(rejected("processing", refused.message)),
        None => Ok(batch),
    }
}
