//! The messages of OTLP 1.x as tables: what `to_json.rs` and `from_json.rs` walk. One table for both ways, so that what one
//! of them knows the other knows too; tests hold them against the official types.

/// A message.
pub(super) struct Message {
    pub(super) fields: &'static [Field],
    /// Place in `fields` by field number; [`NONE`] for a number that it does not have.
    places: [u8; NUMBERS],
}

/// A field of a message.
pub(super) struct Field {
    pub(super) number: u32,
    /// `"name":`, as it stands in JSON.
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    pub(super) label: Label,
}

/// What a field's value is, on the wire and in JSON.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Text.
    String,
    /// A varint; `true` or `false`.
    Bool,
    /// Eight bytes; a number, or `"NaN"`, `"Infinity"`, `"-Infinity"`.
    Double,
    /// A varint; a number.
    Uint32,
    /// A varint, as enums are; a number.
    Int32,
    /// A zigzag varint; a number.
    Sint32,
    /// Four bytes; a number.
    Fixed32,
    /// A varint; a number in quotes, as all 64-bit integers.
    Uint64,
    /// A varint.
    Int64,
    /// Eight bytes.
    Fixed64,
    /// Eight bytes.
    Sfixed64,
    /// Bytes; base64.
    Base64,
    /// Bytes of an id; hexadecimal digits.
    Hex,
    /// Another message.
    Message(&'static Message),
}

/// How often a field may be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    /// Once.
    One,
    /// Once, and then none of the others of its message that are marked so. (No message here has two such groups.)
    Oneof,
    /// Any number of times.
    Many,
}

/// Field numbers go up to 16.
const NUMBERS: usize = 17;
const NONE: u8 = u8::MAX;

impl Message {
    const fn of(fields: &'static [Field]) -> Self {
        let mut places = [NONE; NUMBERS];
        let mut place = 0;
        while place < fields.len() {
            places[fields[place].number as usize] = place as u8;
            place += 1;
        }
        Self { fields, places }
    }

    /// The field of that number, and its place.
    #[inline]
    pub(super) fn field(&self, number: u32) -> Option<(usize, &'static Field)> {
        let place = usize::from(*self.places.get(number as usize)?);
        Some((place, self.fields.get(place)?))
    }

    /// The field of that name in JSON.
    pub(super) fn field_named(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name() == name)
    }
}

impl Field {
    /// Its name in JSON.
    pub(super) fn name(&self) -> &'static str {
        self.key.trim_start_matches('"').trim_end_matches("\":")
    }
}

impl Kind {
    /// Whether many of them stand in one field of bytes.
    pub(super) fn is_packed(self) -> bool {
        !matches!(
            self,
            Self::String | Self::Base64 | Self::Hex | Self::Message(_)
        )
    }
}

macro_rules! messages {
    ($($(#[$doc:meta])* $message:ident { $($number:literal $name:literal $label:ident $kind:expr;)* })*) => {
        $($(#[$doc])* pub(super) static $message: Message = Message::of(&[$(Field {
            number: $number,
            key: concat!("\"", $name, "\":"),
            kind: { use Kind::*; $kind },
            label: Label::$label,
        }),*]);)*
    };
}

