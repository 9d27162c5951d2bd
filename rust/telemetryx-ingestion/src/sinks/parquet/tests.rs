use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use telemetryx_common::{Event, EventType, Timestamp};

use super::piece::Piece;
use super::store::Store;
use super::writer::{Roll, Writer};
use super::*;
use crate::route::{EventBatch, Origin, Stretch};

const LOG: u128 = 0xabc;

/// A store in memory, of which each operation can fail, before or after it did its work.
#[derive(Debug)]
struct Faulty {
    inner: InMemory,
    faults: Vec<Fault>,
    done: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Before,
    /// The answer is lost.
    After,
}

impl Faulty {
    fn next(&self) -> Fault {
        let place = self.done.fetch_add(1, Ordering::Relaxed);
        self.faults.get(place).copied().unwrap_or(Fault::None)
    }

    fn broken<T>() -> object_store::Result<T> {
        Err(object_store::Error::Generic {
            store: "faulty",
            source: "it broke".into(),
        })
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let fault = self.next();
        if fault == Fault::Before {
            return Self::broken();
        }
        let done = self.inner.put_opts(path, payload, options).await?;
        match fault {
            Fault::None => Ok(done),
            _ => Self::broken(),
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        match self.next() {
            Fault::None => self.inner.get_opts(path, options).await,
            _ => Self::broken(),
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        match self.next() {
            Fault::None => self.inner.delete_stream(paths),
            _ => Box::pin(futures_util::stream::once(async { Self::broken() })),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Every id in the files that readers look at, with how often it is there.
async fn ids(store: &InMemory) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    for object in objects {
        if !object.location.as_ref().starts_with("type=") {
            continue;
        }
        let bytes = store.get(&object.location).await.unwrap();
        let bytes = bytes.bytes().await.unwrap();
        for id in column(bytes, "id") {
            *ids.entry(id).or_default() += 1;
        }
    }
    ids
}

fn column(file: Bytes, name: &str) -> Vec<String> {
    let batches = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let mut values = Vec::new();
    for batch in batches {
        let batch = batch.unwrap();
        let column = batch.column_by_name(name).unwrap();
        let column = column.as_string::<i32>();
        values.extend(column.iter().map(|value| value.unwrap().to_owned()));
    }
    values
}

fn event(id: &str, event_type: u64, hour: u64) -> Event<'static> {
    let ts = i64::try_from(hour).unwrap() * 3_600_000_000_000;
    let mut event = Event::new(Timestamp::from_unix_nanos(ts));
    event.id = id.to_owned().into();
    event.event_type = EventType::from_name(format!("t{event_type}").into());
    event
}

/// The wanted events of the log from `from` up to `end`, as the route delivers them: offsets that it does not want are left
/// out, and a processor adds an event behind a batch for some that it has seen.
fn batch(from: u64, end: u64, unwanted: &[bool]) -> (EventBatch<'static>, Stretch) {
    let stretch = Stretch {
        log: LOG,
        first: from,
        end,
        part: 0,
    };
    let mut batch = EventBatch::new(Cause::Journal(stretch), Timestamp::UNIX_EPOCH);
    for offset in wanted(from, end, unwanted) {
        batch.push(
            offset,
            event(&format!("e{offset}"), offset / 5 % 3, offset % 2),
        );
    }
    for offset in wanted(from, end, unwanted).filter(|offset| offset % 7 == 6) {
        batch.push_derived(event(&format!("d{offset}"), 9, offset % 3));
    }
    (batch, stretch)
}

fn wanted(from: u64, end: u64, unwanted: &[bool]) -> impl Iterator<Item = u64> {
    let is_unwanted = |offset: u64| unwanted.get(offset as usize).copied().unwrap_or(false);
    (from..end).filter(move |offset| !is_unwanted(*offset))
}

const ROLL: Roll = Roll {
    bytes: usize::MAX,
    age: Duration::from_secs(3600),
};

/// Delivers the log up to `end` in batches of `cuts` events, writes after those of `flushes`, and crashes where `crashes` says
/// so: after a failure, between a flush and its commit, between two batches.
async fn run(
    end: u64,
    unwanted: &[bool],
    faults: Vec<Fault>,
    cuts: &[u64],
    flushes: &[bool],
    crashes: &[bool],
) -> Result<(), TestCaseError> {
    let faulty = Arc::new(Faulty {
        inner: InMemory::new(),
        faults,
        done: AtomicUsize::new(0),
    });
    let store = Store::over(Arc::clone(&faulty) as Arc<dyn ObjectStore>);
    let mut crashes = crashes.iter().copied();
    let mut crash = || crashes.next().unwrap_or(false);
    let (mut cuts, mut flushes) = (cuts.iter().cycle(), flushes.iter().cycle());
    let mut committed = 0;
    'process: while committed < end {
        let mut writer = Writer::new("r", ROLL);
        let mut at = committed;
        loop {
            let next = (at + cuts.next().unwrap()).min(end);
            let (events, stretch) = batch(at, next, unwanted);
            // What the route does not want at all, the sink is not handed.
            if !events.is_empty() {
                while writer.open(&store, stretch).await.is_err() {
                    if crash() {
                        continue 'process;
                    }
                }
                writer.take(&events, stretch).unwrap();
            }
            at = next;
            let due = writer.due().is_some_and(|due| due <= Instant::now());
            if due || *flushes.next().unwrap() || at == end {
                if writer.is_rebuilding() && !due {
                    // What was there before the crash is never taken for whole while a part is missing.
                    prop_assert!(at < end && writer.flush(&store).await.is_err());
                    continue;
                }
                let mut flushed = writer.flush(&store).await.is_ok();
                while !flushed && !crash() {
                    prop_assert!(
                        writer.due().is_some(),
                        "it still keeps what it failed to write"
                    );
                    flushed = writer.flush(&store).await.is_ok();
                }
                let there = ids(&faulty.inner).await;
                let doubles: Vec<_> = there
                    .iter()
                    .filter(|(id, times)| id.starts_with('e') && **times > 1)
                    .collect();
                prop_assert!(doubles.is_empty(), "readers see {doubles:?} twice");
                if !flushed || crash() {
                    continue 'process;
                }
                committed = at;
                for offset in wanted(0, committed, unwanted) {
                    let id = format!("e{offset}");
                    prop_assert_eq!(there.get(&id), Some(&1), "{} at {}", id, committed);
                }
                if at == end {
                    // What waited to be rebuilt is, and so what processors made is where it belongs as well.
                    let all = wanted(0, end, unwanted);
                    let derived = all.filter(|offset| offset % 7 == 6);
                    let ids = derived.map(|offset| format!("d{offset}"));
                    let ids =
                        ids.chain(wanted(0, end, unwanted).map(|offset| format!("e{offset}")));
                    prop_assert_eq!(there, ids.map(|id| (id, 1)).collect());
                    break;
                }
            }
            if crash() {
                continue 'process;
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn every_event_is_in_the_files_once_whatever_fails_and_whenever_it_crashes(
        end in 1u64..120,
        unwanted in prop::collection::vec(prop::bool::weighted(0.3), 0..120),
        faults in prop::collection::vec(
            prop_oneof![3 => Just(Fault::None), 1 => Just(Fault::Before), 1 => Just(Fault::After)], 0..80),
        cuts in prop::collection::vec(1u64..25, 1..20),
        flushes in prop::collection::vec(any::<bool>(), 1..20),
        crashes in prop::collection::vec(any::<bool>(), 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(run(end, &unwanted, faults, &cuts, &flushes, &crashes))?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_events_at_the_same_offsets_are_never_written_over_those_before() {
    let faulty = Arc::new(Faulty {
        inner: InMemory::new(),
        // The plan is read and written; the piece is written; then the process is killed.
        faults: Vec::new(),
        done: AtomicUsize::new(0),
    });
    let store = Store::over(Arc::clone(&faulty) as Arc<dyn ObjectStore>);
    for id in ["before", "after"] {
        let mut writer = Writer::new("r", ROLL);
        let stretch = Stretch {
            log: LOG,
            first: 0,
            end: 1,
            part: 0,
        };
        let mut batch = EventBatch::new(Cause::Journal(stretch), Timestamp::UNIX_EPOCH);
        batch.push(0, event(id, 1, 1));
        writer.open(&store, stretch).await.unwrap();
        writer.take(&batch, stretch).unwrap();
        writer.flush(&store).await.unwrap();
        assert!(writer.due().is_none());
    }
    let there: Vec<_> = ids(&faulty.inner).await.into_keys().collect();
    assert_eq!(there, ["after", "before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_cannot_be_understood_stops_writing() {
    let faulty = Arc::new(Faulty {
        inner: InMemory::new(),
        faults: Vec::new(),
        done: AtomicUsize::new(0),
    });
    let store = Store::over(Arc::clone(&faulty) as Arc<dyn ObjectStore>);
    let (_, stretch) = batch(0, 1, &[]);
    let plan = names::plan("r", LOG);
    for (json, words) in [
        ("{", "EOF"),
        (r#"{"version":2,"pieces":[]}"#, "version 2"),
        (
            r#"{"version":1,"pieces":[{"name":"a","first":0,"end":1,"files":[{"path":"x/../a","rows":1}]}]}"#,
            "no piece",
        ),
        (
            r#"{"version":1,"pieces":[{"name":"a","first":0,"end":1,"files":[{"path":"type=x/b","rows":1}]}]}"#,
            "no piece",
        ),
    ] {
        let path = Path::parse(&plan).unwrap();
        faulty.inner.put(&path, json.into()).await.unwrap();
        let refused = Writer::new("r", ROLL).open(&store, stretch).await;
        let refused = refused.unwrap_err();
        assert!(
            refused.contains(words) && refused.contains(&plan),
            "{refused}"
        );
    }
}

#[test]
fn what_is_held_is_what_is_told_and_many_files_are_written_early() {
    let mut writer = Writer::new("r", ROLL);
    let stretch = Stretch {
        log: LOG,
        first: 0,
        end: 1500,
        part: 0,
    };
    let mut many = EventBatch::new(Cause::Journal(stretch), Timestamp::UNIX_EPOCH);
    for offset in 0..1500 {
        many.push(offset, event("x", offset, 0));
    }
    writer.take(&many, stretch).unwrap();
    assert!(writer.due().unwrap() <= Instant::now());

    // Text that cannot be compressed: the file is as large as what came, and both are told.
    let mut piece = Piece::default();
    let mut random = 88_172_645_463_325_252_u64;
    let mut sent = 0;
    for offset in 0..3000 {
        let mut payload = String::new();
        while payload.len() < 2000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            payload.push_str(&format!("{random:016x}"));
        }
        sent += payload.len();
        let mut large = event(&offset.to_string(), 1, 0);
        large.payload = payload.into();
        piece.push(Origin::Journal(offset), 0, &large).unwrap();
    }
    let told = piece.bytes();
    let files = piece.finish().unwrap();
    let written: usize = files[0].content.iter().map(Bytes::len).sum();
    // Hexadecimal digits hold half of their bits.
    assert!(written > sent / 3, "{written} of {sent}");
    assert!(
        told > written * 9 / 10 && told < written * 3 / 2,
        "{told} told, {written} written"
    );
    assert!(files[0].content.iter().all(|chunk| chunk.len() <= 1 << 20));
}

#[test]
fn settings_that_cannot_work_are_named() {
    let construct = |settings: &str| {
        let context = SinkContext {
            route: "r",
            data_dir: std::path::Path::new("."),
            emitter: &crate::sinks::Emitter::default(),
        };
        let made = construct(toml::from_str(settings).unwrap(), context);
        made.map(|_| ()).map_err(|error| error.to_string())
    };
    for (settings, words) in [
        ("", "missing field `url`"),
        ("url = 'http://h/b'", "`url`: it must be s3://"),
        ("url = 's3:///x'", "`url`: it must be s3://"),
        ("url = 'file://host/x'", "`url`: it must be s3://"),
        ("url = 's3://me:secret@b/x'", "belongs under `options`"),
        ("url = 's3://b/x?sig=1'", "belongs under `options`"),
        (
            "url = 's3://b'\noptions = { regio = 'eu' }",
            "`options.regio`: the store has no",
        ),
        (
            "url = 's3://b'\noptions = { region = [] }",
            "`options.region`: it must be",
        ),
        (
            "url = 's3://b'\noptions = { timeout = '1s' }",
            "`options.timeout`: connections are",
        ),
        (
            "url = 'file:///x'\noptions = { region = 'eu' }",
            "`options.region`: the store has no",
        ),
        ("url = 'file:///x'\ntls = {}", "`tls` is set"),
        (
            "url = 's3://b'\ntls = {}\noptions = { endpoint = 'http://h' }",
            "`tls` is set",
        ),
        (
            "url = 's3://b'\ntls = { ca_file = '/no/such' }",
            "`tls.ca_file`",
        ),
        (
            "url = 's3://b'\noptions = { secret_access_key_file = '/no/such' }",
            "`options.secret_access_key_file`",
        ),
        (
            "url = 's3://b'\noptions = { token = 'x', token_file = '/etc/hostname' }",
            "both set",
        ),
        ("url = 's3://b'\nroll = { bytes = '1KiB' }", "`roll.bytes`"),
        ("url = 's3://b'\nroll = { age = '1ms' }", "`roll.age`"),
        (
            "url = 's3://b'\nroll = { size = '1MiB' }",
            "unknown field `size`",
        ),
        ("url = 's3://b'\ntimeout = '0s'", "`timeout`"),
    ] {
        let told = construct(settings).unwrap_err();
        assert!(told.contains(words), "{settings}: {told}");
    }
    for settings in [
        "url = 'file:///not/there/yet'",
        "url = 's3://b/c'\noptions = { endpoint = 'http://h:1', access_key_id = 'a', secret_access_key = 'b' }",
        "url = 's3://b'\noptions = { endpoint = 'http://h:1', virtual_hosted_style_request = false }",
        "url = 'gs://b/c'\noptions = { base_url = 'http://h:1', skip_signature = true }",
        "url = 'az://c/d'\noptions = { account_name = 'a', access_key = 'YQ==', endpoint = 'http://h:1/a' }",
    ] {
        let made = construct(settings);
        assert_eq!(made, Ok(()), "{settings}");
    }
}
