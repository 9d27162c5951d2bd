//! The rules of an event that need a clock or the config. Everything else was checked while decoding.

use std::time::Duration;

use crate::{ErrorCode, Event, EventError, FieldSet, Timestamp};

/// What the config asks of every event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationRules {
    /// How far `ts` may be ahead of the service's clock, in nanoseconds. Default: 5 minutes.
    pub max_future_nanos: u64,
    /// Fields that must be given, beyond `ts`. Default: none.
    pub required: FieldSet,
}

impl Default for ValidationRules {
    fn default() -> Self {
        ValidationRules::new(Duration::from_secs(300), FieldSet::EMPTY)
    }
}

impl ValidationRules {
    /// Rules that let `ts` be at most `max_future` ahead, and ask for `required`.
    #[must_use]
    pub fn new(max_future: Duration, required: FieldSet) -> Self {
        ValidationRules {
            max_future_nanos: u64::try_from(max_future.as_nanos()).unwrap_or(u64::MAX),
            required,
        }
    }

    /// Says whether the event may enter. `now` is the service's clock, read once a batch.
    ///
    /// # Errors
    ///
    /// The first rule that the event breaks, with index 0: the caller knows which event it was and says so with
    /// [`EventError::at`].
    #[inline]
    pub fn check(&self, event: &Event<'_>, now: Timestamp) -> Result<(), EventError> {
        let missing = self.required.without(event.given);
        if !missing.is_empty() {
            return Err(missing_field(missing));
        }
        let latest = now
            .unix_nanos()
            .saturating_add_unsigned(self.max_future_nanos);
        if event.ts.unix_nanos() > latest {
            return Err(self.in_future(event.ts, now));
        }
        Ok(())
    }

    #[cold]
    fn in_future(&self, ts: Timestamp, now: Timestamp) -> EventError {
        let limit = Duration::from_nanos(self.max_future_nanos);
        let message = format!(
            "`ts` is {ts}, more than {limit:?} ahead of the service's clock at {now}: check the sender's clock"
        );
        EventError::new("ts", ErrorCode::TimestampInFuture, message)
    }
}

#[cold]
fn missing_field(missing: FieldSet) -> EventError {
    let name = missing.first_name();
    let all: Vec<_> = missing.names().map(|name| format!("`{name}`")).collect();
    let message = format!("{} must be given and not be empty", all.join(", "));
    EventError::new(name, ErrorCode::MissingField, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_nanos(1_735_689_600_000_000_000);

    fn event_ahead_by(nanos: i64) -> Event<'static> {
        Event::new(Timestamp::from_unix_nanos(NOW.unix_nanos() + nanos))
    }

    #[test]
    fn five_minutes_ahead_is_taken_and_one_nanosecond_more_is_not() {
        let rules = ValidationRules::default();
        let limit = 300_000_000_000;
        assert_eq!(rules.check(&event_ahead_by(limit), NOW), Ok(()));
        let error = rules.check(&event_ahead_by(limit + 1), NOW).unwrap_err();
        assert_eq!(error.code, ErrorCode::TimestampInFuture);
        assert_eq!(error.field, "ts");
        assert!(error.message.contains("300s"), "{}", error.message);
    }

    #[test]
    fn an_endless_limit_does_not_overflow() {
        let rules = ValidationRules::new(Duration::MAX, FieldSet::EMPTY);
        let last = Event::new(Timestamp::from_unix_nanos(i64::MAX));
        assert_eq!(rules.check(&last, NOW), Ok(()));
    }

    #[test]
    fn required_fields_that_were_filled_in_are_missing() {
        let required = FieldSet::TYPE | FieldSet::SOURCE;
        let rules = ValidationRules::new(Duration::ZERO, required);
        let mut event = event_ahead_by(0);
        event.given |= FieldSet::TYPE;
        let error = rules.check(&event, NOW).unwrap_err();
        assert_eq!(
            (error.code, error.field.as_ref()),
            (ErrorCode::MissingField, "source")
        );
        event.given |= FieldSet::SOURCE;
        assert_eq!(rules.check(&event, NOW), Ok(()));
    }
}
