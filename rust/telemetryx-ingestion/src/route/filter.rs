//! Which events a route wants. A pure function of the event, so that a receipt can ask it again later.

use std::collections::{BTreeMap, HashSet};

use telemetryx_common::{Event, Source};

use crate::config::FilterConfig;

/// A filter; without conditions it lets everything through.
#[derive(Debug, Clone, Default)]
pub struct RouteFilter {
    types: HashSet<String>,
    sources: HashSet<String>,
    attributes: BTreeMap<String, String>,
    left_out: Option<&'static str>,
}

impl RouteFilter {
    /// The filter of the config.
    ///
    /// `left_out`: types that begin so are not wanted, whatever the config says.
    #[must_use]
    pub fn new(config: &FilterConfig, left_out: Option<&'static str>) -> Self {
        Self {
            types: config.types.iter().cloned().collect(),
            sources: config
                .sources
                .iter()
                .map(|source| source.as_str().to_owned())
                .collect(),
            attributes: config.attributes.clone(),
            left_out,
        }
    }

    /// True if nothing can be filtered out.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.types.is_empty()
            && self.sources.is_empty()
            && self.attributes.is_empty()
            && self.left_out.is_none()
    }

    /// True if the route wants the event: one of the types, one of the sources, and all of the attributes.
    #[must_use]
    pub fn wants(&self, event: &Event<'_>) -> bool {
        let source = |names: &HashSet<String>| match &event.source {
            Source::Name(name) => names.contains(name.as_ref()),
            Source::Number(number) => names.contains(number.to_string().as_str()),
        };
        let name = event.event_type.as_str();
        !self
            .left_out
            .is_some_and(|left_out| name.starts_with(left_out))
            && (self.types.is_empty() || self.types.contains(name))
            && (self.sources.is_empty() || source(&self.sources))
            && self
                .attributes
                .iter()
                .all(|(name, value)| event.attribute(name) == Some(value))
    }
}
