//! Events as rows: the schema of the files, and how events become columns of it.

use std::sync::{Arc, LazyLock};

use arrow_array::builder::{
    Int64Builder, MapBuilder, MapFieldNames, StringBuilder, TimestampNanosecondBuilder,
};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use telemetryx_common::{Event, Source};

/// Rows of a row group: as many as DuckDB has in one of its own, so that one group is work for one thread.
const ROW_GROUP_ROWS_MAX: usize = 122_880;
/// Encoded bytes of a row group, where rows are long.
const ROW_GROUP_BYTES_MAX: usize = 16 << 20;
/// The lightest level: the next ones take twice the time for a tenth of the size.
const ZSTD_LEVEL: i32 = 1;
/// What a row takes in memory beside its texts: numbers, times, offsets.
const ROW_BYTES: usize = 64;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let time = |name: &str| {
        let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        Field::new(name, utc, false)
    };
    let names = map_fields();
    let pair = vec![
        text(&names.key),
        Field::new(names.value, DataType::Utf8, true),
    ];
    let pair = Field::new(names.entry, DataType::Struct(pair.into()), false);
    let dictionary = DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into());
    Arc::new(Schema::new(vec![
        text("id"),
        time("ts"),
        Field::new("type", dictionary, false),
        text("source"),
        Field::new("schema_version", DataType::Int64, false),
        Field::new("partition_key", DataType::Utf8, true),
        Field::new("attributes", DataType::Map(Arc::new(pair), false), false),
        text("payload"),
        time("received_at"),
    ]))
});

fn map_fields() -> MapFieldNames {
    MapFieldNames {
        entry: "key_value".to_owned(),
        key: "key".to_owned(),
        value: "value".to_owned(),
    }
}

/// The columns of every file.
pub(super) fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

// No two rows have the same id, and hardly any the same time or payload: a dictionary of those would only cost. Nobody looks
// for payloads between two others, so they have no statistics.
static PROPERTIES: LazyLock<WriterProperties> = LazyLock::new(|| {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default();
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("telemetryx version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX))
        .set_column_bloom_filter_enabled("id".into(), true)
        .set_column_statistics_enabled("payload".into(), EnabledStatistics::None);
    for name in ["id", "payload"] {
        properties = properties.set_column_dictionary_enabled(name.into(), false);
    }
    for name in ["ts", "received_at"] {
        properties = properties
            .set_column_dictionary_enabled(name.into(), false)
            .set_column_encoding(ColumnPath::from(name), Encoding::DELTA_BINARY_PACKED);
    }
    properties.build()
});

/// How the columns are encoded.
pub(super) fn properties() -> WriterProperties {
    PROPERTIES.clone()
}

/// Rows that are not encoded yet.
pub(super) struct Rows {
    id: StringBuilder,
    ts: TimestampNanosecondBuilder,
    types: Types,
    source: StringBuilder,
    schema_version: Int64Builder,
    partition_key: StringBuilder,
    attributes: MapBuilder<StringBuilder, StringBuilder>,
    payload: StringBuilder,
    received_at: TimestampNanosecondBuilder,
    bytes: usize,
}

/// The types of rows. Those of one folder are nearly always of one type.
#[derive(Default)]
struct Types {
    names: Vec<String>,
    keys: Vec<i32>,
}

impl Rows {
    pub(super) fn new() -> Self {
        let text = || StringBuilder::with_capacity(0, 0);
        let time = || TimestampNanosecondBuilder::with_capacity(0).with_timezone("UTC");
        Self {
            id: text(),
            ts: time(),
            types: Types::default(),
            source: text(),
            schema_version: Int64Builder::with_capacity(0),
            partition_key: text(),
            attributes: MapBuilder::with_capacity(Some(map_fields()), text(), text(), 0),
            payload: text(),
            received_at: time(),
            bytes: 0,
        }
    }

    /// Adds a row, and says about how many bytes it takes here.
    pub(super) fn push(&mut self, event: &Event<'_>) -> usize {
        let mut bytes = ROW_BYTES + event.id.len() + event.payload.len();
        self.id.append_value(&event.id);
        self.ts.append_value(event.ts.unix_nanos());
        self.types.push(event.event_type.as_str());
        match &event.source {
            Source::Name(name) => {
                bytes += name.len();
                self.source.append_value(name);
            }
            Source::Number(number) => self.source.append_value(number.to_string()),
        }
        self.schema_version
            .append_value(i64::from(event.schema_version));
        self.partition_key
            .append_option(event.partition_key.as_deref());
        bytes += event.partition_key.as_deref().map_or(0, str::len);
        for (name, value) in &event.attributes {
            self.attributes.keys().append_value(name);
            self.attributes.values().append_value(value);
            bytes += name.len() + value.len() + 16;
        }
        // Cannot fail: each key has a value.
        self.attributes.append(true).unwrap_or_default();
        self.payload.append_value(&event.payload);
        self.received_at
            .append_value(event.received_at.unix_nanos());
        self.bytes += bytes;
        bytes
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.types.keys.len()
    }

    /// About how many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows as columns; it is empty then.
    ///
    /// # Errors
    /// That of Arrow, if the columns do not fit the schema: a fault of ours.
    pub(super) fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        self.bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.ts.finish()),
            self.types.finish()?,
            Arc::new(self.source.finish()),
            Arc::new(self.schema_version.finish()),
            Arc::new(self.partition_key.finish()),
            Arc::new(self.attributes.finish()),
            Arc::new(self.payload.finish()),
            Arc::new(self.received_at.finish()),
        ];
        RecordBatch::try_new(schema(), columns)
    }
}

impl Types {
    fn push(&mut self, name: &str) {
        let is = |key: &i32| {
            self.names
                .get(*key as usize)
                .is_some_and(|have| have == name)
        };
        let key = match self.keys.last() {
            Some(last) if is(last) => *last,
            _ => match self.names.iter().position(|have| have == name) {
                Some(place) => place as i32,
                None => {
                    self.names.push(name.to_owned());
                    self.names.len() as i32 - 1
                }
            },
        };
        self.keys.push(key);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let names = StringArray::from_iter_values(self.names.drain(..));
        let keys = Int32Array::from(std::mem::take(&mut self.keys));
        let types = DictionaryArray::<Int32Type>::try_new(keys, Arc::new(names))?;
        Ok(Arc::new(types))
    }
}
