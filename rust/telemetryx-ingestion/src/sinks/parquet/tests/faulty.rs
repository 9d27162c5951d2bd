//! A store whose operations fail, and what is in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::super::store::Store;

/// A store in memory, of which each operation can fail, before or after it did its work.
#[derive(Debug)]
pub(super) struct Faulty {
    pub(super) inner: InMemory,
    faults: Vec<Fault>,
    done: AtomicUsize,
    /// How it answers that an object is not there.
    pub(super) not_found: Mutex<Option<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Before,
    /// The answer is lost.
    After,
}

impl Faulty {
    pub(super) fn new(faults: Vec<Fault>) -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            faults,
            done: AtomicUsize::new(0),
            not_found: Mutex::default(),
        })
    }

    /// Over it, as over a store that says `absent` of an object that is not there.
    pub(super) fn store(self: &Arc<Self>, absent: Option<&'static str>) -> Store {
        Store::over(Arc::clone(self) as Arc<dyn ObjectStore>, absent)
    }

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
        if let Some(words) = &*self.not_found.lock() {
            return Err(object_store::Error::NotFound {
                path: path.to_string(),
                source: words.clone().into(),
            });
        }
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
pub(super) async fn ids(store: &InMemory) -> BTreeMap<String, usize> {
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