messages! {
    EXPORT_LOGS { 1 "resourceLogs" Many Message(&RESOURCE_LOGS); }
    EXPORT_TRACE { 1 "resourceSpans" Many Message(&RESOURCE_SPANS); }
    EXPORT_METRICS { 1 "resourceMetrics" Many Message(&RESOURCE_METRICS); }

    RESOURCE_LOGS {
        1 "resource" One Message(&RESOURCE);
        2 "scopeLogs" Many Message(&SCOPE_LOGS);
        3 "schemaUrl" One String;
    }
    SCOPE_LOGS {
        1 "scope" One Message(&SCOPE);
        2 "logRecords" Many Message(&LOG_RECORD);
        3 "schemaUrl" One String;
    }
    LOG_RECORD {
        1 "timeUnixNano" One Fixed64;
        11 "observedTimeUnixNano" One Fixed64;
        2 "severityNumber" One Int32;
        3 "severityText" One String;
        5 "body" One Message(&ANY_VALUE);
        6 "attributes" Many Message(&KEY_VALUE);
        7 "droppedAttributesCount" One Uint32;
        8 "flags" One Fixed32;
        9 "traceId" One Hex;
        10 "spanId" One Hex;
        12 "eventName" One String;
    }

    RESOURCE_SPANS {
        1 "resource" One Message(&RESOURCE);
        2 "scopeSpans" Many Message(&SCOPE_SPANS);
        3 "schemaUrl" One String;
    }
    SCOPE_SPANS {
        1 "scope" One Message(&SCOPE);
        2 "spans" Many Message(&SPAN);
        3 "schemaUrl" One String;
    }
    SPAN {
        1 "traceId" One Hex;
        2 "spanId" One Hex;
        3 "traceState" One String;
        4 "parentSpanId" One Hex;
        16 "flags" One Fixed32;
        5 "name" One String;
        6 "kind" One Int32;
        7 "startTimeUnixNano" One Fixed64;
        8 "endTimeUnixNano" One Fixed64;
        9 "attributes" Many Message(&KEY_VALUE);
        10 "droppedAttributesCount" One Uint32;
        11 "events" Many Message(&SPAN_EVENT);
        12 "droppedEventsCount" One Uint32;
        13 "links" Many Message(&SPAN_LINK);
        14 "droppedLinksCount" One Uint32;
        15 "status" One Message(&STATUS);
    }
    SPAN_EVENT {
        1 "timeUnixNano" One Fixed64;
        2 "name" One String;
        3 "attributes" Many Message(&KEY_VALUE);
        4 "droppedAttributesCount" One Uint32;
    }
    SPAN_LINK {
        1 "traceId" One Hex;
        2 "spanId" One Hex;
        3 "traceState" One String;
        4 "attributes" Many Message(&KEY_VALUE);
        5 "droppedAttributesCount" One Uint32;
        6 "flags" One Fixed32;
    }
    STATUS { 2 "message" One String; 3 "code" One Int32; }

    RESOURCE_METRICS {
        1 "resource" One Message(&RESOURCE);
        2 "scopeMetrics" Many Message(&SCOPE_METRICS);
        3 "schemaUrl" One String;
    }
    SCOPE_METRICS {
        1 "scope" One Message(&SCOPE);
        2 "metrics" Many Message(&METRIC);
        3 "schemaUrl" One String;
    }
    METRIC {
        1 "name" One String;
        2 "description" One String;
        3 "unit" One String;
        12 "metadata" Many Message(&KEY_VALUE);
        5 "gauge" Oneof Message(&GAUGE);
        7 "sum" Oneof Message(&SUM);
        9 "histogram" Oneof Message(&HISTOGRAM);
        10 "exponentialHistogram" Oneof Message(&EXPONENTIAL_HISTOGRAM);
        11 "summary" Oneof Message(&SUMMARY);
    }
    GAUGE { 1 "dataPoints" Many Message(&NUMBER_POINT); }
    SUM {
        2 "aggregationTemporality" One Int32;
        3 "isMonotonic" One Bool;
        1 "dataPoints" Many Message(&NUMBER_POINT);
    }
    HISTOGRAM {
        2 "aggregationTemporality" One Int32;
        1 "dataPoints" Many Message(&HISTOGRAM_POINT);
    }
    EXPONENTIAL_HISTOGRAM {
        2 "aggregationTemporality" One Int32;
        1 "dataPoints" Many Message(&EXPONENTIAL_HISTOGRAM_POINT);
    }
    SUMMARY { 1 "dataPoints" Many Message(&SUMMARY_POINT); }
    NUMBER_POINT {
        7 "attributes" Many Message(&KEY_VALUE);
        2 "startTimeUnixNano" One Fixed64;
        3 "timeUnixNano" One Fixed64;
        4 "asDouble" Oneof Double;
        6 "asInt" Oneof Sfixed64;
        5 "exemplars" Many Message(&EXEMPLAR);
        8 "flags" One Uint32;
    }
    HISTOGRAM_POINT {
        9 "attributes" Many Message(&KEY_VALUE);
        2 "startTimeUnixNano" One Fixed64;
        3 "timeUnixNano" One Fixed64;
        4 "count" One Fixed64;
        5 "sum" One Double;
        6 "bucketCounts" Many Fixed64;
        7 "explicitBounds" Many Double;
        8 "exemplars" Many Message(&EXEMPLAR);
        10 "flags" One Uint32;
        11 "min" One Double;
        12 "max" One Double;
    }
    EXPONENTIAL_HISTOGRAM_POINT {
        1 "attributes" Many Message(&KEY_VALUE);
        2 "startTimeUnixNano" One Fixed64;
        3 "timeUnixNano" One Fixed64;
        4 "count" One Fixed64;
        5 "sum" One Double;
        6 "scale" One Sint32;
        7 "zeroCount" One Fixed64;
        8 "positive" One Message(&BUCKETS);
        9 "negative" One Message(&BUCKETS);
        10 "flags" One Uint32;
        11 "exemplars" Many Message(&EXEMPLAR);
        12 "min" One Double;
        13 "max" One Double;
        14 "zeroThreshold" One Double;
    }
    BUCKETS { 1 "offset" One Sint32; 2 "bucketCounts" Many Uint64; }
    SUMMARY_POINT {
        7 "attributes" Many Message(&KEY_VALUE);
        2 "startTimeUnixNano" One Fixed64;
        3 "timeUnixNano" One Fixed64;
        4 "count" One Fixed64;
        5 "sum" One Double;
        6 "quantileValues" Many Message(&QUANTILE);
        8 "flags" One Uint32;
    }
    QUANTILE { 1 "quantile" One Double; 2 "value" One Double; }
    EXEMPLAR {
        7 "filteredAttributes" Many Message(&KEY_VALUE);
        2 "timeUnixNano" One Fixed64;
        3 "asDouble" Oneof Double;
        6 "asInt" Oneof Sfixed64;
        4 "spanId" One Hex;
        5 "traceId" One Hex;
    }

    RESOURCE {
        1 "attributes" Many Message(&KEY_VALUE);
        2 "droppedAttributesCount" One Uint32;
        3 "entityRefs" Many Message(&ENTITY_REF);
    }
    ENTITY_REF {
        1 "schemaUrl" One String;
        2 "type" One String;
        3 "idKeys" Many String;
        4 "descriptionKeys" Many String;
    }
    SCOPE {
        1 "name" One String;
        2 "version" One String;
        3 "attributes" Many Message(&KEY_VALUE);
        4 "droppedAttributesCount" One Uint32;
    }
    KEY_VALUE {
        1 "key" One String;
        2 "value" One Message(&ANY_VALUE);
        3 "keyStrindex" One Int32;
    }
    ANY_VALUE {
        1 "stringValue" Oneof String;
        2 "boolValue" Oneof Bool;
        3 "intValue" Oneof Int64;
        4 "doubleValue" Oneof Double;
        5 "arrayValue" Oneof Message(&ARRAY_VALUE);
        6 "kvlistValue" Oneof Message(&KEY_VALUE_LIST);
        7 "bytesValue" Oneof Base64;
        8 "stringValueStrindex" Oneof Int32;
    }
    ARRAY_VALUE { 1 "values" Many Message(&ANY_VALUE); }
    KEY_VALUE_LIST { 1 "values" Many Message(&KEY_VALUE); }
}
