//! Findings as events: their type begins with `brain.`, what they leave out is their cause's, and their ids are made of
//! what they are about.

use std::borrow::Cow;
use std::collections::HashMap;

use telemetryx_common::{Event, EventType, FieldSet, Source, Timestamp};
use telemetryx_proto::v1::{self, event};
use uuid::Uuid;

use super::FINDINGS;
use crate::route::EventBatch;

/// Ids of findings are names in this space. Never change it: a batch that comes again would be found in twice.
const IDS: Uuid = Uuid::from_u128(0x2c4d_9b1e_70a3_4f65_8e21_5d0b_93c7_a6f4);
/// What the attributes begin with that say what a finding is about.
const CAUSE: &str = "cause.";
/// As many ids of further causes are named.
const FURTHER_MAX: usize = 20;

/// The events that the findings in `batch` become.
///
/// # Errors
/// How the brain breaks the contract.
pub(super) fn events<'b>(
    findings: Vec<v1::Finding>,
    batch: &'b EventBatch<'_>,
    route: &'b str,
) -> Result<Vec<Event<'b>>, String> {
    let mut found = HashMap::new();
    let made = findings.into_iter().map(|finding| {
        let (cause, further) = causes(&finding.causes, batch)?;
        let event = finding.event.unwrap_or_default();
        if event.r#type.is_empty() {
            return Err("it found something without a type".to_owned());
        }
        let kind = match event.r#type.starts_with(FINDINGS) {
            true => event.r#type.clone(),
            false => format!("{FINDINGS}{}", event.r#type),
        };
        let number: &mut u32 = found.entry((cause.id.as_ref(), kind.clone())).or_default();
        let id = id(route, &kind, *number, &cause.id);
        *number += 1;
        event_of(event, kind, id, cause, &further, route)
    });
    made.collect()
}

/// The event that a finding is about, and the further ones.
fn causes<'b>(
    places: &[u32],
    batch: &'b EventBatch<'_>,
) -> Result<(&'b Event<'b>, Vec<&'b Event<'b>>), String> {
    let at = |place: &u32| {
        let event = batch.events().get(*place as usize);
        event.ok_or_else(|| {
            format!(
                "it found something in event {place} of a batch of {}",
                batch.len()
            )
        })
    };
    let (first, further) = places
        .split_first()
        .ok_or_else(|| "it found something without a cause".to_owned())?;
    let further = further.iter().map(at).collect::<Result<_, _>>()?;
    Ok((at(first)?, further))
}

/// The same each time the same is found in the same event.
fn id(route: &str, kind: &str, number: u32, cause: &str) -> String {
    let name = format!("{route}\n{kind:?}\n{number}\n{cause}");
    Uuid::new_v5(&IDS, name.as_bytes()).to_string()
}

