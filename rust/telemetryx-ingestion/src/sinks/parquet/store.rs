//! The few things that are done with a store.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use super::{names, plan};

/// A larger object goes in parts of this size.
const PART_BYTES: usize = 8 << 20;
/// Parts of one object that are under way at the same time.
const PARTS_AT_ONCE: usize = 3;
/// The longest text of an error that is shown: stores answer with pages of XML.
const WORDS_MAX: usize = 400;
/// Leftovers of one file that are looked for.
const TORN_MAX: u32 = 8;

/// An open store.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    /// Where it is a folder: which one.
    pub(super) folder: Option<PathBuf>,
    /// How it says, if it speaks HTTP, that an object is not there. Any other 404 may mean that all of the store is not.
    pub(super) absent: Option<&'static str>,
}

impl Store {
    /// Over any object store, for tests.
    #[cfg(test)]
    pub(super) fn over(objects: Arc<dyn ObjectStore>, absent: Option<&'static str>) -> Self {
        Self {
            objects,
            prefix: Path::default(),
            folder: None,
            absent,
        }
    }

    fn path(&self, within: &str) -> Result<Path, String> {
        let prefix = self.prefix.as_ref();
        Path::parse(format!("{prefix}/{within}").trim_start_matches('/'))
            .map_err(|error| error.to_string())
    }

    /// True if it answers and lets us read.
    pub(super) async fn check(&self, route: &str) -> Result<(), String> {
        self.read(&names::probe(route)).await.map(|_| ())
    }

    /// A small object, if it is there.
    pub(super) async fn read(&self, within: &str) -> Result<Option<Bytes>, String> {
        let got = match self.objects.get(&self.path(within)?).await {
            Ok(got) => got,
            Err(error @ object_store::Error::NotFound { .. }) => {
                return match self.is_absent(&error) {
                    true => Ok(None),
                    false => Err(words(&error)),
                };
            }
            Err(error) => return Err(words(&error)),
        };
        if got.meta.size > plan::PLAN_BYTES_MAX as u64 {
            return Err(format!("`{within}` has {} bytes", got.meta.size));
        }
        got.bytes().await.map(Some).map_err(|error| words(&error))
    }

    /// True if nothing is missing but the object.
    fn is_absent(&self, error: &object_store::Error) -> bool {
        match (self.absent, &self.folder) {
            (Some(code), _) => error.to_string().contains(code),
            (None, Some(folder)) => folder.is_dir(),
            (None, None) => true,
        }
    }

    /// Writes an object, over what is there. It is there as a whole, or not at all.
    pub(super) async fn write(&self, within: &str, content: &[Bytes]) -> Result<(), String> {
        let path = self.path(within)?;
        // It would be made anew, on the disk below if another was mounted there.
        if let Some(folder) = self.folder.as_ref().filter(|folder| !folder.is_dir()) {
            return Err(format!("there is no folder {}", folder.display()));
        }
        let length: usize = content.iter().map(Bytes::len).sum();
        let written = if length <= PART_BYTES || self.folder.is_some() {
            let payload = content.iter().cloned().collect();
            self.objects.put(&path, payload).await.map(|_| ())
        } else {
            self.write_in_parts(&path, content).await
        };
        written.map_err(|error| words(&error))
    }

    async fn write_in_parts(&self, path: &Path, content: &[Bytes]) -> object_store::Result<()> {
        let mut upload = self.objects.put_multipart(path).await?;
        let parts: Vec<_> = parts(content)
            .into_iter()
            .map(|part| upload.put_part(part))
            .collect();
        let sent = futures_util::stream::iter(parts)
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect::<()>()
            .await;
        let done = match sent {
            Ok(()) => upload.complete().await.map(|_| ()),
            Err(error) => Err(error),
        };
        if done.is_err() {
            // What cannot be taken back is the store's to tidy up.
            upload.abort().await.ok();
        }
        done
    }

    /// Removes an object; nothing if it is not there.
    pub(super) async fn remove(&self, within: &str) -> Result<(), String> {
        match self.objects.delete(&self.path(within)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(words(&error)),
        }
    }

    /// Removes what a kill left of a file that was not whole yet, in a folder. A bucket has rules for that.
    pub(super) fn remove_torn(&self, within: &str) {
        if let Some(folder) = &self.folder {
            for number in 1..=TORN_MAX {
                let torn = folder.join(format!("{within}#{number}"));
                if std::fs::remove_file(torn).is_err() {
                    break;
                }
            }
        }
    }
}

/// The chunks of a file, put together to parts.
fn parts(content: &[Bytes]) -> Vec<PutPayload> {
    let mut parts = Vec::new();
    let (mut open, mut length) = (Vec::new(), 0);
    for chunk in content {
        open.push(chunk.clone());
        length += chunk.len();
        if length >= PART_BYTES {
            parts.push(open.drain(..).collect());
            length = 0;
        }
    }
    if !open.is_empty() {
        parts.push(open.into_iter().collect());
    }
    parts
}

/// The store's own words on one line, not too many. They come last, after the request's.
pub(super) fn words(error: &object_store::Error) -> String {
    let text = error.to_string();
    let one_line: Vec<_> = text.split_whitespace().collect();
    let one_line: Vec<_> = one_line.join(" ").chars().collect();
    match one_line.len().checked_sub(WORDS_MAX) {
        None | Some(0) => one_line.into_iter().collect(),
        Some(more) => {
            let kept = one_line.iter().enumerate();
            let middle = WORDS_MAX / 2..WORDS_MAX / 2 + more;
            let kept = kept.filter(|(place, _)| !middle.contains(place) || *place == middle.start);
            kept.map(|(place, c)| if place == middle.start { '…' } else { *c })
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::local::LocalFileSystem;

    use super::*;

    #[tokio::test]
    async fn folder_that_vanished_is_not_made_anew() {
        let scratch = tempfile::tempdir().unwrap();
        let lake = scratch.path().join("lake");
        std::fs::create_dir(&lake).unwrap();
        let store = Store {
            objects: Arc::new(LocalFileSystem::new_with_prefix(&lake).unwrap()),
            prefix: Path::default(),
            folder: Some(lake.clone()),
            absent: None,
        };
        let content = [Bytes::from_static(b"x")];
        store.write("type=a/x", &content).await.unwrap();
        std::fs::rename(&lake, scratch.path().join("elsewhere")).unwrap();
        let error = store.write("type=a/y", &content).await.unwrap_err();
        assert!(error.contains("there is no folder"), "{error}");
        assert!(!lake.exists());
    }

    #[test]
    fn long_words_keep_the_end_in_which_the_store_speaks() {
        let error = |long: usize| object_store::Error::Generic {
            store: "S3",
            source: format!("PUT https://s3/{}: 500: full", "é".repeat(long)).into(),
        };
        let long = words(&error(1000));
        assert_eq!(long.chars().count(), WORDS_MAX + 1);
        assert!(long.ends_with("500: full"), "{long}");
        assert!(words(&error(10)).contains("éé: 500"));
    }
}
