//! Which events of an admitted request are kept while the backlog is full.

use telemetryx_common::Event;

use crate::admission::OverflowGate;

/// The attribute of an event that a sample kept: the share that was kept, so that sums can be scaled up again.
const SAMPLE_RATE: &str = "sample_rate";

/// What the overflow policy leaves of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// There is room.
    All,
    /// Nothing.
    None,
    /// The events that are drawn, and those say so.
    Sample,
}

impl Share {
    /// Whether this event is kept.
    pub(super) fn keeps(self, event: &mut Event<'_>, overflow: &OverflowGate) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Sample => {
                let drawn = overflow.draw();
                if drawn {
                    mark(event, overflow.sample_rate());
                }
                drawn
            }
        }
    }
}

/// Writes the rate into the event. One that the client sampled itself counts for as many as both shares together say.
fn mark(event: &mut Event<'_>, rate: f64) {
    let place = event
        .attributes
        .binary_search_by(|(name, _)| name.as_ref().cmp(SAMPLE_RATE));
    match place {
        Ok(place) => {
            let value = &mut event.attributes[place].1;
            let before = value
                .parse()
                .ok()
                .filter(|before| (0.0..=1.0).contains(before));
            *value = (rate * before.unwrap_or(1.0)).to_string().into();
        }
        Err(place) => {
            let mark = (SAMPLE_RATE.into(), rate.to_string().into());
            event.attributes.insert(place, mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use telemetryx_common::Timestamp;

    use super::*;

    fn marked(attributes: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        let attributes = attributes.iter();
        event.attributes = attributes
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        mark(&mut event, 0.25);
        let owned = |(name, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
            (name.into_owned(), value.into_owned())
        };
        event.attributes.into_iter().map(owned).collect()
    }

    #[test]
    fn the_rate_is_written_in_its_place_and_multiplied_with_the_clients_own() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(marked(&[]), [pair("sample_rate", "0.25")]);
        assert_eq!(
            marked(&[("a", "1"), ("z", "2")]),
            [pair("a", "1"), pair("sample_rate", "0.25"), pair("z", "2")]
        );
        assert_eq!(
            marked(&[("sample_rate", "0.5")]),
            [pair("sample_rate", "0.125")]
        );
        for nonsense in ["", "7", "-1", "NaN", "half"] {
            assert_eq!(
                marked(&[("sample_rate", nonsense)]),
                [pair("sample_rate", "0.25")]
            );
        }
    }
}