fn event_of<'b>(
    found: v1::Event,
    kind: String,
    id: String,
    cause: &'b Event<'b>,
    further: &[&Event<'_>],
    route: &'b str,
) -> Result<Event<'b>, String> {
    let mut event = Event::new(match found.time_unix_nano {
        0 => cause.ts,
        nanos => Timestamp::from_unix_nanos(nanos),
    });
    event.id = id.into();
    event.event_type = EventType::from_name(kind.into());
    event.source = match found.source {
        Some(event::Source::SourceName(name)) if !name.is_empty() => Source::Name(name.into()),
        Some(event::Source::SourceNumber(number)) => Source::Number(number),
        _ => cause.source.clone(),
    };
    event.schema_version = found.schema_version.max(1);
    event.partition_key = match found.partition_key.is_empty() {
        true => cause.partition_key.clone(),
        false => Some(found.partition_key.into()),
    };
    event.attributes = found
        .attributes
        .into_iter()
        .filter(|(name, _)| !name.starts_with(CAUSE))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let mut link = |name, value| event.attributes.push((Cow::Borrowed(name), value));
    link("cause.id", cause.id.clone());
    link("cause.route", route.into());
    link("cause.ts", cause.ts.to_string().into());
    link(
        "cause.type",
        Cow::Owned(cause.event_type.as_str().to_owned()),
    );
    if !further.is_empty() {
        let ids: Vec<_> = further.iter().map(|event| &*event.id).collect();
        let ids = serde_json::to_string(ids.get(..FURTHER_MAX).unwrap_or(&ids));
        link("cause.further", ids.unwrap_or_default().into());
    }
    if !found.payload.is_empty() {
        let payload = String::from_utf8(found.payload.into());
        let payload =
            payload.map_err(|_| "the payload of what it found is no UTF-8 text".to_owned())?;
        event.payload = payload.into();
    }
    event.given = FieldSet::EMPTY;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use telemetryx_common::wire;

    use super::*;
    use crate::route::Cause;

    fn batch() -> EventBatch<'static> {
        let mut batch = EventBatch::new(Cause::Replay, Timestamp::UNIX_EPOCH);
        for n in 0..3 {
            let mut event = Event::new(Timestamp::from_unix_nanos(1_000_000_000 + n));
            event.id = format!("e-{n}").into();
            event.source = Source::Number(n.cast_unsigned());
            event.event_type = EventType::from_name("login".into());
            batch.push(n.cast_unsigned(), event);
        }
        batch
    }

    fn finding(kind: &str, causes: &[u32]) -> v1::Finding {
        v1::Finding {
            causes: causes.to_vec(),
            event: Some(v1::Event {
                r#type: kind.to_owned(),
                ..v1::Event::default()
            }),
        }
    }

    #[test]
    fn what_is_not_set_is_the_causes_and_the_link_cannot_be_forged() {
        let batch = batch();
        let mut one = finding("odd", &[1, 2, 0]);
        let attributes = [("cause.id", "forged"), ("z", "kept")];
        one.event.as_mut().unwrap().attributes = attributes
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let made = events(vec![one], &batch, "brain").unwrap();
        let mut bytes = Vec::new();
        wire::encode_event(&made[0], &made[0].id, &mut bytes);
        // As it is stored.
        let event = wire::events(&bytes).next().unwrap().unwrap();
        assert_eq!(event.event_type.as_str(), "brain.odd");
        assert_eq!(event.ts, Timestamp::from_unix_nanos(1_000_000_001));
        assert_eq!(event.source, Source::Number(1));
        assert_eq!(event.payload, "null");
        let attributes = [
            ("cause.further", r#"["e-2","e-0"]"#),
            ("cause.id", "e-1"),
            ("cause.route", "brain"),
            ("cause.ts", "1970-01-01T00:00:01.000000001Z"),
            ("cause.type", "login"),
            ("z", "kept"),
        ];
        let found: Vec<_> = event
            .attributes
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(found, attributes);
    }

    #[test]
    fn ids_are_those_of_what_was_found_wherever_it_stands_in_the_answer() {
        let (batch, ids) = (batch(), |events: Vec<Event<'_>>| -> Vec<String> {
            events.iter().map(|event| event.id.to_string()).collect()
        });
        let all = ["a", "a", "b", "brain.a"].map(|kind| finding(kind, &[0]));
        let first = ids(events(all.to_vec(), &batch, "r").unwrap());
        let different: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(different.len(), 4, "{first:?}");
        let other = [finding("a", &[1]), finding("b", &[0]), finding("a", &[0])];
        let again = ids(events(other.to_vec(), &batch, "r").unwrap());
        assert_eq!((&again[1], &again[2]), (&first[2], &first[0]));
        assert!(!first.contains(&again[0]), "of another event");
        assert_ne!(ids(events(all.to_vec(), &batch, "s").unwrap()), first);
    }

    #[test]
    fn what_breaks_the_contract_is_named() {
        let batch = batch();
        let refused = |findings| events(findings, &batch, "r").unwrap_err();
        let text = |mut finding: v1::Finding| {
            finding.event.as_mut().unwrap().payload = vec![0xff].into();
            finding
        };
        for (findings, words) in [
            (vec![finding("a", &[])], "without a cause"),
            (vec![finding("a", &[3])], "event 3 of a batch of 3"),
            (vec![finding("a", &[0, u32::MAX])], "event 4294967295 of"),
            (vec![finding("", &[0])], "without a type"),
            (vec![text(finding("a", &[0]))], "no UTF-8"),
        ] {
            let error = refused(findings);
            assert!(error.contains(words), "{error}");
        }
    }
}
